use plugin_api::prelude::*;

const BASE: isize = 10;

#[derive(AbiType)]
pub enum Signal {
    Stop = BASE,
    Go,
}

#[derive(AbiType)]
pub enum Wide {
    Far = 5_000_000_000,
}

fn main() {}
