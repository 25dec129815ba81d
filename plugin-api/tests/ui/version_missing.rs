#[plugin_api::interface]
pub trait Limiter {
    fn check(&self) -> bool;
}

#[plugin_api::interface()]
pub trait Other {
    fn check(&self) -> bool;
}

fn main() {}
