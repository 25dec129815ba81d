#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self) -> impl Iterator<Item = u32>;

    fn peek(&self) -> Box<dyn std::any::Any>;
}

fn main() {}
