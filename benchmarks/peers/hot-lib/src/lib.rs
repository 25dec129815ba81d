//! The callee as hot-lib-reloader and hotload want it: a Rust function, exported by its plain name.

/// `a * 31 + b`, wrapping.
#[unsafe(no_mangle)]
pub fn hot_step(a: u64, b: u64) -> u64 {
    a.wrapping_mul(31).wrapping_add(b)
}
