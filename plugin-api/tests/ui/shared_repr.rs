use std::sync::atomic::AtomicU64;

use plugin_api::prelude::*;

#[derive(Shared)]
pub struct AsTheCompilerLikes {
    hits: AtomicU64,
}

#[derive(Shared)]
#[repr(u8)]
pub enum State {
    Open,
    Closed,
}

#[derive(Shared)]
#[repr(C)]
pub union Either {
    hits: std::mem::ManuallyDrop<AtomicU64>,
}

#[derive(Shared)]
#[repr(C)]
pub struct Of<T> {
    hits: T,
}

fn main() {}
