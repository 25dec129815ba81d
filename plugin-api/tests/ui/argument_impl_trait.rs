#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: impl Into<String>, keys: Vec<impl Copy>) -> bool;
}

fn main() {}
