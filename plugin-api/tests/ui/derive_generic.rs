use plugin_api::prelude::*;

#[derive(AbiType)]
pub struct Request<T> {
    id: T,
}

#[derive(AbiType)]
pub struct Lent<'a> {
    key: &'a str,
}

fn main() {}
