use std::sync::atomic::{AtomicU64, Ordering};

use plugin_api::prelude::*;

/// How many there are: more than fit into a page.
pub const CELLS: usize = 1 << 12;

/// What is counted in.
#[derive(Shared)]
#[repr(C)]
pub struct Cell {
    /// How often it was hit.
    pub hits: AtomicU64,
}

/// A plugin's cells.
pub type Cells = Region<Cell>;

/// Asks for them.
///
/// # Errors
/// The host has none.
pub fn open(host: &Services) -> Result<Cells> {
    host.region("cells", CELLS)
}

/// Adds one.
pub fn hit(cells: &Cells, number: usize) {
    cells[number % CELLS].hits.fetch_add(1, Ordering::Relaxed);
}

/// All of them.
pub fn sum(cells: &[Cell]) -> u64 {
    cells.iter().map(|cell| cell.hits.load(Ordering::Relaxed)).sum()
}

/// Implements `Misc` for a type whose field `cells` is a [`Cells`]: a number hits that cell, anything else asks for the
/// sum. Exports it as plugin `cells`.
#[macro_export]
macro_rules! hits {
    ($plugin:ty) => {
        impl $crate::misc::Misc for $plugin {
            fn call(&self, what: &str) -> plugin_api::Result<String> {
                match what.parse() {
                    Ok(number) => $crate::cells::hit(&self.cells, number),
                    Err(_) => return Ok($crate::cells::sum(&self.cells).to_string()),
                }
                Ok($crate::stamp!().to_string())
            }
        }
        plugin_api::export_plugin!($plugin: $crate::misc::Misc, name = "cells");
    };
}
