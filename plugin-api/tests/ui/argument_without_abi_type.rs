pub struct Request {
    id: u64,
}

#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn check(&self, request: Request) -> bool;
}

fn main() {}
