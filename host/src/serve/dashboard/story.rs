//! What became of the generations of one plugin, and when: from events, which know the moment, and from what the host
//! says of them in between.
//!
//! Invariants:
//! 1. A generation only goes forward: what is heard late of an earlier phase changes nothing.
//! 2. Of what is over, only so much is kept; what is in memory is kept whatever there is of it.

use std::collections::VecDeque;

use reseat::{Event, Phase, StepTime};
use serde::Serialize;

/// How many generations that are over are remembered of a plugin.
const OVER: usize = 8;
/// How many reloads are remembered of a plugin.
const RELOADS: usize = 6;
/// A generation that the host names no more, and of whose end nothing was heard for so long, has ended.
const UNHEARD_MS: u64 = 2_000;

/// The generations of a plugin, and its last reloads.
#[derive(Default)]
pub struct Story {
    /// Oldest first.
    pub lives: Vec<Life>,
    /// Newest last.
    reloads: VecDeque<Reload>,
}

/// One generation.
pub struct Life {
    pub generation: u64,
    pub version: String,
    /// What it did, one after the other.
    pub spans: Vec<Span>,
    /// Since when it is out of memory.
    pub ended_ms: Option<u64>,
    /// Why it was sent back, if it was.
    sent_back: Option<String>,
    /// What keeps it where it is, or what it has left behind.
    reason: Option<String>,
}

/// A time in which a generation did one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub phase: Phase,
    pub from_ms: u64,
    /// `None`: still.
    pub to_ms: Option<u64>,
}

/// A generation that took over, and what each step of that took.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    pub from: Option<u64>,
    pub generation: u64,
    pub version: String,
    pub at_ms: u64,
    /// Whether it was the way back.
    pub back: bool,
    pub took_ms: f64,
    pub steps: Vec<StepTime>,
}

/// A generation as the host sees it.
pub struct Sight<'a> {
    pub generation: u64,
    pub version: &'a str,
    pub phase: Phase,
    pub reason: Option<&'a str>,
}

impl Story {
    /// Takes in what has happened.
    pub fn hear(&mut self, at_ms: u64, event: &Event) {
        match event {
            Event::Loaded { generation, version, took_ms, steps, .. } => {
                self.life(*generation, version).enter(Phase::Serving, at_ms);
                self.took_over(None, *generation, version, at_ms, *took_ms, steps);
            }
            Event::Candidate { generation, version, .. } => {
                self.life(*generation, version).enter(Phase::Candidate, at_ms);
            }
            Event::Discarded { generation, reason, .. } => {
                let left = self.life(*generation, "");
                left.enter(Phase::Draining, at_ms);
                left.sent_back = Some(format!("it was discarded: {reason}"));
            }
            // Before the one that has taken over is told of.
            Event::Kept { generation, .. } => self.life(*generation, "").enter(Phase::Kept, at_ms),
            Event::Released { generation, .. } => self.life(*generation, "").enter(Phase::Draining, at_ms),
            Event::Reloaded { from, generation, version, took_ms, steps, .. } => {
                let left = self.life(*from, "");
                if left.spans.last().is_none_or(|span| span.phase != Phase::Kept) {
                    left.enter(Phase::Draining, at_ms);
                }
                self.life(*generation, version).enter(Phase::Serving, at_ms);
                self.took_over(Some(*from), *generation, version, at_ms, *took_ms, steps);
            }
            Event::RolledBack { from, generation, version, reason, steps, .. } => {
                let left = self.life(*from, "");
                left.enter(Phase::Draining, at_ms);
                left.sent_back = Some(format!("it was sent back: {reason}"));
                self.life(*generation, version).enter(Phase::Serving, at_ms);
                let took_ms = steps.iter().map(|step| step.ms).sum();
                self.took_over(Some(*from), *generation, version, at_ms, took_ms, steps);
                self.reloads.back_mut().expect("one was just added").back = true;
            }
            Event::Removed { generation, .. } => self.life(*generation, "").enter(Phase::Draining, at_ms),
            Event::Unloaded { generation, left, .. } => {
                let life = self.life(*generation, "");
                life.end(at_ms);
                life.reason = left.map(|left| format!("it left {left}"));
            }
            Event::Lingering { generation, reason, .. } => {
                let life = self.life(*generation, "");
                life.enter(Phase::Lingering, at_ms);
                life.reason = Some(reason.clone());
            }
            Event::Leaked { generation, .. } => self.life(*generation, "").enter(Phase::Leaked, at_ms),
            _ => {}
        }
        self.forget();
    }

