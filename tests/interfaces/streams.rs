use std::fs::File;
use std::sync::{Condvar, Mutex};

/// Calls that last until they are told to leave.
#[derive(Default)]
pub struct Streams {
    /// How often they were.
    told: Mutex<u64>,
    changed: Condvar,
}

impl Streams {
    /// Tells that it is inside, as [`crate::held::hold`] does, and stays until everybody was told to leave so often.
    ///
    /// # Panics
    /// The file that tells cannot be created.
    pub fn stay(&self, until: &str, times: u64) {
        let told = self.told.lock().expect("nobody panics with it");
        File::create(format!("{until}.in")).expect("the test's directory can be written");
        let enough = *told + times;
        drop(self.changed.wait_while(told, |told| *told < enough));
    }

    /// Everybody is to leave.
    ///
    /// # Panics
    /// Somebody has with the lock.
    pub fn leave(&self) {
        *self.told.lock().expect("nobody panics with it") += 1;
        self.changed.notify_all();
    }

    /// How often that was.
    ///
    /// # Panics
    /// Somebody has with the lock.
    pub fn told(&self) -> u64 {
        *self.told.lock().expect("nobody panics with it")
    }
}

/// Implements [`Misc`](crate::misc::Misc) for a type whose field `streams` is a [`Streams`], and exports it: a path is where
/// to stay, with `twice ` before it until it was told so twice; `told?` asks how often that was.
#[macro_export]
macro_rules! streams {
    ($plugin:ty, $name:literal) => {
        impl $crate::misc::Misc for $plugin {
            fn call(&self, what: &str) -> plugin_api::Result<String> {
                match what.strip_prefix("twice ") {
                    _ if what == "told?" => {}
                    Some(until) => self.streams.stay(until, 2),
                    None => self.streams.stay(what, 1),
                }
                Ok(self.streams.told().to_string())
            }
        }
        plugin_api::export_plugin!($plugin: $crate::misc::Misc, name = $name);
    };
}
