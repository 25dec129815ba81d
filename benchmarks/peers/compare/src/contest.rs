//! Runs all ways of calling side by side, and prints one line for each.

use harness::calls::{Calls, PLACES, Way, repeat};
use harness::rounds::{Contestant, Rounds, median, on_threads};

const ROUNDS: usize = 11;
/// What a contestant may take in a round. Threads that call for a shorter time hardly meet.
const NANOS: f64 = 20e6;
const THREADS: [usize; 3] = [1, 2, 4];

/// Everybody who takes part. The first one is what the others are compared with.
#[derive(Default)]
pub struct Contest<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    name: &'static str,
    during_reload: &'static str,
    /// So many threads, at a place of a cache line; ns per call.
    run: Box<dyn Fn(usize, usize) -> f64 + 'a>,
}

impl<'a> Contest<'a> {
    /// One more, and what becomes of a call while the library is replaced.
    pub fn enter<W: Way>(&mut self, name: &'static str, way: &'a W, during_reload: &'static str) {
        assert_eq!(way.step(2, 3), 65, "{name} calls something else");
        let run = move |threads, place, calls| {
            on_threads(threads, calls, |n| repeat(way, Calls::Dependent, place, n))
        };
        let calls = (NANOS / run(1, PLACES[0], 100_000)) as u64;
        let run = Box::new(move |threads, place| run(threads, place, calls));
        self.entries.push(Entry { name, during_reload, run });
    }

    /// Measures, and prints the table.
    pub fn print(&self) {
        let columns = THREADS.map(|threads| self.measure(threads));
        println!("| call through |{} during a reload |", THREADS.map(heading).concat());
        println!("| --- |{} --- |", " ---: | ---: |".repeat(THREADS.len()));
        for (i, entry) in self.entries.iter().enumerate() {
            let cells = columns.each_ref().map(|column| format!(" {} |", column[i]));
            println!("| {} |{} {} |", entry.name, cells.concat(), entry.during_reload);
        }
    }

    /// The two cells of each contestant, for so many threads.
    fn measure(&self, threads: usize) -> Vec<String> {
        let rounds = Rounds::run(ROUNDS, self.contestants(threads));
        let base = self.entries[0].name;
        let cells = |entry: &Entry<'_>| {
            let nanos = PLACES.map(|place| rounds.nanos(&at(entry.name, place)));
            let ratios = PLACES.map(|place| rounds.ratio(&at(entry.name, place), &at(base, place)).all);
            format!("{:.1} ns | {:.2}×", median(nanos.into()), median(ratios.into()))
        };
        self.entries.iter().map(cells).collect()
    }

    fn contestants(&self, threads: usize) -> Vec<Contestant<'_>> {
        let mut all: Vec<Contestant<'_>> = Vec::new();
        for entry in &self.entries {
            for place in PLACES {
                all.push((at(entry.name, place), Box::new(move || (entry.run)(threads, place))));
            }
        }
        all
    }
}

fn at(name: &str, place: usize) -> String {
    format!("{name} {place}")
}

fn heading(threads: usize) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!(" {threads} thread{s} | to the bare pointer |")
}
