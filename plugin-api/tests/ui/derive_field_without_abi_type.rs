use plugin_api::prelude::*;

#[derive(AbiType)]
pub struct Request {
    id: u64,
    at: std::time::Instant,
}

#[derive(AbiType)]
pub enum Event {
    Tick(std::time::Instant),
}

fn main() {}
