//! `reseat ps`: the plugins of a host, for people.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::args::PsArgs;
use super::client::{ask, past, pretty, print};
use super::time::{now_ms, roughly};
use crate::serve::protocol::Request;

/// Lists them.
pub fn ps(args: &PsArgs) -> Result<(), Failure> {
    let status = ask(&args.state, &Request::Status)?;
    if args.json {
        return print(&pretty(&status));
    }
    let beginnings = Beginnings::of(&past(&args.state)?);
    print(listing(&status, &beginnings, now_ms(), Paint::for_stdout()).trim_end())
}

/// When generations took over, as far as the host's last events tell.
#[derive(Default)]
pub struct Beginnings(Vec<(String, u64, u64)>);

impl Beginnings {
    pub fn of(events: &[Value]) -> Beginnings {
        let mut beginnings = Beginnings::default();
        events.iter().for_each(|event| beginnings.note(event));
        beginnings
    }

    /// Takes down what an event tells of that.
    pub fn note(&mut self, event: &Value) {
        let took_over = ["loaded", "reloaded", "rolled-back"].iter().any(|kind| event["event"] == *kind);
        let told = (event["plugin"].as_str(), event["generation"].as_u64(), event["at_ms"].as_u64());
        if let (true, (Some(plugin), Some(generation), Some(at_ms))) = (took_over, told) {
            self.0.retain(|(earlier, ..)| earlier != plugin);
            self.0.push((plugin.to_owned(), generation, at_ms));
        }
    }

    /// For how long the generation of a plugin that serves has done so.
    pub fn age(&self, plugin: &Value, now_ms: u64) -> Option<String> {
        let (name, generation) = (plugin["name"].as_str()?, plugin["generation"].as_u64()?);
        let (.., at_ms) =
            self.0.iter().find(|(plugin, number, _)| plugin == name && *number == generation)?;
        Some(roughly(Duration::from_millis(now_ms.saturating_sub(*at_ms))))
    }
}

