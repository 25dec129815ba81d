#[plugin_api::interface(version = "1.2")]
pub trait Limiter {
    fn check(&self) -> bool;

    #[since("1.3")]
    fn peek(&self) -> bool;

    #[since("2.0")]
    fn poke(&self) -> bool;

    #[since]
    fn prod(&self) -> bool;
}

fn main() {}
