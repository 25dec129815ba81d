pub struct Silent;

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self) -> std::result::Result<u32, Silent>;
}

fn main() {}
