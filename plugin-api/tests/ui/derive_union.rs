use plugin_api::prelude::*;

#[derive(AbiType)]
pub union Number {
    int: u32,
    float: f32,
}

fn main() {}
