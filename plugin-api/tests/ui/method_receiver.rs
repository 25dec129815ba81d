#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn exclusive(&mut self) -> bool;

    fn by_value(self) -> bool;

    fn boxed(self: Box<Self>) -> bool;

    fn nothing(key: &str) -> bool;

    fn forever(&'static self) -> bool;
}

fn main() {}
