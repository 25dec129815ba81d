use plugin_api::prelude::*;

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &str) -> bool;
}

struct Buckets;

impl Limiter for Buckets {
    fn check(&self, _: &str) -> bool {
        true
    }
}

export_plugin!(Buckets: Limiter);

fn main() {}
