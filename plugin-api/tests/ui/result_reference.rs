#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: &str) -> &str;

    fn peek(&self) -> Option<&str>;

    fn poke(&self) -> Result<&[u8], String>;
}

fn main() {}
