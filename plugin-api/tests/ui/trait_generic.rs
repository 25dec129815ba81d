#[plugin_api::interface(version = "1.0")]
pub trait Limiter<K> {
    fn check(&self, key: &str) -> bool;
}

fn main() {}
