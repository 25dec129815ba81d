use crate::echo::Measure;

/// Says things, as often as told.
#[plugin_api::interface(version = "1.0")]
pub trait Echo {
    /// The text, repeated.
    fn say(&self, text: &str, times: u32) -> String;
    /// Which build answers.
    fn build(&self) -> u32;
    /// Something with a layout.
    fn measure(&self, text: &str) -> Measure;
}
