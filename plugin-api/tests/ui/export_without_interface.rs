use plugin_api::prelude::*;

struct Buckets;

impl Plugin for Buckets {
    fn create(_: &Services) -> Result<Self> {
        Ok(Buckets)
    }
}

export_plugin!(Buckets);

fn main() {}
