#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &'static str) -> bool;

    fn peek(&self, keys: &[&str]) -> bool;

    fn poke(&self, key: Option<&str>) -> bool;
}

fn main() {}
