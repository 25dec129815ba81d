use crate::echo::Measure;

/// Says things, softly too.
#[plugin_api::interface(version = "1.1")]
pub trait Echo {
    /// The text, with the build's own mark before it.
    fn say(&self, text: &str) -> String;
    /// Which build answers.
    fn build(&self) -> u32;
    /// Something with a layout.
    fn measure(&self, text: &str) -> Measure;
    /// The text in small letters.
    #[since("1.1")]
    fn whisper(&self, text: &str) -> String;
}
