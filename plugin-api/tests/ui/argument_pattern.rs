#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, (a, b): (u32, u32)) -> bool;
}

fn main() {}
