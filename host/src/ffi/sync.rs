//! The locks under the books: the standard ones, or loom's when the models run.

#[cfg(reseat_loom)]
pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(reseat_loom))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
