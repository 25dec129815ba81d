//! How the calls of one plugin went in the last minutes: what is counted for ever, looked at once a second.

use std::collections::VecDeque;

use reseat::CallFigures;

/// How far back a page looks.
pub const WINDOW_MS: u64 = 300_000;
/// What quantiles are taken of: the calls of so long.
const QUANTILES_MS: u64 = 10_000;

/// A second of a plugin's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub at_ms: u64,
    pub calls_per_s: f64,
    /// Those that failed or panicked.
    pub failures_per_s: f64,
    /// Of the calls of the last ten seconds, those that were timed; in nanoseconds.
    pub quantiles: Option<(u64, u64)>,
}

/// What has been counted of a generation, at one moment.
#[derive(Clone)]
pub struct Reading {
    pub generation: u64,
    pub calls: u64,
    pub errors: u64,
    pub panics: u64,
    latencies: Vec<(u64, u64)>,
}

impl From<&CallFigures> for Reading {
    fn from(figures: &CallFigures) -> Reading {
        let CallFigures { generation, calls, errors, panics, .. } = *figures;
        Reading { generation, calls, errors, panics, latencies: figures.latencies.clone() }
    }
}

/// The last minutes of a plugin's calls.
#[derive(Default)]
pub struct Gauge {
    points: VecDeque<Point>,
    /// Of one generation, as far back as quantiles look.
    readings: VecDeque<(u64, Reading)>,
}

impl Gauge {
    /// Takes in what is counted now, of a generation that began to serve at `since_ms`. `None`: nothing is counted.
    pub fn read(&mut self, at_ms: u64, reading: Option<Reading>, since_ms: u64) {
        let goes_on = |(_, before): &(u64, Reading)| {
            reading.as_ref().is_some_and(|now| before.generation == now.generation)
        };
        if !self.readings.back().is_some_and(goes_on) {
            self.readings.clear();
        }
        let point = reading.as_ref().map(|now| self.point(at_ms, now, since_ms));
        self.points.push_back(point.unwrap_or(Point { at_ms, ..Point::default() }));
        while self.points.front().is_some_and(|first| first.at_ms + WINDOW_MS < at_ms) {
            self.points.pop_front();
        }
        self.readings.extend(reading.map(|reading| (at_ms, reading)));
        while self.readings.front().is_some_and(|(at, _)| at + QUANTILES_MS < at_ms) {
            self.readings.pop_front();
        }
    }

    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }

    /// What was counted last, and how that second went.
    pub fn last(&self) -> Option<(&Reading, &Point)> {
        Some((&self.readings.back()?.1, self.points.back()?))
    }

    fn point(&self, at_ms: u64, now: &Reading, since_ms: u64) -> Point {
        // The calls of a generation that has just begun were made since then.
        let (from_ms, calls, failures) = match self.readings.back() {
            Some((from_ms, before)) => (*from_ms, before.calls, before.errors + before.panics),
            None => (since_ms, 0, 0),
        };
        let seconds = (at_ms.saturating_sub(from_ms) as f64 / 1e3).max(0.1);
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Point {
            at_ms,
            calls_per_s: per_s(now.calls, calls),
            failures_per_s: per_s(now.errors + now.panics, failures),
            quantiles: self.quantiles(now),
        }
    }

    /// The median and what 99 of 100 stay within.
    fn quantiles(&self, now: &Reading) -> Option<(u64, u64)> {
        let before = self.readings.front().map_or(&[][..], |(_, first)| &first.latencies);
        let of_before = |nanos: u64| {
            let found = before.binary_search_by_key(&nanos, |(nanos, _)| *nanos);
            found.map_or(0, |at| before[at].1)
        };
        let recent: Vec<(u64, u64)> = now
            .latencies
            .iter()
            .map(|(nanos, count)| (*nanos, count.saturating_sub(of_before(*nanos))))
            .collect();
        Some((quantile(&recent, 0.5)?, quantile(&recent, 0.99)?))
    }
}

/// Where this part of all is reached.
fn quantile(counts: &[(u64, u64)], part: f64) -> Option<u64> {
    let goal = (counts.iter().map(|(_, count)| count).sum::<u64>() as f64 * part).ceil() as u64;
    let mut seen = 0;
    let reached = counts.iter().find(|(_, count)| {
        seen += count;
        seen >= goal && goal > 0
    });
    reached.map(|(nanos, _)| *nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(generation: u64, calls: u64, errors: u64, latencies: &[(u64, u64)]) -> Option<Reading> {
        Some(Reading { generation, calls, errors, panics: 0, latencies: latencies.to_vec() })
    }

    #[test]
    fn a_rate_is_what_was_counted_since_the_last_look() {
        let mut gauge = Gauge::default();
        gauge.read(10_000, reading(1, 1_000, 0, &[]), 0);
        gauge.read(12_000, reading(1, 1_600, 20, &[]), 0);
        let rates: Vec<_> = gauge.points().map(|point| (point.calls_per_s, point.failures_per_s)).collect();
        assert_eq!(rates, [(100.0, 0.0), (300.0, 10.0)]);
    }

    #[test]
    fn a_generation_that_has_just_begun_shows_its_own_rate_and_no_hole() {
        let mut gauge = Gauge::default();
        gauge.read(1_000, reading(1, 500, 0, &[]), 0);
        // It took over 600 ms later, and 400 ms before this look.
        gauge.read(2_000, reading(2, 200, 0, &[(8, 200)]), 1_600);
        let (_, last) = gauge.last().unwrap();
        assert_eq!((last.calls_per_s, last.quantiles), (500.0, Some((8, 8))));
    }

    #[test]
    fn quantiles_are_of_the_last_seconds_and_not_of_all_time() {
        let mut gauge = Gauge::default();
        for second in 0..30 {
            let slow = if second < 10 { 0 } else { (second - 10) * 100 };
            gauge.read(second * 1_000, reading(1, 0, 0, &[(100, 10_000), (5_000, slow)]), 0);
        }
        assert_eq!(gauge.last().unwrap().1.quantiles, Some((5_000, 5_000)));
        gauge.read(30_000, reading(1, 0, 0, &[(100, 15_000), (5_000, 1_900)]), 0);
        assert_eq!(gauge.last().unwrap().1.quantiles, Some((100, 5_000)));
    }

    #[test]
    fn only_the_last_minutes_are_kept_and_a_plugin_without_figures_has_none() {
        let mut gauge = Gauge::default();
        for second in 0..1_000 {
            gauge.read(second * 1_000, reading(1, second, 0, &[]), 0);
        }
        assert_eq!(gauge.points().count() as u64, WINDOW_MS / 1_000 + 1);
        gauge.read(1_000_000, None, 0);
        assert!(gauge.last().is_none());
    }
}
