//! What a page shows: what the host is doing, and what it did in the last minutes.

use std::collections::BTreeMap;
use std::sync::Arc;

use reseat::{CallFigures, Event, HostStatus, Recorded};
use serde_json::{Value, json};

use super::gauge::{Gauge, Reading, WINDOW_MS};
use super::story::{Sight, Story};
use super::{bars, chart};

/// Charts narrower than this stand one below the other.
const TWO_COLUMNS: u32 = 720;
/// What is between two that stand side by side.
const GAP: u32 = 24;

/// The last minutes of a host.
pub struct History {
    plugins: BTreeMap<String, Chapter>,
    /// Which host this is: when somebody began to look at it.
    started_ms: u64,
    /// As the host has said last.
    status: Option<HostStatus>,
    at_ms: u64,
    /// Messages that were made since, by the width of their drawings.
    messages: BTreeMap<u32, Arc<str>>,
}

/// The last minutes of a plugin.
#[derive(Default)]
struct Chapter {
    story: Story,
    gauge: Gauge,
}

/// What a host says of itself, at one moment.
pub struct Look {
    pub at_ms: u64,
    pub status: HostStatus,
    pub figures: Vec<CallFigures>,
}

impl History {
    /// Of a host that somebody begins to look at.
    pub fn begin(started_ms: u64) -> History {
        let (plugins, messages) = (BTreeMap::new(), BTreeMap::new());
        History { plugins, started_ms, status: None, at_ms: started_ms, messages }
    }

    /// Takes in what has happened.
    pub fn hear(&mut self, recorded: &Recorded) {
        let (Event::Loaded { plugin, .. }
        | Event::Reloaded { plugin, .. }
        | Event::RolledBack { plugin, .. }
        | Event::Candidate { plugin, .. }
        | Event::Discarded { plugin, .. }
        | Event::Kept { plugin, .. }
        | Event::Released { plugin, .. }
        | Event::Unloaded { plugin, .. }
        | Event::Lingering { plugin, .. }
        | Event::Leaked { plugin, .. }
        | Event::Removed { plugin, .. }) = &recorded.event
        else {
            return;
        };
        let chapter = self.plugins.entry(plugin.clone()).or_default();
        chapter.story.hear(recorded.at_ms, &recorded.event);
    }

    /// Takes in what the host says of itself. `is_second`: rates are of the time between two such looks.
    pub fn see(&mut self, look: Look, is_second: bool) {
        let Look { at_ms, status, figures } = look;
        for plugin in &status.plugins {
            let chapter = self.plugins.entry(plugin.name.clone()).or_default();
            let sights: Vec<_> = plugin
                .generations
                .iter()
                .map(|one| Sight {
                    generation: one.generation,
                    version: &one.version,
                    phase: one.phase,
                    reason: one.reason.as_deref(),
                })
                .collect();
            chapter.story.see(at_ms, &sights);
            if is_second {
                let figures = figures.iter().find(|figures| {
                    figures.plugin == plugin.name && Some(figures.generation) == plugin.generation
                });
                let since_ms = chapter.story.serving_since().unwrap_or(at_ms);
                chapter.gauge.read(at_ms, figures.map(Reading::from), since_ms);
            }
        }
        self.plugins.retain(|name, _| status.plugins.iter().any(|plugin| plugin.name == *name));
        (self.status, self.at_ms) = (Some(status), at_ms);
        self.messages.clear();
    }

    /// How many plugins there are.
    pub fn plugins(&self) -> usize {
        self.plugins.len()
    }

    /// All of it as JSON, with drawings of this width.
    pub fn message(&mut self, width: u32) -> Arc<str> {
        if let Some(message) = self.messages.get(&width) {
            return message.clone();
        }
        let message: Arc<str> = self.told(width).to_string().into();
        self.messages.insert(width, message.clone());
        message
    }

    fn told(&self, width: u32) -> Value {
        let mut told = json!(self.status);
        (told["at_ms"], told["started_ms"]) = (self.at_ms.into(), self.started_ms.into());
        for plugin in told["plugins"].as_array_mut().into_iter().flatten() {
            // What can be called is no news, and long.
            plugin.as_object_mut().map(|fields| fields.remove("interfaces"));
            let chapter = plugin["name"].as_str().and_then(|name| self.plugins.get(name));
            if let Some(chapter) = chapter {
                plugin["figures"] = chapter.figures();
                plugin["since_ms"] = json!(chapter.story.serving_since());
                plugin["lives"] = chapter.lives();
                plugin["reloads"] = json!(chapter.story.takeovers());
                plugin["charts"] = chapter.charts(width, self.at_ms);
            }
        }
        told
    }
}

impl Chapter {
    /// How the calls of the serving generation go; null if they are not counted.
    fn figures(&self) -> Value {
        let Some((reading, point)) = self.gauge.last() else { return Value::Null };
        json!({
            "calls": reading.calls,
            "errors": reading.errors,
            "panics": reading.panics,
            "calls_per_s": point.calls_per_s,
            "p50_ns": point.quantiles.map(|(p50, _)| p50),
            "p99_ns": point.quantiles.map(|(_, p99)| p99),
        })
    }

    /// The generations that serve no more, newest first, with what became of them.
    fn lives(&self) -> Value {
        let old = self.story.lives.iter().rev().filter(|life| life.verdict() != "serving");
        old.map(|life| {
            let since_ms = life.ended_ms.or(life.spans.last().map(|span| span.from_ms));
            json!({
                "generation": life.generation,
                "version": life.version,
                "verdict": life.verdict(),
                "since_ms": since_ms,
                "reason": life.reasons(),
            })
        })
        .collect()
    }

    fn charts(&self, width: u32, now_ms: u64) -> Value {
        let column = if width < TWO_COLUMNS { width } else { (width - GAP) / 2 };
        let points: Vec<_> =
            self.gauge.points().filter(|point| point.at_ms + WINDOW_MS >= now_ms).copied().collect();
        json!({
            "timeline": bars::timeline(width, now_ms, &self.story.lives),
            "calls": chart::calls(column, now_ms, &points),
            "latencies": chart::latencies(column, now_ms, &points),
            "reloads": bars::reloads(width, &self.story.takeovers()),
        })
    }
}
