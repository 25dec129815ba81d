//! Who waits for whom: of one plugin, as plain data and as lines for people.
//!
//! Looking runs nothing of a plugin, waits for nothing that does, and changes nothing. What is found is found part by part, so
//! it may never have been so all at once.

mod look;
mod missing;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::events::Step;
use crate::gate::{Straggler, Stragglers};
use crate::plugin::Loaded;
use crate::requirements::some_of;
use crate::status::Phase;

/// Why a plugin is as it is: what is under way and whom it waits for, who waits for it, and what keeps what is to go. Prints as
/// the lines that are in it. See [`Host::why`](crate::Host::why).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Why {
    /// The plugin.
    pub plugin: String,
    /// The generation that serves.
    pub generation: Option<u64>,
    /// The transaction that is under way: a reload, most likely.
    pub under_way: Option<UnderWay>,
    /// Those who wait to get in.
    pub callers: Option<WaitingCallers>,
    /// A build that would be accepted, as far as can be seen, and is not taken in yet.
    pub build: Option<WaitingBuild>,
    /// What it requires and nobody implements; then what those lack who would, and so on.
    pub missing: Vec<Missing>,
    /// The plugins that wait for one another in a circle, if some do.
    pub circle: Vec<String>,
    /// The plugins that cannot do without it, so that it cannot be unloaded.
    pub required_by: Vec<String>,
    /// The generations that serve no more and are not gone, oldest first.
    pub old: Vec<OldGeneration>,
    /// The last refusal, in full, until a build is accepted.
    pub last_refusal: Option<String>,
    /// All of it, for people.
    pub lines: Vec<String>,
}

/// A transaction that is under way.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct UnderWay {
    /// Its step.
    pub step: Step,
    /// For how long it has been there.
    pub since_ms: u64,
    /// Somebody has asked it to stop.
    pub cancelled: bool,
    /// How long this step may take, if that is limited.
    pub at_most_ms: Option<u64>,
    /// Whom it waits for behind a closed gate.
    pub holders: Option<Holders>,
    /// How many scopes it waits for, with the gate open.
    pub scopes: Option<u64>,
    /// What it waits for otherwise.
    pub waits_for: Option<String>,
}

/// Who is in a generation.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Holders {
    /// How many guards there are.
    pub guards: u64,
    /// The threads that have them.
    pub threads: Vec<Holder>,
    /// How many leases there are, those of owned scopes included. Whose they are is not known.
    pub leases: u64,
    /// The same for people.
    pub text: String,
}

/// A thread that is in a generation.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its name, or its number.
    pub thread: String,
    /// The kernel's number for it.
    pub tid: u32,
    /// The method that it called last.
    pub method: Option<String>,
    /// For how long it has been there, at least.
    pub since_ms: Option<u64>,
    /// How many guards it has.
    pub guards: u64,
    /// It has ended and left them behind: this generation will never be drained.
    pub ended: bool,
}

/// Those who wait at a closed gate.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WaitingCallers {
    /// How many.
    pub waiting: u64,
    /// For how long each does, unless it has said otherwise.
    pub at_most_ms: u64,
}

/// A build that waits.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct WaitingBuild {
    /// The file.
    pub file: PathBuf,
    /// What it waits for, in a word: `on-demand`, `never`, `cooldown`, `scopes`, `first-call` or `partners`.
    pub kind: String,
    /// The same for people, as the end of a sentence: `until …`.
    pub until: String,
}

/// Something that a plugin requires and does not have.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Missing {
    /// The plugin that requires it.
    pub plugin: String,
    /// The interface.
    pub interface: String,
    /// The least version that will do.
    pub version: String,
    /// The plugin that its options name for it.
    pub of: Option<String>,
    /// Who implements it, of those that serve, but not so that it fits: and why not.
    pub unfit: Vec<String>,
    /// Several implement it, and nobody has said which it is to be.
    pub several: Vec<String>,
    /// Who implements it and waits, too.
    pub waiting: Vec<String>,
}

/// A generation that serves no more and is not gone.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OldGeneration {
    /// Its number.
    pub generation: u64,
    /// The version of its build.
    pub version: String,
    /// What it is doing.
    pub phase: Phase,
    /// Since when it serves no more. `None` if that cannot be found out now, or it was kept on purpose.
    pub since_ms: Option<u64>,
    /// Who is in it, while it drains.
    pub holders: Option<Holders>,
    /// What keeps it otherwise.
    pub reason: Option<String>,
}

