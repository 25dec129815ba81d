#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &String) -> bool;
}

fn main() {}
