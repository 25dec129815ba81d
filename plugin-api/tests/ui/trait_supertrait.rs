#[plugin_api::interface(version = "1.0")]
pub trait Limiter: Clone {
    fn check(&self, key: &str) -> bool;
}

fn main() {}
