#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self) -> bool;

    #[cfg(feature = "peek")]
    fn peek(&self) -> bool;

    fn poke(&self, #[cfg(unix)] key: &str) -> bool;
}

fn main() {}
