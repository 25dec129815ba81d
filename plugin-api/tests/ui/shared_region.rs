use plugin_api::prelude::*;

struct Counting {
    hits: Region<u64>,
}

fn main() {}
