#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, key: *const u8) -> bool;
}

fn main() {}
