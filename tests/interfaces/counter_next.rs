/// Counts, and wants to know by whom: no build of this fits a caller of [`crate::counter::Counter`].
#[plugin_api::interface(version = "2.0")]
pub trait Counter {
    /// Adds to the total and returns it.
    fn add(&self, n: u64, by: &str) -> u64;
}
