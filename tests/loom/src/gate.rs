//! The gate, with hooks that last as long as one run of a model; the gate's own last as long as the process.

#[path = "../../../host/src/gate/mod.rs"]
mod real;

pub use real::*;
use std::cell::Cell;

std::thread_local! {
    // loom runs all threads of a model on one thread of the system, so they share these.
    static ERRAND: Cell<Option<fn()>> = const { Cell::new(None) };
    static EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// A run begins.
pub fn forget_hooks() {
    ERRAND.set(None);
    EXIT.set(None);
}

/// As in the gate: the first setting stays.
pub fn set_errand_hook(hook: fn()) {
    ERRAND.set(ERRAND.get().or(Some(hook)));
    real::set_errand_hook(|| ERRAND.get().into_iter().for_each(|hook| hook()));
}

/// As in the gate: the first setting stays.
pub fn on_thread_exit(hook: fn()) {
    EXIT.set(EXIT.get().or(Some(hook)));
    real::on_thread_exit(|| EXIT.get().into_iter().for_each(|hook| hook()));
}
