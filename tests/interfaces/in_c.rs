use std::ffi::{c_int, c_long};

#[link(name = "reseat_tests_in_c", kind = "static")]
unsafe extern "C" {
    fn reseat_tests_was_constructed() -> c_int;
    fn reseat_tests_calls_on_this_thread() -> c_long;
}

/// Whether the constructor has run, once.
pub fn was_constructed() -> bool {
    // SAFETY: reads two integers that nobody writes to any more.
    unsafe { reseat_tests_was_constructed() == 1 }
}

/// Counts the calls of this function on this thread, in a thread-local of C.
pub fn calls_on_this_thread() -> i64 {
    // SAFETY: uses nothing but the thread's own integer.
    unsafe { reseat_tests_calls_on_this_thread() }
}
