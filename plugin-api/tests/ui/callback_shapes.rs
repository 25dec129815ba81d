#[plugin_api::interface(version = "1.0")]
pub trait Limiter {
    fn answers(&self, each: &mut dyn FnMut(u32) -> bool);

    fn borrows(&self, each: &mut dyn FnMut(&str));

    fn many(&self, each: &mut dyn FnMut(u8, u8, u8, u8));

    fn shared(&self, each: &dyn Fn(u32));

    fn owned(&self, each: Box<dyn FnMut(u32)>);
}

fn main() {}
