use plugin_api::prelude::*;

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &str) -> bool;
}

struct Buckets {
    taken: std::cell::Cell<u32>,
}

impl Plugin for Buckets {
    fn create(_: &Services) -> Result<Self> {
        Ok(Buckets { taken: 0.into() })
    }
}

impl Limiter for Buckets {
    fn check(&self, _: &str) -> bool {
        self.taken.get() == 0
    }
}

export_plugin!(Buckets: Limiter);

fn main() {}
