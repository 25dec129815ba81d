//! The time after a publish in which failures send us back to the build before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::ReloadError;
use crate::events::Event;
use crate::meter::{Meter, Reading, part_of_the_slowest};
use crate::plugin::Plugin;
use crate::registry::Core;
use crate::reload;

/// By what a build that has taken over is judged, and for how long. See [`Options::probation`].
///
/// While a generation is on probation each of its calls is counted and timed, which costs it about as much as reading
/// the clock twice. Afterwards calls cost what they always cost. A guard counts as one call, from entering to leaving, and
/// so does what a scope does with one plugin; leases are not judged.
///
/// [`Options::probation`]: crate::Options::probation
#[derive(Clone, Debug, PartialEq)]
pub struct Probation {
    /// How long it lasts at least.
    pub period: Duration,
    /// How many calls it lasts at least, unless they do not come within 30 times its period. Ratios are looked at when
    /// there were so many.
    pub calls: u64,
    /// It is sent back after so many panics, if they are more than `panic_ratio` of all calls.
    pub panics: u64,
    /// See `panics`.
    pub panic_ratio: f64,
    /// It is sent back if the part of its calls that fail exceeds that of the generation before by this.
    pub error_ratio: f64,
    /// It is sent back if 1 of 100 of its calls, and 20 calls at least (or one in five), take more than so many times as long as 99 of 100
    /// calls of the generation before, and longer than `latency_floor`. 0: latency is no reason.
    pub latency_factor: f64,
    /// See `latency_factor`.
    pub latency_floor: Duration,
    /// How often its `self_check` is asked. Zero: never.
    pub self_check_every: Duration,
    /// What becomes of the state if the build that is sent back cannot write it in the version that the one before
    /// reads.
    pub lost_state: LostState,
}

/// See [`Probation::lost_state`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostState {
    /// The state that was handed over to the bad build is used again. What changed since is lost, which is said.
    #[default]
    Earlier,
    /// The bad build goes on serving, which is said.
    Stay,
}

impl Default for Probation {
    /// 10 s and 100 calls; 3 panics and 1 %; 5 % more errors; 10 times as slow and slower than 1 ms; `self_check` every
    /// second.
    fn default() -> Self {
        Probation {
            period: Duration::from_secs(10),
            calls: 100,
            panics: 3,
            panic_ratio: 0.01,
            error_ratio: 0.05,
            latency_factor: 10.0,
            latency_floor: Duration::from_millis(1),
            self_check_every: Duration::from_secs(1),
            lost_state: LostState::Earlier,
        }
    }
}

/// How often a generation on probation is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// For how many times its period a generation that is called too rarely stays on probation.
pub(crate) const RARELY: u32 = 30;

/// Watches a generation that has just been published, on a thread of its own, until it has proved itself, has been
/// sent back, or has been replaced.
pub(crate) fn begin(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    number: u64,
    meter: Arc<Meter>,
    may_go_back: bool,
) {
    let Some(terms) = core.options().probation_of(&plugin.name).cloned() else { return };
    let (watched, core, plugin) =
        (format!("generation {number} of {}", plugin.name), core.clone(), plugin.clone());
    let journal = core.journal.clone();
    let watch = Watch { core, plugin, number, meter, terms, may_go_back };
    let spawned = std::thread::Builder::new().name("reseat-probation".into()).spawn(move || watch.run());
    if let Err(error) = spawned {
        journal
            .record(Event::Trouble { what: format!("{watched} is not watched: no thread for it: {error}") });
    }
}

struct Watch {
    core: Arc<Core>,
    plugin: Arc<Plugin>,
    number: u64,
    meter: Arc<Meter>,
    terms: Probation,
    /// There is a build to go back to. Otherwise it is only measured, for the sake of the next one.
    may_go_back: bool,
}

impl Watch {
    fn run(self) {
        let begun = Instant::now();
        let mut checked = Instant::now();
        let baseline = self.plugin.record().baseline;
        // Going back may have to wait for calls, behind a closed gate: less and less often.
        let (mut again, mut pause) = (begun, Duration::from_secs(1));
        loop {
            std::thread::sleep(LOOK);
            if self.is_over() {
                return;
            }
            let reading = self.meter.read();
            let mut fault =
                if self.may_go_back { self.terms.fault(&reading, baseline.as_ref()) } else { None };
            if fault.is_none() && self.may_go_back && self.is_due(checked) {
                checked = Instant::now();
                fault = self.self_check();
            }
            if let Some(fault) = fault {
                if Instant::now() >= again {
                    if self.send_back(&fault) {
                        return;
                    }
                    again = Instant::now() + pause;
                    pause = (pause * 2).min(Duration::from_secs(60));
                }
                continue;
            }
            let enough = reading.calls >= self.terms.calls || begun.elapsed() >= self.terms.period * RARELY;
            if begun.elapsed() >= self.terms.period && enough {
                return self.passed(reading);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.core.is_closed() || self.plugin.serving_number() != Some(self.number)
    }

    fn is_due(&self, checked: Instant) -> bool {
        !self.terms.self_check_every.is_zero() && checked.elapsed() >= self.terms.self_check_every
    }

    /// What its own `self_check` says.
    fn self_check(&self) -> Option<String> {
        let held = self.plugin.slot.lease().ok().filter(|held| held.number == self.number)?;
        let instance = held.instance.clone();
        let limit = self.core.options().hook_deadline;
        match held.deputy.run("self_check", limit, move || instance.self_check()) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("its self_check failed: {error}")),
            Err(_) => Some(format!("its self_check has not returned within {limit:?}")),
        }
    }

