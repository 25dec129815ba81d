//! One function, reachable as a method of an interface, through a table, and by name.

use callee_interface::{Callee, Order, Table};
use plugin_api::prelude::*;

struct Impl;

impl Plugin for Impl {
    fn create(_: &Services) -> Result<Self> {
        Ok(Impl)
    }
}

#[inline(always)]
fn step(a: u64, b: u64) -> u64 {
    a.wrapping_mul(31).wrapping_add(b)
}

impl Callee for Impl {
    fn step(&self, a: u64, b: u64) -> u64 {
        step(a, b)
    }

    fn price(&self, mut order: Order) -> Order {
        order.total = order.lines.iter().map(|line| u64::from(line.count) * line.price).sum();
        order
    }

    fn table(&self) -> u64 {
        (&raw const CALLEE_TABLE).addr() as u64
    }
}

unsafe extern "C" fn table_step(_: *const u8, a: u64, b: u64) -> u64 {
    step(a, b)
}

/// For calls through a plain pointer.
#[unsafe(no_mangle)]
pub static CALLEE_TABLE: Table = Table { step: table_step };

/// Which build this is.
#[unsafe(no_mangle)]
pub static CALLEE_BUILD: &str = match option_env!("CALLEE_BUILD") {
    Some(build) => build,
    None => "",
};

/// For calls by name.
#[unsafe(no_mangle)]
pub extern "C" fn callee_step(a: u64, b: u64) -> u64 {
    step(a, b)
}

plugin_api::export_plugin!(Impl: Callee);
