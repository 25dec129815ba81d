#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    async fn check(&self, key: &str) -> bool;

    unsafe fn peek(&self) -> bool;

    extern "C" fn poke(&self) -> bool;
}

fn main() {}
