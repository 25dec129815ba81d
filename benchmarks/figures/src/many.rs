//! What a plugin costs that is one of a thousand.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::rounds::median;
use harness::table;
use reseat::{Event, Host};

use crate::pieces::{self, Piece};

const MANY: usize = 1_000; // MANY
const RELOADS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(600);

/// Prints all of it.
pub fn print() {
    for (is_chain, name) in [(false, "1,000 plugins"), (true, "1,000 plugins in a chain")] {
        let many = Served::start(MANY, is_chain);
        table::note(&format!("{name}: start, for each"), &table::shown(many.started / MANY as f64));
        table::note("— memory, for each", &format!("{:.0} KiB", many.memory / MANY as f64 / 1024.0));
        let few = Served::start(if is_chain { 3 } else { 1 }, is_chain);
        let (mut reloads, mut base) = (Vec::new(), Vec::new());
        let (mut renames, mut base_renames) = (Vec::new(), Vec::new());
        for build in 1..=RELOADS {
            base.push(few.reload());
            reloads.push(many.reload());
            base_renames.push(few.rename(build));
            renames.push(many.rename(build));
        }
        let others = if is_chain { "the same in a chain of 3" } else { "the same alone" };
        compare(&format!("— reload of one, against {others}"), reloads, base);
        compare(&format!("— from its rename, against {others}"), renames, base_renames);
        let begun = Instant::now();
        many.host.shutdown(Duration::from_secs(60));
        let taken = begun.elapsed().as_nanos() as f64;
        table::note("— end of the host, for each", &table::shown(taken / MANY as f64));
    }
}

fn compare(what: &str, many: Vec<f64>, few: Vec<f64>) {
    let ratio = median(many.iter().zip(&few).map(|(many, few)| many / few).collect());
    let (many, few) = (median(many), median(few));
    table::times(&format!("{what} ({}; {})", table::shown(many), table::shown(few)), ratio, Some(1.5));
}

/// A host with so many pieces.
struct Served {
    dir: tempfile::TempDir,
    host: Host,
    middle: Piece,
    /// How long it took until all served, in ns.
    started: f64,
    /// What it took, in bytes.
    memory: f64,
}

impl Served {
    fn start(count: usize, is_chain: bool) -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("it is ours");
        let piece = |number| if is_chain { Piece::of_chain(number, count) } else { Piece::alone(number) };
        (0..count).for_each(|number| piece(number).install(&plugins));
        let (before, begun) = (resident(), Instant::now());
        let host = pieces::host(dir.path(), &plugins);
        while !all_serve(&host, count) {
            assert!(begun.elapsed() < PATIENCE, "all are loaded some time");
            std::thread::sleep(Duration::from_millis(1));
        }
        let started = begun.elapsed().as_nanos() as f64;
        Served { dir, host, middle: piece(count / 2), started, memory: resident() - before }
    }

    /// One of them, by its name.
    fn reload(&self) -> f64 {
        let begun = Instant::now();
        self.host.reload(&self.middle.name()).expect("it is accepted");
        let taken = begun.elapsed().as_nanos() as f64;
        self.settle();
        taken
    }

    /// One of them, from the rename of its next build until that serves.
    fn rename(&self, build: usize) -> f64 {
        let mut events = self.host.events();
        let shelved = self.dir.path().join("next.so");
        fs::write(&shelved, self.middle.bytes(build)).expect("it is ours");
        let begun = Instant::now();
        fs::rename(shelved, self.middle.path(&self.dir.path().join("plugins"))).expect("one file system");
        let served = events.find(|event| matches!(event, Event::Reloaded { .. }));
        served.expect("it is accepted");
        let taken = begun.elapsed().as_nanos() as f64;
        self.settle();
        taken
    }

    /// The old generation is unloaded, so that this is not measured with the next reload.
    fn settle(&self) {
        while self.host.status().plugins.iter().any(|plugin| plugin.generations.len() > 1) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn all_serve(host: &Host, count: usize) -> bool {
    (0..count).rev().all(|number| host.call(&pieces::name(number), "step", r#"{"a":1,"b":1}"#).is_ok())
}

/// The memory of this process, in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string(Path::new("/proc/self/status")).expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024.0
}
