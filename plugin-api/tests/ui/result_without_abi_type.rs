pub struct Decision {
    allowed: bool,
}

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &str) -> Vec<Decision>;
}

fn main() {}
