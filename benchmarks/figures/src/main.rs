//! The figures that reseat is held to, measured on this machine: `scripts/bench`.
//!
//! `figures [calls] [peers] [drains] [json] [reloads] [builds] [states] [many]`: all of them unless some are named.

mod drains;
mod many;
mod peers;
mod pieces;
mod reloads;
mod states;
mod ways;

use std::process::ExitCode;
use std::sync::Barrier;

use callee_interface::{Callee, Line, Order};
use harness::calls::{Calls, PLACES, Way, repeat};
use harness::rounds::{Contestant, Ratio, Rounds, median, on_threads};
use harness::table;
use reseat::gate::Slot;
use reseat::{Handle, Host, Options, TrustedDir};
use ways::{Guarded, InScope, Leased, Outlined, Plain, Typed};

const ROUNDS: usize = 15;
const CALLS: u64 = 3_000_000;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|first| first == "probe") {
        return reseat::probe::serve();
    }
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let host = host(dir.path(), false);
    let handle: Handle<dyn Callee> = host.plugin("callee").expect("it is loaded");
    table::head();
    if is_wanted("calls") {
        print_calls(&host, &handle);
    }
    if is_wanted("peers") {
        peers::print();
    }
    if is_wanted("drains") {
        drains::print();
    }
    if wanted.iter().any(|w| w == "measured") {
        print_measured(&Typed(handle.clone()));
    }
    if is_wanted("json") {
        print_json(&host);
    }
    if is_wanted("reloads") {
        reloads::print();
    }
    if is_wanted("builds") {
        reloads::print_builds();
    }
    if is_wanted("states") {
        states::print();
    }
    if is_wanted("many") {
        many::print();
    }
    ExitCode::SUCCESS
}

/// A host that serves the callee, which was built beside this program.
fn host(dir: &std::path::Path, measure_calls: bool) -> Host {
    let plugins = dir.join("plugins");
    let library = std::env::current_exe().expect("Linux knows").with_file_name("libcallee.so");
    std::fs::create_dir(&plugins).expect("it is ours");
    std::fs::copy(library, plugins.join("libcallee.so")).expect("cargo build -p callee was run");
    // SAFETY: only this program writes there.
    let trusted = unsafe { TrustedDir::new(plugins) };
    let state_dir = dir.join("state");
    let options =
        Options { watch: vec![trusted], state_dir, probation: None, measure_calls, ..Options::default() };
    Host::start(options).expect("the host starts")
}

fn print_calls(host: &Host, handle: &Handle<dyn Callee>) {
    let lease = handle.lease().expect("it is loaded");
    let plain = Plain::of(&lease);
    let guarded = Guarded(Slot::new(plain));
    let (typed, outlined) = (Typed(handle.clone()), Outlined(handle.clone()));
    for threads in [1, 2, 4] {
        for (calls, kind) in [(Calls::Dependent, "dependent"), (Calls::Independent, "independent")] {
            let mut all = Vec::new();
            at_all_places(&mut all, "plain", &plain, threads, calls);
            at_all_places(&mut all, "guard", &guarded, threads, calls);
            at_all_places(&mut all, "typed", &typed, threads, calls);
            at_all_places(&mut all, "outlined", &outlined, threads, calls);
            let rounds = Rounds::run(ROUNDS, all);
            let s = if threads == 1 { "" } else { "s" };
            let at = format!("{threads} thread{s}, {kind} calls");
            let nanos = |name| {
                table::shown(median(PLACES.map(|place| rounds.nanos(&format!("{name} {place}"))).into()))
            };
            table::note(
                &format!("{at}: plain call; typed call"),
                &format!("{}; {}", nanos("plain"), nanos("typed")),
            );
            table::ratio("— guard", over_places(&rounds, "guard", "plain"), 1.2);
            table::ratio("— typed call", over_places(&rounds, "typed", "plain"), 1.5);
            table::note("— typed call in a function of its own", &nanos("outlined"));
        }
    }
    print_idle_threads(&typed);
    print_measured(&typed);
    print_leases_and_scopes(host, handle, &plain, &typed);
}

/// One contestant for each place.
fn at_all_places<'a, W: Way>(
    all: &mut Vec<Contestant<'a>>,
    name: &str,
    way: &'a W,
    threads: usize,
    calls: Calls,
) {
    for place in PLACES {
        let run = move || on_threads(threads, CALLS / threads as u64, |n| repeat(way, calls, place, n));
        all.push((format!("{name} {place}"), Box::new(run)));
    }
}

/// The median over the places of a line.
fn over_places(rounds: &Rounds, name: &str, base: &str) -> Ratio {
    let ratios = PLACES.map(|place| rounds.ratio(&format!("{name} {place}"), &format!("{base} {place}")));
    Ratio { all: median(ratios.map(|r| r.all).into()), calm: median(ratios.map(|r| r.calm).into()) }
}

