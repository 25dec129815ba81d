#[plugin_api::interface(version = "1.0")]
pub struct Limiter {
    burst: u32,
}

fn main() {}
