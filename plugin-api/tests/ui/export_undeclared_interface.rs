use plugin_api::prelude::*;

pub trait Limiter: Send + Sync {
    fn check(&self, key: &str) -> bool;
}

struct Buckets;

impl Plugin for Buckets {
    fn create(_: &Services) -> Result<Self> {
        Ok(Buckets)
    }
}

impl Limiter for Buckets {
    fn check(&self, _: &str) -> bool {
        true
    }
}

export_plugin!(Buckets: Limiter);

fn main() {}
