use std::time::Duration;

use plugin_api::prelude::*;

use crate::in_process::Loaded;

/// Registers.
#[plugin_api::interface(version = "1.0")]
pub trait Registers {
    /// What the host says to a registration that leads here.
    fn register(&self, method: &str) -> Result<()>;
    /// What it says to a timer.
    fn every(&self, method: &str) -> Result<()>;
    /// What it says to taking one back.
    fn withdraw(&self, key: &str) -> bool;
}

struct Registering {
    host: Services,
}

impl Plugin for Registering {
    fn create(host: &Services) -> Result<Self> {
        Ok(Registering { host: host.clone() })
    }
}

impl Registers for Registering {
    fn register(&self, method: &str) -> Result<()> {
        self.host.register(Registration::route("GET /x").calls(method).with(&[1, 2])?)
    }
    fn every(&self, method: &str) -> Result<()> {
        self.host.every("tick", Duration::from_millis(3), method)
    }
    fn withdraw(&self, key: &str) -> bool {
        self.host.withdraw("route", key)
    }
}

export_plugin!(Registering: Registers, name = "registering");

#[test]
fn a_registration_is_what_the_host_says_to_it() {
    let registering = Loaded::<Registering>::create();
    let registers = registering.enter::<dyn Registers>();
    registers.register("fine").unwrap();
    let error = registers.register("greet").unwrap_err().to_string();
    assert_eq!(error, "route, GET /x, greet, [1,2], 0");
    let error = registers.every("greet").unwrap_err().to_string();
    assert_eq!(error, "timer, tick, greet, , 3000000");
    // What cannot be is not even asked for.
    let error = registers.register("").unwrap_err().to_string();
    assert!(error.contains("says no method to call"), "{error}");
    assert!(registers.withdraw("GET /x").unwrap());
    assert!(!registers.withdraw("GET /y").unwrap());
}
