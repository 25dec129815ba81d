#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    type Key;
    const LIMIT: u32;
    fn check(&self, key: &str) -> bool;
}

fn main() {}
