use plugin_api::prelude::*;

/// Says things.
#[plugin_api::interface(version = "1.0")]
pub trait Echo {
    /// The text, with the build's own mark before it.
    fn say(&self, text: &str) -> String;
    /// Which build answers.
    fn build(&self) -> u32;
    /// Something with another layout.
    fn measure(&self, text: &str) -> Measure;
}

/// The fields of [`crate::echo::Measure`] in another order.
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Measure {
    /// How many bytes.
    pub bytes: u64,
    /// How many characters.
    pub letters: u32,
    /// Whether it ends with an exclamation mark.
    pub loud: bool,
}
