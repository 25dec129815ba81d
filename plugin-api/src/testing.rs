//! Running a plugin in its own tests, in process and without a host.
//!
//! ```
//! # use plugin_api::prelude::*;
//! # struct Greeter;
//! # impl Plugin for Greeter { fn create(_: &Services) -> Result<Self> { Ok(Greeter) } }
//! let host = plugin_api::testing::services("greeter", serde_json::json!({ "greeting": "hello" }));
//! let plugin = Greeter::create(&host)?;
//! # anyhow::Ok(())
//! ```

use anyhow::Result;

use crate::plugin::Plugin;
use crate::services::Services;
use crate::state::{Saved, StateWriter};

/// Services without a host: the given configuration, log lines on standard error, counters that start at 0.
pub fn services(plugin: &'static str, config: serde_json::Value) -> Services {
    Services::new(plugin, config.to_string())
}

/// Writes the state in a version, as a host has it written: appends a frame.
///
/// # Errors
/// Whatever `save` or `save_as` refuses.
pub fn save<P: Plugin>(plugin: &P, version: u32, frame: &mut Vec<u8>) -> Result<()> {
    let mut append = |bytes: &[u8]| frame.extend_from_slice(bytes);
    let mut writer = StateWriter::new(version, &mut append);
    plugin.save_to(&mut writer)?;
    writer.finish()
}

/// What a reload does to the state: saves it, frames it, checks the frame and restores it, perhaps as
/// another build's type.
///
/// # Errors
/// Whatever `save` or `restore` refuses.
pub fn hand_over<Old: Plugin, New: Plugin>(old: &Old, host: &Services) -> Result<New> {
    let mut frame = Vec::new();
    save(old, Old::STATE_VERSION, &mut frame)?;
    New::restore(host, Saved::from_frame(&frame)?)
}