impl Holders {
    pub(crate) fn of(loaded: &Loaded, stragglers: &Stragglers) -> Holders {
        Holders {
            guards: stragglers.guards() as u64,
            threads: stragglers.threads.iter().map(|one| Holder::of(loaded, one)).collect(),
            leases: stragglers.leases as u64,
            text: loaded.holders(stragglers),
        }
    }
}

impl Holder {
    fn of(loaded: &Loaded, straggler: &Straggler) -> Holder {
        let notes = straggler.guards.iter().rev().filter_map(|held| held.note);
        Holder {
            thread: straggler.name.clone().unwrap_or_else(|| straggler.os_tid.to_string()),
            tid: straggler.os_tid,
            method: notes.filter_map(|address| loaded.instance.methods_at(address)).next(),
            since_ms: straggler.since().map(millis),
            guards: straggler.guards.len() as u64,
            ended: straggler.orphaned,
        }
    }
}

impl Why {
    /// With its lines.
    fn told(mut self) -> Why {
        let name = &self.plugin;
        let mut lines = Vec::new();
        lines.extend(self.under_way.as_ref().map(|it| format!("{name}: {it}")));
        lines.extend(self.callers.as_ref().map(|it| format!("{name}: {it}")));
        lines.extend(self.build.as_ref().map(|it| format!("{name}: {it}")));
        lines.extend(self.missing.iter().map(ToString::to_string));
        if !self.circle.is_empty() {
            let circle = self.circle.join(", ");
            lines.push(format!(
                "{circle} wait in a circle: one of them has to do without the next (`optional`)"
            ));
        }
        lines.extend(self.old.iter().map(|it| format!("{name}: {it}")));
        if lines.is_empty() {
            lines.push(match self.generation {
                Some(generation) => {
                    format!("{name}: generation {generation} serves, and nothing is waited for")
                }
                None => format!("{name}: nothing serves, and nothing is waited for"),
            });
        }
        if !self.required_by.is_empty() {
            let by = some_of(&self.required_by);
            lines.push(format!("{name}: it cannot be unloaded before what requires it: {by}"));
        }
        lines.extend(
            self.last_refusal.as_ref().map(|why| format!("{name}: the last build was refused at {why}")),
        );
        self.lines = lines;
        self
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl fmt::Display for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a transaction is at {} since {}", self.step, for_people(self.since_ms))?;
        self.at_most_ms.map_or(Ok(()), |ms| write!(f, " ({} at most)", for_people(ms)))?;
        f.write_str(if self.cancelled { ", and is to stop" } else { "" })?;
        match (&self.holders, self.scopes, &self.waits_for) {
            (Some(holders), _, _) => write!(f, ": it waits for {}", holders.text),
            (None, Some(scopes), _) => write!(f, ": it waits for {}", counted(scopes, "scope")),
            (None, None, Some(what)) => write!(f, ": it waits for {what}"),
            (None, None, None) => Ok(()),
        }
    }
}

impl fmt::Display for WaitingCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = if self.waiting == 1 { "waits" } else { "wait" };
        let limit = for_people(self.at_most_ms);
        write!(f, "{} {wait} at its closed gate, for {limit} at most", counted(self.waiting, "caller"))
    }
}

impl fmt::Display for WaitingBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the build in {} waits until {}", self.file.display(), self.until)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { plugin, interface, version, of, unfit, several, waiting } = self;
        write!(f, "{plugin}: it waits for {interface} ≥ {version}")?;
        of.as_ref().map_or(Ok(()), |of| write!(f, " of {of}"))?;
        if !several.is_empty() {
            return write!(
                f,
                ", which {} all implement: say which one it is, with `bind` in [plugins.{plugin}]",
                several.join(", ")
            );
        }
        match &waiting[..] {
            [] => f.write_str(", which nobody implements that serves")?,
            [one] => write!(f, ", which {one} implements, that waits itself")?,
            several => write!(f, ", which {} implement, that wait themselves", several.join(", "))?,
        }
        if unfit.is_empty() { Ok(()) } else { write!(f, " ({})", unfit.join("; ")) }
    }
}

impl fmt::Display for OldGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Retiring => "retiring",
            Phase::Lingering => "lingering",
            Phase::Leaked => "leaked",
            Phase::Candidate => "a candidate",
            Phase::Kept => "kept",
        };
        write!(f, "generation {} is {phase}", self.generation)?;
        self.since_ms.map_or(Ok(()), |ms| write!(f, " since {}", for_people(ms)))?;
        let text = self.holders.as_ref().map(|holders| &holders.text).or(self.reason.as_ref());
        text.map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn for_people(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        ms if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        ms => format!("{:.1} s", ms as f64 / 1e3),
    }
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