/// Colours, where somebody sees them.
#[derive(Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// On a terminal that has colours, unless <https://no-color.org>.
    fn for_stdout() -> Paint {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Paint(std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn doubtful(self, text: &str) -> String {
        self.with("33", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
}

const HEAD: [&str; 7] = ["PLUGIN", "VERSION", "GENERATION", "PHASE", "AGE", "STATE", "METHODS"];
/// The column that is painted.
const PHASE: usize = 3;
/// The columns of numbers, which end below one another.
const NUMBERS: [usize; 3] = [2, 4, 5];

/// The listing, from a host's status as JSON.
fn listing(status: &Value, beginnings: &Beginnings, now_ms: u64, paint: Paint) -> String {
    let plugins = status["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    if plugins.is_empty() {
        return "no plugin is loaded\n".to_owned() + &failed_builds(status, paint);
    }
    let rows: Vec<[String; 7]> = plugins.iter().map(|plugin| row(plugin, beginnings, now_ms)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(HEAD[column].len())
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |cells: &[String; 7], painted: &dyn Fn(usize, &str) -> String| {
        let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let cell = match NUMBERS.contains(&column) {
                true => format!("{cell:>width$}"),
                false if column + 1 == HEAD.len() => cell.clone(),
                false => format!("{cell:width$}"),
            };
            painted(column, &cell)
        });
        padded.collect::<Vec<_>>().join("  ")
    };
    let mut listing = line(&HEAD.map(str::to_owned), &|_, cell| paint.bold(cell)) + "\n";
    for (plugin, row) in plugins.iter().zip(&rows) {
        let painted = |column: usize, cell: &str| match column {
            PHASE if plugin["generation"].is_null() => paint.bad(cell),
            PHASE => paint.good(cell),
            _ => cell.to_owned(),
        };
        let _ = writeln!(listing, "{}", line(row, &painted).trim_end());
        listing.push_str(&notes(plugin, paint));
    }
    for taint in status["tainted"].as_array().map_or(&[][..], Vec::as_slice) {
        let _ = writeln!(listing, "{}", paint.bad(&format!("tainted: {}", text(taint))));
    }
    listing + &failed_builds(status, paint)
}

/// The crates that do not compile at the moment.
fn failed_builds(status: &Value, paint: Paint) -> String {
    let failed = status["failed_builds"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |build: &Value| {
        let failed = paint.bad(&format!("the build of {} has failed:", text(&build["package"])));
        format!("{failed} {}\n", text(&build["what"]))
    };
    failed.iter().map(line).collect()
}

fn row(plugin: &Value, beginnings: &Beginnings, now_ms: u64) -> [String; 7] {
    [
        text(&plugin["name"]),
        text(&plugin["version"]),
        text(&plugin["generation"]),
        phase(plugin).into(),
        beginnings.age(plugin, now_ms).unwrap_or_else(|| "-".into()),
        plugin["state_version"].as_u64().map_or_else(|| "-".into(), |version| format!("v{version}")),
        methods(plugin),
    ]
}

/// What a plugin is doing, in one word or two.
pub fn phase(plugin: &Value) -> &'static str {
    if plugin["generation"].is_null() { "not loaded" } else { "serving" }
}

/// A value as people write it; `-` if there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn methods(plugin: &Value) -> String {
    let interfaces = plugin["interfaces"].as_array().map_or(&[][..], Vec::as_slice);
    let methods = interfaces.iter().filter_map(|interface| interface["methods"].as_array()).flatten();
    methods.filter_map(|method| method["name"].as_str()).collect::<Vec<_>>().join(", ")
}

/// What is special about a plugin: old generations, a transaction, the last refusal.
fn notes(plugin: &Value, paint: Paint) -> String {
    let mut notes = String::new();
    for old in old_generations(plugin) {
        let _ = writeln!(notes, "  {}", paint.doubtful(&old));
    }
    if let Some(busy) = plugin["busy"].as_str() {
        let _ = writeln!(notes, "  busy: {busy}");
    }
    if let Some(refusal) = plugin["last_refusal"].as_str() {
        let _ = writeln!(notes, "  {} {}", paint.bad("last refusal:"), refusal.replace('\n', "\n  "));
    }
    notes
}

/// The generations that no longer serve, each with the reason for which it is still in memory.
pub fn old_generations(plugin: &Value) -> impl Iterator<Item = String> {
    let generations = plugin["generations"].as_array().map_or(&[][..], Vec::as_slice);
    generations.iter().filter(|generation| generation["phase"] != "serving").map(|old| {
        let told = format!("generation {} is {}", old["generation"], text(&old["phase"]));
        old["reason"].as_str().map_or_else(|| told.clone(), |reason| format!("{told}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        let method = json!({ "name": "check" });
        json!({
            "plugins": [
                { "name": "limiter", "version": "0.1.0", "generation": 12, "state_version": 2,
                  "interfaces": [{ "methods": [method] }], "busy": "drain since 1.2 s",
                  "last_refusal": "vet: it is empty\ntry again",
                  "generations": [
                    { "generation": 9, "phase": "lingering", "reason": "thread 7 was left running" },
                    { "generation": 12, "phase": "serving", "reason": null }] },
                { "name": "x", "version": null, "generation": null, "state_version": null,
                  "interfaces": [], "busy": null, "last_refusal": null, "generations": [] },
            ],
            "tainted": ["generation 3 of limiter stays in memory as asked"],
            "failed_builds": [{ "package": "limiter", "what": "src/lib.rs:3:1: expected `;`" }],
        })
    }

    fn events() -> Vec<Value> {
        let event = |kind, generation: u64, at_ms: u64| json!({ "event": kind, "plugin": "limiter", "generation": generation, "at_ms": at_ms });
        vec![event("loaded", 11, 0), event("reloaded", 12, 60_000), event("unloaded", 11, 61_000)]
    }

    #[test]
    fn columns_stand_below_their_heads_and_reasons_below_their_plugin() {
        let listed = listing(&status(), &Beginnings::of(&events()), 360_000, Paint(false));
        assert_eq!(
            listed,
            "PLUGIN   VERSION  GENERATION  PHASE         AGE  STATE  METHODS\n\
             limiter  0.1.0            12  serving     5 min     v2  check\n  \
               generation 9 is lingering: thread 7 was left running\n  \
               busy: drain since 1.2 s\n  \
               last refusal: vet: it is empty\n  \
               try again\n\
             x        -                 -  not loaded      -      -\n\
             tainted: generation 3 of limiter stays in memory as asked\n\
             the build of limiter has failed: src/lib.rs:3:1: expected `;`\n"
        );
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let plain = listing(&status(), &Beginnings::default(), 0, Paint(false));
        let mut painted = listing(&status(), &Beginnings::default(), 0, Paint(true));
        assert_ne!(plain, painted);
        for code in ["0", "1", "31", "32", "33"] {
            painted = painted.replace(&format!("\x1b[{code}m"), "");
        }
        let unpadded = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(unpadded(&plain), unpadded(&painted));
    }

    #[test]
    fn an_age_is_that_of_the_generation_that_serves_or_unknown() {
        let plugin = |generation: u64| json!({ "name": "limiter", "generation": generation });
        let beginnings = Beginnings::of(&events());
        assert_eq!(beginnings.age(&plugin(12), 61_000).as_deref(), Some("1 s"));
        assert_eq!(beginnings.age(&plugin(11), 61_000), None);
        assert_eq!(beginnings.age(&plugin(13), 61_000), None);
    }
}
