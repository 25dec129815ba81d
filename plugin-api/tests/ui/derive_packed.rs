use plugin_api::prelude::*;

#[derive(AbiType, Clone, Copy)]
#[repr(C, packed)]
pub struct Tight {
    flag: bool,
    id: u64,
}

#[derive(AbiType, Clone, Copy)]
#[repr(C, align(64))]
pub struct Wide {
    id: u64,
}

fn main() {}
