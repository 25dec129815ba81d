use plugin_api::prelude::*;

#[derive(AbiType)]
pub struct Tree {
    name: String,
    children: Vec<Tree>,
}

#[derive(AbiType)]
pub enum List {
    End,
    Link(Vec<Self>),
}

fn main() {}
