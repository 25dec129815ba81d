#[plugin_api::interface(version = "one")]
pub trait Limiter0 {
    fn check(&self) -> bool;
}

#[plugin_api::interface(version = "1")]
pub trait Limiter1 {
    fn check(&self) -> bool;
}

#[plugin_api::interface(version = "1.0.0")]
pub trait Limiter2 {
    fn check(&self) -> bool;
}

#[plugin_api::interface(version = "1.01")]
pub trait Limiter3 {
    fn check(&self) -> bool;
}

#[plugin_api::interface(version = 1.0)]
pub trait Limiter4 {
    fn check(&self) -> bool;
}

#[plugin_api::interface(since = "1.0")]
pub trait Limiter5 {
    fn check(&self) -> bool;
}

fn main() {}
