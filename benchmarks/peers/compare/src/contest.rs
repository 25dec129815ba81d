//! Runs all ways of calling side by side, and prints one line for each.

use std::cell::RefCell;
use std::time::Instant;

use harness::calls::{Calls, PLACES, Way, repeat};
use harness::rounds::{Contestant, Rounds, median, on_threads};

const ROUNDS: usize = 11;
/// What a contestant may take in a round. Threads that call for a shorter time hardly meet.
const NANOS: f64 = 10e6;
const THREADS: [usize; 3] = [1, 2, 4];
const CORES: &str = "*if near 1 for several threads, they took turns: what contention costs does not show*";

/// Everybody who takes part. The first one is what the others are compared with.
#[derive(Default)]
pub struct Contest<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    name: &'static str,
    during_reload: &'static str,
    /// What each thread does in a round.
    calls: u64,
    /// So many threads, at a place of a cache line, with so many calls each; ns per call.
    run: Box<dyn Fn(usize, usize, u64) -> f64 + 'a>,
}

impl<'a> Contest<'a> {
    /// One more, and what becomes of a call while the library is replaced.
    pub fn enter<W: Way>(&mut self, name: &'static str, way: &'a W, during_reload: &'static str) {
        assert_eq!(way.step(2, 3), 65, "{name} calls something else");
        let run = move |threads, place, calls| {
            on_threads(threads, calls, |n| repeat(way, Calls::Dependent, place, n))
        };
        let calls = (NANOS / run(1, PLACES[0], 100_000)) as u64;
        self.entries.push(Entry { name, during_reload, calls, run: Box::new(run) });
    }

    /// Measures, and prints the table.
    pub fn print(&self) {
        let columns = THREADS.map(|threads| self.measure(threads));
        println!("| call through |{} during a reload |", THREADS.map(heading).concat());
        println!("| --- |{} --- |", " ---: | ---: |".repeat(THREADS.len()));
        for (i, entry) in self.entries.iter().enumerate() {
            let cells = columns.each_ref().map(|column| format!(" {} |", column.cells[i]));
            println!("| {} |{} {} |", entry.name, cells.concat(), entry.during_reload);
        }
        let cores = columns.map(|column| format!(" {:.1} | |", column.cores));
        println!("| *cores that the threads had* |{} {CORES} |", cores.concat());
    }

    fn measure(&self, threads: usize) -> Column {
        let cores = RefCell::default();
        let rounds = Rounds::run(ROUNDS, self.contestants(threads, &cores));
        let base = self.entries[0].name;
        let cells = |entry: &Entry<'_>| {
            let nanos = PLACES.map(|place| rounds.nanos(&at(entry.name, place)));
            let ratios = PLACES.map(|place| rounds.ratio(&at(entry.name, place), &at(base, place)).all);
            format!("{:.1} ns | {:.2}×", median(nanos.into()), median(ratios.into()))
        };
        Column { cells: self.entries.iter().map(cells).collect(), cores: median(cores.take()) }
    }

    /// All of them, at all places. They note how many cores they had.
    fn contestants<'b>(&'b self, threads: usize, cores: &'b RefCell<Vec<f64>>) -> Vec<Contestant<'b>> {
        let mut all: Vec<Contestant<'b>> = Vec::new();
        for entry in &self.entries {
            for place in PLACES {
                let run = move || {
                    let start = Instant::now();
                    let nanos = (entry.run)(threads, place, entry.calls);
                    let busy = nanos * entry.calls as f64 * threads as f64;
                    cores.borrow_mut().push(busy / start.elapsed().as_nanos() as f64);
                    nanos
                };
                all.push((at(entry.name, place), Box::new(run)));
            }
        }
        all
    }
}

/// What came out for one number of threads.
struct Column {
    /// Time and ratio of each contestant.
    cells: Vec<String>,
    /// On how many cores the threads ran: on a busy machine they take turns, and do not disturb each other.
    cores: f64,
}

fn at(name: &str, place: usize) -> String {
    format!("{name} {place}")
}

fn heading(threads: usize) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!(" {threads} thread{s} | to the bare pointer |")
}
