//! What it costs when a plugin calls another one, and when a unit of work calls several.

use std::path::Path;

use callee_interface::{Caller, Part};
use harness::calls::{Calls, PLACES};
use harness::rounds::{Contestant, Rounds, median, on_threads};
use harness::table;
use reseat::{Handle, Host, Scope};

use crate::pieces::{self, Piece};
use crate::ways::Typed;
use crate::{CALLS, ROUNDS, at_all_places, over_places};

/// Prints all of it.
pub fn print() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let host = host(dir.path());
    calls(&host);
    scopes(&host);
}

/// A host with a caller, whom it calls, and a few pieces.
fn host(dir: &Path) -> Host {
    let plugins = dir.join("plugins");
    std::fs::create_dir(&plugins).expect("it is ours");
    for library in ["libcallee.so", "libcaller.so"] {
        let built = std::env::current_exe().expect("Linux knows").with_file_name(library);
        std::fs::copy(built, plugins.join(library)).expect("cargo build was run");
    }
    (0..PINNED).for_each(|number| Piece::alone(number).install(&plugins));
    pieces::host(dir, &plugins)
}

/// How many plugins a large unit of work has touched.
const PINNED: usize = 12;

/// Calls that are made within one call of the caller, so that this one does not count.
fn calls(host: &Host) {
    let (typed, caller) = (Typed(handle(host, "callee")), handle::<dyn Caller>(host, "caller"));
    let pieces: &Vec<_> = &(0..PINNED).map(|number| pieces::handle(host, number)).collect();
    let mut all: Vec<Contestant<'_>> = Vec::new();
    at_all_places(&mut all, "typed", &typed, 1, Calls::Dependent);
    for place in PLACES {
        let (entering, keeping) = (caller.clone(), caller.clone());
        let entering = move || {
            on_threads(1, CALLS, |n| {
                entering.enter().and_then(|caller| caller.entering(place as u32, n)).expect("it is loaded")
            })
        };
        let in_scope = {
            let entering = entering.clone();
            move || host.scope(|_| entering())
        };
        let keeping = move || {
            on_threads(1, CALLS, |n| {
                keeping.enter().and_then(|caller| caller.keeping(place as u32, n)).expect("it is loaded")
            })
        };
        let in_large_scope = {
            let entering = entering.clone();
            move || {
                host.scope(|scope| {
                    pieces.iter().for_each(|piece| touch(scope, piece));
                    entering()
                })
            }
        };
        all.push((format!("entering {place}"), Box::new(entering)));
        all.push((format!("in a scope {place}"), Box::new(in_scope)));
        all.push((format!("in a large scope {place}"), Box::new(in_large_scope)));
        all.push((format!("keeping {place}"), Box::new(keeping)));
    }
    let rounds = Rounds::run(ROUNDS, all);
    let nanos = |name: &str| {
        table::shown(median(PLACES.map(|place| rounds.nanos(&format!("{name} {place}"))).into()))
    };
    let what = "a plugin's typed call of another plugin, against an embedder's";
    table::ratio(what, over_places(&rounds, "entering", "typed"), 1.2);
    table::note("— the one; the other", &format!("{}; {}", nanos("entering"), nanos("typed")));
    table::ratio("— in a scope", over_places(&rounds, "in a scope", "typed"), 1.2);
    table::note("— in a scope that has called twelve others", &nanos("in a large scope"));
    table::ratio("— with one guard for all calls", over_places(&rounds, "keeping", "typed"), 1.2);
}

/// A unit of work that calls three plugins once each.
fn scopes(host: &Host) {
    let pieces: [_; 3] = std::array::from_fn(|number| pieces::handle(host, number));
    let work = || {
        on_threads(1, CALLS / 10, |n| {
            (0..n).for_each(|_| host.scope(|scope| pieces.iter().for_each(|piece| touch(scope, piece))));
        })
    };
    let rounds = Rounds::run(ROUNDS, vec![("scope".into(), Box::new(work))]);
    table::time("a scope, three plugins entered, and a call of each", rounds.nanos("scope"), 150.0);
}

fn touch<'h>(scope: &Scope<'h>, piece: &'h Handle<dyn Part>) {
    let entered = scope.enter(piece).expect("it is loaded");
    std::hint::black_box(entered.step(1, 1)).expect("it does not fail");
}

fn handle<I: reseat::Interface + ?Sized>(host: &Host, plugin: &str) -> Handle<I> {
    host.plugin(plugin).expect("it is loaded")
}
