//! What the module exports. relib reads this file, and allows nothing but the trait in it.

/// The callee.
pub trait Exports {
    /// `a * 31 + b`, wrapping.
    fn step(a: u64, b: u64) -> u64;
}
