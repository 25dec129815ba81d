use plugin_api::prelude::*;

pub struct Limiter;

struct Buckets;

impl Plugin for Buckets {
    fn create(_: &Services) -> Result<Self> {
        Ok(Buckets)
    }
}

export_plugin!(Buckets: Limiter);

fn main() {}
