use plugin_api::prelude::*;

#[derive(AbiType, Clone)]
#[repr(C)]
pub struct Request {
    id: u64,
    key: String,
}

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, requests: &[Request]) -> bool;
}

fn main() {}
