#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self) -> std::collections::HashMap<String, u32>;
}

fn main() {}