    /// Takes in what the host says of all generations that are in memory.
    pub fn see(&mut self, at_ms: u64, sights: &[Sight<'_>]) {
        for sight in sights {
            let life = self.life(sight.generation, sight.version);
            life.enter(sight.phase, at_ms);
            if let Some(reason) = sight.reason.filter(|_| life.ended_ms.is_none()) {
                life.reason = Some(reason.to_owned());
            }
        }
        for life in &mut self.lives {
            let is_seen = sights.iter().any(|sight| sight.generation == life.generation);
            let began = life.spans.last().map_or(0, |span| span.from_ms);
            if !is_seen && life.ended_ms.is_none() && began + UNHEARD_MS < at_ms {
                life.end(at_ms);
            }
        }
        self.forget();
    }

    /// When the generation that serves began to.
    pub fn serving_since(&self) -> Option<u64> {
        // Not always the youngest: a candidate, or what is left of one, may be younger.
        let alive = self.lives.iter().rev().filter(|life| life.ended_ms.is_none());
        let mut serving =
            alive.filter_map(|life| life.spans.last()).filter(|span| span.phase == Phase::Serving);
        serving.next().map(|span| span.from_ms)
    }

    /// The last reloads, oldest first; as long as there was none, how it was loaded, which takes longer and would make all
    /// others look short.
    pub fn takeovers(&self) -> Vec<&Reload> {
        let took_over: Vec<_> = self.reloads.iter().filter(|reload| reload.from.is_some()).collect();
        if took_over.is_empty() { self.reloads.iter().collect() } else { took_over }
    }

    fn life(&mut self, generation: u64, version: &str) -> &mut Life {
        let at = self.lives.iter().position(|life| life.generation == generation).unwrap_or_else(|| {
            let at = self.lives.partition_point(|life| life.generation < generation);
            self.lives.insert(at, Life::new(generation));
            at
        });
        let life = &mut self.lives[at];
        if life.version.is_empty() {
            life.version = version.to_owned();
        }
        life
    }

    fn took_over(
        &mut self,
        from: Option<u64>,
        generation: u64,
        version: &str,
        at_ms: u64,
        took_ms: f64,
        steps: &[StepTime],
    ) {
        if self.reloads.len() == RELOADS {
            self.reloads.pop_front();
        }
        let (version, steps) = (version.to_owned(), steps.to_vec());
        self.reloads.push_back(Reload { from, generation, version, at_ms, back: false, took_ms, steps });
    }

    /// By invariant 2.
    fn forget(&mut self) {
        let over = self.lives.iter().filter(|life| life.ended_ms.is_some()).count();
        for _ in OVER..over {
            let oldest = self.lives.iter().position(|life| life.ended_ms.is_some());
            self.lives.remove(oldest.expect("there are more than enough"));
        }
    }
}

impl Life {
    fn new(generation: u64) -> Life {
        let (version, spans) = (String::new(), Vec::new());
        Life { generation, version, spans, ended_ms: None, sent_back: None, reason: None }
    }

    fn enter(&mut self, phase: Phase, at_ms: u64) {
        if self.ended_ms.is_some() {
            return;
        }
        match self.spans.last_mut() {
            Some(last) if last.phase == phase => last.from_ms = last.from_ms.min(at_ms),
            // By invariant 1.
            Some(last) if rank(last.phase) > rank(phase) => {}
            last => {
                if let Some(last) = last {
                    last.to_ms = Some(at_ms.max(last.from_ms));
                }
                self.spans.push(Span { phase, from_ms: at_ms, to_ms: None });
            }
        }
    }

