//! What the command line and a host say to each other: one line of JSON each way, or, for `follow`, one line
//! back for each event until either side closes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest request that is read, in bytes.
pub const REQUEST_LIMIT: u64 = 16 << 20;

/// Where a host listens, within its state directory.
pub const SOCKET: &str = "control.sock";

/// A request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Call a method; answers with its result.
    /// `generation`: in that one.
    Call {
        plugin: String,
        method: String,
        arguments: String,
        #[serde(default)]
        generation: Option<u64>,
    },
    /// Answers with the host's status.
    Status,
    /// Reload a plugin; answers with the outcome. `file`: from there, instead of where it came from. `leak_old`: the
    /// old generation is never closed. `dry_run`: nothing is changed. `keep`: so many old generations stay beside the new
    /// one. `canary`: so many of 100 scopes get it first.
    Reload {
        plugin: String,
        #[serde(default)]
        file: Option<PathBuf>,
        #[serde(default)]
        leak_old: bool,
        #[serde(default)]
        dry_run: bool,
        #[serde(default)]
        keep: usize,
        #[serde(default)]
        canary: Option<u8>,
    },
    /// Reload several plugins at one moment, or none of them; answers with the outcome of each.
    ReloadTogether { plugins: Vec<String> },
    /// Publish the candidate; answers with the outcome.
    Promote { plugin: String },
    /// Discard the candidate; answers with null.
    Discard { plugin: String },
    /// Let a generation go that is kept; answers with null.
    Release { plugin: String, generation: u64 },
    /// Go back to the build before; answers with the outcome.
    Rollback { plugin: String },
    /// Cancel the reload that is under way; answers with the step that it was at.
    Cancel { plugin: String },
    /// The builds that are denied. With `allow`, those whose hash begins like this are so no longer: answers with them.
    Denied {
        #[serde(default)]
        allow: Option<String>,
    },
    /// Who waits for whom, as far as a plugin is concerned.
    Why { plugin: String },
    /// Take a plugin out of service; answers with null.
    Unload { plugin: String },
    /// The state of a plugin, as JSON for people.
    State { plugin: String },
    /// The state of a plugin: answers with its size, behind which come as many bytes.
    SaveState { plugin: String },
    /// Have the build that serves begin again with the state in this file; answers with the outcome.
    LoadState { plugin: String, file: PathBuf },
    /// Keep the state for the next host; answers with its size when it is on disk.
    Snapshot { plugin: String },
    /// What is kept of a plugin.
    History { plugin: String },
    /// Would this file be accepted? Answers with what it is.
    Check { file: PathBuf, plugin: String },
    /// What plugins have registered, of one kind or of all.
    Registrations {
        #[serde(default)]
        kind: Option<String>,
    },
    /// Call what is registered under a kind and a key; answers with its result.
    Dispatch { kind: String, key: String, arguments: String },
    /// The last events; with `follow`, then each further one as a line of its own.
    Events { follow: bool },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// What was asked for.
    Ok(Value),
    /// Why not.
    Error(String),
}

impl Response {
    /// The answer of something that may fail.
    pub fn of<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Response {
        match result {
            Ok(value) => match serde_json::to_value(value) {
                Ok(value) => Response::Ok(value),
                Err(error) => Response::Error(format!("the answer cannot be written as JSON: {error}")),
            },
            Err(error) => Response::Error(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_field_too_many_is_refused() {
        let good = r#"{"op":"reload","plugin":"limiter"}"#;
        assert_eq!(
            serde_json::from_str::<Request>(good).unwrap(),
            Request::Reload {
                plugin: "limiter".into(),
                file: None,
                leak_old: false,
                dry_run: false,
                keep: 0,
                canary: None
            }
        );
        for bad in
            [r#"{"op":"reload"}"#, r#"{"op":"reload","plugin":"limiter","now":true}"#, r#"{"op":"fly"}"#]
        {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
