#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, other: &Self) -> bool;
}

fn main() {}