    /// Whether nothing more is to be done.
    fn send_back(&self, fault: &str) -> bool {
        match reload::roll_back(&self.core, &self.plugin, self.number, fault) {
            Ok(_) => true,
            // Somebody else is at it. This is looked at again.
            Err(ReloadError::Busy { .. }) => false,
            // Nor can this be helped for now; it has been told.
            Err(ReloadError::Refused(refusal)) if refusal.reason.is_passing() => false,
            Err(error) => {
                let what = format!(
                    "generation {} of {} should go back, for {fault}, and cannot: {error}",
                    self.number, self.plugin.name
                );
                self.core.journal.record(Event::Trouble { what });
                self.end();
                true
            }
        }
    }

    fn passed(&self, reading: Reading) {
        self.plugin.record().baseline = Some(reading);
        self.end();
        if self.may_go_back {
            self.core.journal.record(Event::Proved {
                plugin: self.plugin.name.clone(),
                generation: self.number,
                calls: reading.calls,
                errors: reading.errors,
                panics: reading.panics,
                p99_us: reading.p99.as_secs_f64() * 1e6,
            });
        }
    }

    /// It is no longer metered.
    fn end(&self) {
        {
            let mut record = self.plugin.record();
            record.on_probation = record.on_probation.filter(|&number| number != self.number);
            if let Some(previous) = &mut record.previous {
                // Of use only while it is recent.
                previous.state = None;
            }
        }
        if let Ok(held) = self.plugin.slot.lease()
            && held.number == self.number
        {
            match self.core.options().measure_calls {
                true => held.meter.time_only_some(),
                false => held.tables.end_metering(),
            }
        }
    }
}

impl Probation {
    /// Why a generation is to be sent back, if it is.
    pub(crate) fn fault(&self, now: &Reading, before: Option<&Reading>) -> Option<String> {
        let ratio = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let panics = ratio(now.panics, now.calls);
        if now.panics >= self.panics.max(1) && panics > self.panic_ratio {
            return Some(format!("{} of {} calls panicked", now.panics, now.calls));
        }
        if now.calls < self.calls {
            return None;
        }
        let failed = ratio(now.errors, now.calls);
        let failed_before = before.map_or(0.0, |before| ratio(before.errors, before.calls));
        if failed > failed_before + self.error_ratio {
            return Some(format!(
                "{:.1} % of {} calls failed, {:.1} % before",
                failed * 100.0,
                now.calls,
                failed_before * 100.0
            ));
        }
        let usual = before.filter(|before| before.calls >= self.calls)?.p99;
        let slow = self.latency_factor > 0.0
            && now.tail > self.latency_floor
            && now.tail > usual.mul_f64(self.latency_factor);
        let slowest = 100.0 * part_of_the_slowest(now.calls);
        slow.then(|| {
            format!(
                "{slowest:.0} of 100 calls take longer than {:?}; before, 1 took longer than {usual:?}",
                now.tail
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(calls: u64, errors: u64, panics: u64, micros: u64) -> Reading {
        let p99 = Duration::from_micros(micros);
        Reading { calls, errors, panics, p99, tail: p99 }
    }

    fn fault(now: Reading, before: Option<Reading>) -> Option<String> {
        Probation::default().fault(&now, before.as_ref())
    }

    #[test]
    fn few_panics_among_many_calls_are_no_reason_and_many_are() {
        assert_eq!(fault(reading(1000, 0, 2, 10), None), None);
        assert_eq!(fault(reading(1000, 0, 10, 10), None), None);
        assert_eq!(fault(reading(1000, 0, 11, 10), None).unwrap(), "11 of 1000 calls panicked");
        // Also before there were many calls.
        assert_eq!(fault(reading(3, 0, 3, 10), None).unwrap(), "3 of 3 calls panicked");
    }

    #[test]
    fn errors_count_against_those_of_the_generation_before() {
        assert_eq!(fault(reading(99, 99, 0, 10), None), None, "too few to say");
        assert_eq!(fault(reading(100, 5, 0, 10), None), None);
        assert_eq!(fault(reading(100, 6, 0, 10), None).unwrap(), "6.0 % of 100 calls failed, 0.0 % before");
        assert_eq!(fault(reading(100, 6, 0, 10), Some(reading(1000, 20, 0, 10))), None);
    }

    #[test]
    fn latency_counts_if_it_is_many_times_that_before_and_not_small() {
        let before = Some(reading(1000, 0, 0, 50));
        assert_eq!(fault(reading(1000, 0, 0, 900), before), None);
        assert_eq!(fault(reading(1000, 0, 0, 400), Some(reading(1000, 0, 0, 1))), None, "below the floor");
        assert_eq!(
            fault(reading(1000, 0, 0, 1100), before).unwrap(),
            "2 of 100 calls take longer than 1.1ms; before, 1 took longer than 50µs"
        );
        let few_were_slow = Reading { tail: Duration::from_micros(60), ..reading(100, 0, 0, 1100) };
        assert_eq!(fault(few_were_slow, before), None);
        assert_eq!(
            fault(reading(1000, 0, 0, 1100), Some(reading(10, 0, 0, 50))),
            None,
            "too few to compare with"
        );
    }
}
