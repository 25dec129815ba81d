use std::sync::Mutex;

use plugin_api::abi::RawStopping;
use plugin_api::prelude::*;
use plugin_api::testing::Instance;

use crate::in_process::Loaded;
use crate::life::Any;

/// Keeps what it is told at its end.
struct Listener;

static HEARD: Mutex<Vec<Stopping>> = Mutex::new(Vec::new());

impl Plugin for Listener {
    fn create(_: &Services) -> Result<Self> {
        Ok(Listener)
    }
    fn stopping(&self, why: Stopping) {
        HEARD.lock().unwrap().push(why);
    }
}

impl Any for Listener {
    fn any(&self) -> u32 {
        1
    }
}

export_plugin!(Listener: Any, name = "listener");

#[test]
fn the_reason_of_an_end_crosses_as_a_number_and_one_that_is_not_known_stays_defined() {
    use Stopping::{HostEnds, NeverServed, Other, Removed, Replaced, RolledBack};
    let reasons = [NeverServed, Replaced, RolledBack, Removed, HostEnds, Other(77)];
    for (number, reason) in [0, 1, 2, 3, 4, 77].into_iter().zip(reasons) {
        assert_eq!(reason.raw(), RawStopping(number));
        Loaded::<Listener>::create().stopping(RawStopping(number)).unwrap();
    }
    Instance::<Listener>::create(serde_json::json!({})).unwrap().stop(HostEnds);
    drop(Instance::<Listener>::create(serde_json::json!({})).unwrap());
    let heard = HEARD.lock().unwrap();
    assert_eq!(heard[..6], reasons);
    assert_eq!(heard[6..], [HostEnds, Removed]);
}
