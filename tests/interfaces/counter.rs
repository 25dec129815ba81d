use std::sync::atomic::{AtomicU64, Ordering};

use plugin_api::prelude::*;

/// Counts.
#[plugin_api::interface(version = "1.0")]
pub trait Counter {
    /// Adds to the total and returns it.
    fn add(&self, n: u64) -> u64;
    /// The total.
    fn get(&self) -> u64;
    /// Which build answers.
    fn build(&self) -> u32;
    /// Stays inside, see [`crate::held::hold`]; returns which build that was.
    fn hold(&self, until: &str) -> u32;
}

/// The state of counters in version 2: a field named `total`. In version 1 it was the bare number.
#[derive(Default, Serialize, Deserialize)]
pub struct Count {
    total: AtomicU64,
}

impl Count {
    /// From state version 1.
    pub fn new(total: u64) -> Count {
        Count { total: AtomicU64::new(total) }
    }

    /// See [`Counter::add`].
    pub fn add(&self, n: u64) -> u64 {
        self.total.fetch_add(n, Ordering::SeqCst) + n
    }

    /// See [`Counter::get`].
    pub fn get(&self) -> u64 {
        self.total.load(Ordering::SeqCst)
    }
}

/// Implements [`Counter`] for a type whose field `count` is a [`Count`], and exports it as plugin `counter`.
#[macro_export]
macro_rules! counts {
    ($plugin:ty, $build:expr) => {
        impl $crate::counter::Counter for $plugin {
            fn add(&self, n: u64) -> u64 {
                self.count.add(n)
            }
            fn get(&self) -> u64 {
                self.count.get()
            }
            fn build(&self) -> u32 {
                $build
            }
            fn hold(&self, until: &str) -> u32 {
                $crate::held::hold(until);
                $build
            }
        }
        plugin_api::export_plugin!($plugin: $crate::counter::Counter, name = "counter");
    };
}
