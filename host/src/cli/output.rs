//! What people read.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use reseat::HostStatus;
use serde_json::Value;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::uptime;

use super::args::LogFormat;
use super::progress;
use super::time::{now_ms, roughly};
use crate::serve::access::Sign;

/// Writes what happens to standard error; `RUST_LOG` chooses what, unless only warnings are asked for.
pub fn log(format: LogFormat, quiet: bool) {
    let filter = match quiet {
        true => EnvFilter::new("warn"),
        false => wished(&std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default()),
    };
    if quiet {
        progress::hush();
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| progress::Log);
    match format {
        LogFormat::Human => builder
            .with_target(false)
            .with_timer(uptime())
            .with_ansi(std::io::stderr().is_terminal())
            .compact()
            .init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// What `RUST_LOG` wants to see. Empty, it wants nothing in particular.
fn wished(text: &str) -> EnvFilter {
    if text.trim().is_empty() {
        return EnvFilter::new("info");
    }
    EnvFilter::try_new(text).unwrap_or_else(|error| {
        eprintln!(
            "RUST_LOG=`{text}` is not understood ({error}): `info` holds; e.g. RUST_LOG=debug,reseat=trace"
        );
        EnvFilter::new("info")
    })
}

/// How this program is called from a shell.
pub fn program() -> String {
    let typed = std::env::args().next().unwrap_or_else(|| "reseat".into());
    let here = std::env::current_dir().ok().and_then(|here| {
        let relative = Path::new(&typed).strip_prefix(here).ok()?;
        relative.to_str().map(str::to_owned)
    });
    here.unwrap_or(typed)
}

/// The builds that are denied, or that were.
pub fn denials(denials: &Value, cleared: bool) -> String {
    let denials = denials.as_array().map(Vec::as_slice).unwrap_or_default();
    if denials.is_empty() {
        return "no build is denied\n".into();
    }
    let mut text = String::new();
    for denial in denials {
        let word = |key: &str| denial[key].as_str().unwrap_or("?").to_owned();
        let hash = word("hash");
        let now = if cleared { "is allowed again" } else { "is denied" };
        let _ = writeln!(
            text,
            "{} {} {} {now}: {}",
            hash.get(..8).unwrap_or(&hash),
            word("plugin"),
            word("version"),
            word("reason")
        );
    }
    text
}

/// What is kept of a plugin.
pub fn history(plugin: &str, history: &Value) -> String {
    let pairs = history.as_array().map(Vec::as_slice).unwrap_or_default();
    if pairs.is_empty() {
        return format!("nothing is kept of {plugin}\n");
    }
    let mut text = String::new();
    for (number, pair) in pairs.iter().enumerate() {
        let word = |key: &str| pair[key].as_str().unwrap_or("?").to_owned();
        let hash = word("hash");
        let _ = writeln!(
            text,
            "{}: build {} {}, took over {}{}",
            if number == 0 { "serves" } else { "before" },
            word("version"),
            hash.get(..8).unwrap_or(&hash),
            ago(&pair["at_ms"]),
            if pair["proven"] == true { "" } else { ", has yet to outlive a minute" },
        );
        let state = &pair["state"];
        let _ = match (state["version"].as_u64(), state["bytes"].as_u64()) {
            (Some(version), Some(bytes)) => writeln!(
                text,
                "  state version {version}, {bytes} bytes, saved {}: {}",
                ago(&state["at_ms"]),
                state["path"].as_str().unwrap_or("being written")
            ),
            _ => writeln!(text, "  no state"),
        };
    }
    text
}

/// How long ago something was, for people.
fn ago(at_ms: &Value) -> String {
    let since = now_ms().saturating_sub(at_ms.as_u64().unwrap_or_default());
    format!("{} ago", roughly(Duration::from_millis(since)))
}

/// What is loaded and how to call it: the lines that a host begins with.
pub fn greeting(status: &HostStatus, http: Option<&Sign>) -> String {
    let mut text = String::new();
    for plugin in &status.plugins {
        let (Some(version), Some(generation)) = (&plugin.version, plugin.generation) else { continue };
        let methods = plugin.interfaces.iter().flat_map(|interface| &interface.methods);
        let names: Vec<_> = methods.map(|method| method.name.as_str()).collect();
        let file = plugin.file.display();
        let _ = writeln!(
            text,
            "{} {version}, generation {generation}, from {file}: {}",
            plugin.name,
            names.join(", ")
        );
    }
    if text.is_empty() {
        text.push_str("no plugin is loaded yet\n");
    }
    let socket = status.state_dir.join(crate::serve::protocol::SOCKET);
    match http {
        Some(Sign { url, token, .. }) => {
            let _ = writeln!(text, "serving on {url}/?token={token} and {}", socket.display());
        }
        None => {
            let _ = writeln!(text, "serving on {}", socket.display());
        }
    }
    let first = status.plugins.iter().find_map(|plugin| {
        let method = plugin.interfaces.first()?.methods.first()?;
        Some((plugin.name.as_str(), method.name.as_str(), method.example.to_string()))
    });
    if let Some((plugin, method, example)) = first {
        let state = state_flag(&status.state_dir);
        let _ = write!(text, "call it: {} call {plugin} {method} '{example}'{state}", program());
        if let Some(Sign { url, file, .. }) = http {
            let bearer = format!("-H \"Authorization: Bearer $(cat '{}')\"", file.display());
            let _ = write!(text, "   or: curl {bearer} -d '{example}' {url}/call/{plugin}/{method}");
        }
        text.push('\n');
    }
    text
}

fn state_flag(state_dir: &Path) -> String {
    if state_dir == Path::new(".reseat") {
        String::new()
    } else {
        format!(" --state-dir {}", state_dir.display())
    }
}

/// What `check` says of a library, from JSON.
pub fn inspection(inspection: &Value) -> String {
    let text = |name: &str| inspection[name].as_str().unwrap_or("?").to_owned();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "plugin {} {}, {} build for {}, rustc {}",
        text("plugin"),
        text("version"),
        text("profile"),
        text("target"),
        text("rustc")
    );
    let state = &inspection["state"];
    let _ = match [&state["writes"], &state["writes_from"], &state["reads_from"]].map(Value::as_u64) {
        [Some(writes), Some(writes_from), Some(reads_from)] => {
            let older = if writes_from < writes { format!("{writes_from}..=") } else { String::new() };
            writeln!(out, "state: writes version {older}{writes}, reads {reads_from}..={writes}")
        }
        _ => writeln!(out, "state: none"),
    };
    for interface in inspection["interfaces"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "interface {} {}",
            interface["name"].as_str().unwrap_or("?"),
            interface["version"].as_str().unwrap_or("?")
        );
        for method in interface["methods"].as_array().into_iter().flatten() {
            let _ = writeln!(out, "  {}", method["signature"].as_str().unwrap_or("?"));
        }
    }
    let signature = &inspection["signature"];
    let _ = match (signature["key"].as_str(), signature["is_trusted"].as_bool()) {
        (Some(key), Some(true)) => writeln!(out, "signed by key {key}, which is trusted"),
        (Some(key), _) => {
            writeln!(
                out,
                "has a signature that claims to be by key {key}: name keys that you trust with --trusted-key"
            )
        }
        _ => writeln!(out, "not signed"),
    };
    for note in inspection["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(out, "note: {note}");
    }
    let _ = writeln!(out, "sha256 {}", text("hash"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_wish_for_the_log_hides_nothing() {
        assert_eq!(
            ["", " ", "warn", "=&%"].map(|text| wished(text).to_string()),
            ["info", "info", "warn", "info"]
        );
    }
}
