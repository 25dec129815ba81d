use plugin_api::prelude::*;

#[derive(AbiType)]
pub enum Never {}

fn main() {}