    fn end(&mut self, at_ms: u64) {
        if let Some(last) = self.spans.last_mut() {
            last.to_ms.get_or_insert(at_ms.max(last.from_ms));
        }
        self.ended_ms.get_or_insert(at_ms);
        // What kept it has let go.
        self.reason = None;
    }

    /// Everything that is to be said of why it is where it is.
    pub fn reasons(&self) -> Option<String> {
        let all: Vec<&str> = self.sent_back.iter().chain(&self.reason).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What it is doing, or `unloaded`.
    pub fn verdict(&self) -> &'static str {
        match self.spans.last() {
            _ if self.ended_ms.is_some() => "unloaded",
            Some(span) => name(span.phase),
            None => "unknown",
        }
    }
}

/// A phase as it is named everywhere.
pub fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Candidate => "candidate",
        Phase::Serving => "serving",
        Phase::Kept => "kept",
        Phase::Draining => "draining",
        Phase::Retiring => "retiring",
        Phase::Lingering => "lingering",
        Phase::Leaked => "leaked",
        _ => "unknown",
    }
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Candidate => 0,
        Phase::Serving => 1,
        Phase::Kept => 2,
        Phase::Draining => 3,
        Phase::Retiring => 4,
        Phase::Lingering => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn loaded(generation: u64) -> Event {
        let (plugin, version) = ("echo".into(), format!("1.{generation}"));
        let (file, steps) = ("libecho.so".into(), Vec::new());
        Event::Loaded { plugin, generation, version, file, took_ms: 1.0, state_bytes: 0, steps }
    }

    fn reloaded(from: u64, generation: u64) -> Event {
        let (plugin, version, file) = ("echo".into(), format!("1.{generation}"), "libecho.so".into());
        let (took_ms, closed_ms, state_bytes, steps) = (2.0, 0.0, 0, Vec::new());
        Event::Reloaded { plugin, from, generation, version, file, took_ms, closed_ms, state_bytes, steps }
    }

    fn unloaded(generation: u64) -> Event {
        Event::Unloaded { plugin: "echo".into(), generation, left: None }
    }

    fn sight(generation: u64, phase: Phase) -> Sight<'static> {
        Sight { generation, version: "1.x", phase, reason: None }
    }

    fn spans(story: &Story, generation: u64) -> Vec<(Phase, u64, Option<u64>)> {
        let life = story.lives.iter().find(|life| life.generation == generation).unwrap();
        life.spans.iter().map(|span| (span.phase, span.from_ms, span.to_ms)).collect()
    }

    #[test]
    fn a_candidate_takes_over_and_what_is_kept_stays_until_it_is_released() {
        let mut story = Story::default();
        let (plugin, version, file) = ("echo".to_owned(), "1.2".to_owned(), "libecho.so".into());
        let candidate = |generation, version: &str| Event::Candidate {
            plugin: plugin.clone(),
            generation,
            version: version.into(),
            file: PathBuf::clone(&file),
            serving: Some(1),
            percent: 5,
            took_ms: 1.0,
            steps: Vec::new(),
        };
        story.hear(1_000, &loaded(1));
        story.hear(2_000, &candidate(2, &version));
        assert_eq!(story.serving_since(), Some(1_000), "the candidate does not serve");
        story.see(2_500, &[sight(1, Phase::Serving), sight(2, Phase::Candidate)]);
        story.hear(3_000, &Event::Kept { plugin: plugin.clone(), generation: 1 });
        story.hear(3_000, &reloaded(1, 2));
        assert_eq!(story.serving_since(), Some(3_000));
        assert_eq!(spans(&story, 1), [(Phase::Serving, 1_000, Some(3_000)), (Phase::Kept, 3_000, None)]);
        assert_eq!(spans(&story, 2), [(Phase::Candidate, 2_000, Some(3_000)), (Phase::Serving, 3_000, None)]);
        story.hear(4_000, &Event::Released { plugin: plugin.clone(), generation: 1 });
        story.hear(5_000, &unloaded(1));
        assert_eq!(spans(&story, 1)[2], (Phase::Draining, 4_000, Some(5_000)));
        story.hear(6_000, &candidate(3, &version));
        let (reason, denied, serving) = ("it panicked".to_owned(), true, Some(2));
        let discarded = Event::Discarded { plugin, generation: 3, version, reason, denied, serving };
        story.hear(7_000, &discarded);
        let life = story.lives.iter().find(|life| life.generation == 3).unwrap();
        assert_eq!(life.reasons().as_deref(), Some("it was discarded: it panicked"));
        assert_eq!((life.verdict(), story.serving_since()), ("draining", Some(3_000)));
    }

    #[test]
    fn a_generation_is_followed_from_its_first_call_to_its_verdict() {
        let mut story = Story::default();
        story.hear(1_000, &loaded(1));
        story.hear(5_000, &reloaded(1, 2));
        story.see(5_500, &[sight(1, Phase::Retiring), sight(2, Phase::Serving)]);
        assert_eq!(story.lives[0].verdict(), "retiring");
        story.hear(6_000, &unloaded(1));
        assert_eq!(
            spans(&story, 1),
            [
                (Phase::Serving, 1_000, Some(5_000)),
                (Phase::Draining, 5_000, Some(5_500)),
                (Phase::Retiring, 5_500, Some(6_000)),
            ]
        );
        assert_eq!((story.lives[0].verdict(), story.lives[0].version.as_str()), ("unloaded", "1.1"));
        assert_eq!((story.lives[1].verdict(), story.serving_since()), ("serving", Some(5_000)));
        assert_eq!((story.reloads.len(), story.takeovers()[0].generation), (2, 2));
    }

    #[test]
    fn what_is_heard_late_of_an_earlier_phase_changes_nothing() {
        let mut story = Story::default();
        // The host says it before the event is heard.
        story.see(2_000, &[sight(1, Phase::Serving)]);
        story.hear(1_990, &loaded(1));
        assert_eq!(spans(&story, 1), [(Phase::Serving, 1_990, None)]);
        story.hear(3_000, &reloaded(1, 2));
        story.see(3_001, &[sight(1, Phase::Serving), sight(2, Phase::Serving)]);
        assert_eq!(story.lives[0].verdict(), "draining");
        story.hear(4_000, &unloaded(1));
        story.see(4_001, &[sight(1, Phase::Retiring), sight(2, Phase::Serving)]);
        assert_eq!(story.lives[0].verdict(), "unloaded");
    }

    #[test]
    fn what_is_named_no_more_has_ended_even_if_its_end_was_not_heard() {
        let mut story = Story::default();
        story.hear(1_000, &loaded(1));
        story.see(1_001, &[]);
        assert_eq!(story.lives[0].verdict(), "serving", "the host may only be about to name it");
        story.see(9_000, &[]);
        assert_eq!(story.lives[0].verdict(), "unloaded");
    }

    #[test]
    fn a_thousand_reloads_leave_what_is_in_memory_and_a_few_that_are_over() {
        let mut story = Story::default();
        story.hear(0, &loaded(1));
        let lingers = |generation| {
            let (plugin, reason) = ("echo".into(), "a thread".into());
            Event::Lingering { plugin, generation, reason, bytes: 0 }
        };
        for generation in 2..=1_000 {
            story.hear(generation * 10, &reloaded(generation - 1, generation));
            let end = if generation == 3 { lingers(2) } else { unloaded(generation - 1) };
            story.hear(generation * 10 + 1, &end);
        }
        assert_eq!((story.lives.len(), story.reloads.len()), (OVER + 2, RELOADS));
        assert_eq!((story.lives[0].generation, story.lives[0].verdict()), (2, "lingering"));
        assert_eq!(story.lives.last().unwrap().generation, 1_000);
    }
}
