//! A whole plugin: its interface, its state, and the line that exports it.
use plugin_api::prelude::*;

/// Greets people.
#[plugin_api::interface(version = "1.0")]
pub trait Greeter {
    /// Says good day, and counts.
    fn greet(&self, name: &str) -> String;
}

#[derive(Default, Serialize, Deserialize)]
struct Polite {
    greeted: std::sync::Mutex<u64>,
}

impl Plugin for Polite {
    const STATE_VERSION: u32 = 1;
    fn create(_: &Services) -> Result<Self> {
        Ok(Polite::default())
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(self)
    }
    fn restore(_: &Services, saved: Saved) -> Result<Self> {
        saved.decode()
    }
}

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        let mut greeted = self.greeted.lock().expect("no greeting panics");
        *greeted += 1;
        format!("Good day, {name}. You are guest number {greeted}.")
    }
}

export_plugin!(Polite: Greeter, name = "greeter");
