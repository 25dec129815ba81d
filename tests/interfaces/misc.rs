use plugin_api::prelude::*;

/// Does what its fixture is about.
#[plugin_api::interface(version = "1.0")]
pub trait Misc {
    /// What `what` means is the fixture's own business.
    fn call(&self, what: &str) -> Result<String>;
}

/// Stays inside of a call.
#[plugin_api::interface(version = "1.0")]
pub trait Blocker {
    /// See [`crate::held::hold`]; returns which build that was.
    fn hold(&self, until: &str) -> u32;
    /// Which build answers.
    fn build(&self) -> u32;
}

/// Results that do not fit into a register.
#[plugin_api::interface(version = "1.0")]
pub trait Big {
    /// `len` bytes, 0 to 255 again and again; `len` is a multiple of 256.
    fn bytes(&self, len: u64) -> Vec<u8>;
    /// A text of `len` bytes.
    fn text(&self, len: u64) -> String;
    /// What was lent, back again.
    fn back(&self, bytes: &[u8]) -> Vec<u8>;
}

/// Calls its caller.
#[plugin_api::interface(version = "1.0")]
pub trait Feeder {
    /// Hands 1 to `n` to `each`, and returns which build that was.
    fn feed(&self, n: u32, each: &mut dyn FnMut(u32)) -> u32;
    /// Which build answers.
    fn build(&self) -> u32;
}

/// A whole plugin that implements [`Misc`] and answers with what it is told; exported under this name.
#[macro_export]
macro_rules! repeats {
    ($name:literal) => {
        struct Repeats;

        impl plugin_api::Plugin for Repeats {
            fn create(_: &plugin_api::Services) -> plugin_api::Result<Self> {
                Ok(Repeats)
            }
        }

        impl $crate::misc::Misc for Repeats {
            fn call(&self, what: &str) -> plugin_api::Result<String> {
                Ok(what.to_owned())
            }
        }

        plugin_api::export_plugin!(Repeats: $crate::misc::Misc, name = $name);
    };
}