/// What it costs to count and time all calls.
fn print_measured(typed: &Typed) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let host = host(dir.path(), true);
    let measured = Typed(host.plugin("callee").expect("it is loaded"));
    for threads in [1, 2] {
        let run = |way| {
            move || on_threads(threads, CALLS / threads as u64, |n| repeat(way, Calls::Dependent, 0, n))
        };
        let all: Vec<Contestant<'_>> =
            vec![("typed".into(), Box::new(run(typed))), ("measured".into(), Box::new(run(&measured)))];
        let rounds = Rounds::run(ROUNDS, all);
        let more = rounds.nanos("measured") - rounds.nanos("typed");
        table::time(&format!("counting and timing a call, {threads} threads"), more, 25.0);
    }
}

/// Threads that have called before, and sleep.
fn print_idle_threads(typed: &Typed) {
    let run = || on_threads(1, CALLS, |n| repeat(typed, Calls::Dependent, 0, n));
    let crowded = || {
        let (come, go) = (Barrier::new(101), Barrier::new(101));
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| {
                    typed.step(1, 1);
                    come.wait();
                    go.wait();
                });
            }
            come.wait();
            let taken = run();
            go.wait();
            taken
        })
    };
    let all: Vec<Contestant<'_>> =
        vec![("alone".into(), Box::new(run)), ("crowded".into(), Box::new(crowded))];
    let rounds = Rounds::run(ROUNDS, all);
    table::ratio(
        "typed call with 100 idle threads registered, against 1",
        rounds.ratio("crowded", "alone"),
        1.1,
    );
}

fn print_leases_and_scopes(host: &Host, handle: &Handle<dyn Callee>, plain: &Plain, typed: &Typed) {
    let leased = Leased(handle.clone());
    let mut all: Vec<Contestant<'_>> = Vec::new();
    at_all_places(&mut all, "plain", plain, 1, Calls::Dependent);
    at_all_places(&mut all, "typed", typed, 1, Calls::Dependent);
    at_all_places(&mut all, "leased", &leased, 1, Calls::Dependent);
    for place in PLACES {
        let in_scope = move || {
            host.scope(|scope| {
                let way = InScope(scope.enter(handle).expect("it is loaded"));
                on_threads(1, CALLS, |n| repeat(&way, Calls::Dependent, place, n))
            })
        };
        all.push((format!("in a scope {place}"), Box::new(in_scope)));
    }
    let entry = || {
        on_threads(1, CALLS, |n| {
            for i in 0..n {
                host.scope(|scope| {
                    std::hint::black_box(scope.enter(handle).expect("it is loaded").step(i, i)).is_ok()
                });
            }
        })
    };
    all.push(("scope".into(), Box::new(entry)));
    let rounds = Rounds::run(ROUNDS, all);
    table::ratio(
        "lease taken for each call, against the plain call",
        over_places(&rounds, "leased", "plain"),
        12.0,
    );
    table::ratio("call in a scope, against the typed call", over_places(&rounds, "in a scope", "typed"), 1.2);
    table::time("a scope, its first entering, and a call in it", rounds.nanos("scope"), 100.0);
}

/// A dynamic call against the parsing and printing that it cannot do without.
fn print_json(host: &Host) {
    const CALLS: u64 = 20_000;
    #[derive(serde::Deserialize)]
    struct Arguments {
        order: Order,
    }
    let line = Line { article: "teapot, blue".into(), count: 2, price: 1_450 };
    let order = Order { customer: "alice".into(), lines: vec![line; 3], total: 0 };
    let arguments = serde_json::json!({ "order": order }).to_string();
    let priced = host.call("callee", "price", &arguments).expect("it does not fail");
    assert!(priced.contains("\"total\":8700"), "{priced}");
    let dynamic = || {
        on_threads(1, CALLS, |n| {
            (0..n).for_each(|_| {
                std::hint::black_box(host.call("callee", "price", &arguments).expect("it does not fail"));
            })
        })
    };
    let serde_alone = || {
        on_threads(1, CALLS, |n| {
            (0..n).for_each(|_| {
                let Arguments { mut order } =
                    serde_json::from_str(std::hint::black_box(&arguments)).expect("it is valid");
                order.total = order.lines.iter().map(|line| u64::from(line.count) * line.price).sum();
                std::hint::black_box(serde_json::to_string(&order).expect("it can be written"));
            })
        })
    };
    let all: Vec<Contestant<'_>> =
        vec![("dynamic".into(), Box::new(dynamic)), ("serde".into(), Box::new(serde_alone))];
    let rounds = Rounds::run(ROUNDS, all);
    let (dynamic, serde_alone) = (rounds.nanos("dynamic"), rounds.nanos("serde"));
    table::note(
        "dynamic call with a payload of 200 bytes; serde alone",
        &format!("{}; {}", table::shown(dynamic), table::shown(serde_alone)),
    );
    table::time("— what the call adds", dynamic - serde_alone, 1_000.0);
}
