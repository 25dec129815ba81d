#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check<K: Into<String>>(&self, key: K) -> bool;

    fn peek<'a>(&self, key: &'a str) -> bool;

    fn poke(&self) -> bool
    where
        Self: Sized;
}

fn main() {}
