#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &mut String) -> bool;
}

fn main() {}
