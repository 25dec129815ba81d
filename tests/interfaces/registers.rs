use plugin_api::prelude::*;

/// What fixtures register methods of.
#[plugin_api::interface(version = "1.0")]
pub trait Registers {
    /// Which build answers, and to whom.
    fn answer(&self, name: &str) -> String;
    /// The same in other words.
    fn greet(&self, name: &str) -> String;
    /// Counts, in the host's counter `told`.
    fn told(&self, text: &str) -> u64;
    /// Registers `answer` in the middle of a call.
    fn register(&self, kind: &str, key: &str) -> Result<()>;
    /// Takes a registration back.
    fn withdraw(&self, kind: &str, key: &str) -> bool;
    /// Stays inside, see [`crate::held::hold`].
    fn hold(&self, until: &str) -> String;
}

/// What is called every so often.
#[plugin_api::interface(version = "1.0")]
pub trait Ticks {
    /// Counts, in the host's counter `ticks`.
    fn tick(&self);
    /// Stays inside as long as the fixture's configuration says.
    fn last(&self);
    /// Fails.
    fn fail(&self) -> Result<()>;
}

/// Implements [`Registers`] for a type whose field `host` is its `Services`.
#[macro_export]
macro_rules! registers {
    ($plugin:ty, $build:expr) => {
        impl $crate::registers::Registers for $plugin {
            fn answer(&self, name: &str) -> String {
                format!("{} answers {name}", $build)
            }
            fn greet(&self, name: &str) -> String {
                format!("{} greets {name}", $build)
            }
            fn told(&self, _: &str) -> u64 {
                let counter = self.host.counter("told");
                counter.add(1);
                counter.get()
            }
            fn register(&self, kind: &str, key: &str) -> plugin_api::Result<()> {
                self.host.register(plugin_api::Registration::new(kind, key).calls("answer"))
            }
            fn withdraw(&self, kind: &str, key: &str) -> bool {
                self.host.withdraw(kind, key)
            }
            fn hold(&self, until: &str) -> String {
                $crate::held::hold(until);
                $build.to_string()
            }
        }
    };
}
