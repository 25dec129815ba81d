#[plugin_api::interface(version = "1.0")]
pub unsafe trait Limiter {
    fn check(&self, key: &str) -> bool;
}

fn main() {}
