#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &dyn ToString) -> bool;

    fn peek(&self, key: Box<dyn ToString>) -> bool;
}

fn main() {}
