use std::sync::atomic::{AtomicBool, AtomicU64};

use plugin_api::prelude::*;

#[derive(Shared)]
#[repr(C)]
pub struct Cell {
    hits: AtomicU64,
    total: u64,
    is_open: AtomicBool,
    name: String,
}

fn main() {}
