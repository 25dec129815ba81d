use plugin_api::prelude::*;

/// Says things.
#[plugin_api::interface(version = "1.0")]
pub trait Echo {
    /// The text, with the build's own mark before it.
    fn say(&self, text: &str) -> String;
    /// Which build answers.
    fn build(&self) -> u32;
    /// Something with a layout.
    fn measure(&self, text: &str) -> Measure;
}

/// What [`Echo::measure`] finds.
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Measure {
    /// Whether it ends with an exclamation mark.
    pub loud: bool,
    /// How many characters.
    pub letters: u32,
    /// How many bytes.
    pub bytes: u64,
}

/// What most implementations of [`Echo::measure`] say.
pub fn measure(text: &str) -> Measure {
    Measure { loud: text.ends_with('!'), letters: text.chars().count() as u32, bytes: text.len() as u64 }
}

/// Implements [`Echo`] for a type, saying `v` and the number, and exports it as plugin `echo`.
#[macro_export]
macro_rules! echoes {
    ($plugin:ty, $build:expr) => {
        impl $crate::echo::Echo for $plugin {
            fn say(&self, text: &str) -> String {
                format!("v{}: {text}", $build)
            }
            fn build(&self) -> u32 {
                $build
            }
            fn measure(&self, text: &str) -> $crate::echo::Measure {
                $crate::echo::measure(text)
            }
        }
        plugin_api::export_plugin!($plugin: $crate::echo::Echo, name = "echo");
    };
}
