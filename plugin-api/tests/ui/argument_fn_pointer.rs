#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, done: fn(u32) -> bool) -> bool;
}

fn main() {}
