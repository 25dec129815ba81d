//! What carrying a state costs, against its being written and read with nobody in between; what callers notice of it;
//! and how much memory it takes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::rounds::{median, quantile};
use harness::table;
use reseat::{Event, Host, Options, TrustedDir};

/// Prints all of it.
pub fn print() {
    for (bytes, name, rounds) in [(1 << 10, "1 KiB", 200), (1 << 20, "1 MiB", 200), (256 << 20, "256 MiB", 9)]
    {
        handed_over(bytes, name, rounds);
    }
    left_in_place();
    restarted();
}

/// A host with a ledger whose state has this size.
fn host(dir: &Path, bytes: u64) -> Host {
    let host = serving(dir, "libledger.so");
    call(&host, "resize", &format!(r#"{{"bytes":{bytes}}}"#));
    host
}

/// A host that serves a library which was built beside this program.
fn serving(dir: &Path, library: &str) -> Host {
    let plugins = dir.join("plugins");
    let built = std::env::current_exe().expect("Linux knows").with_file_name(library);
    if !plugins.exists() {
        fs::create_dir(&plugins).expect("it is ours");
        fs::copy(built, plugins.join(library)).expect("cargo build was run");
    }
    // SAFETY: only this program writes there.
    let trusted = unsafe { TrustedDir::new(plugins) };
    let options =
        Options { watch: vec![trusted], state_dir: dir.join("state"), probation: None, ..Options::default() };
    Host::start(options).expect("the host starts")
}

fn call(host: &Host, method: &str, arguments: &str) -> u64 {
    call_of(host, "ledger", method, arguments)
}

fn call_of(host: &Host, plugin: &str, method: &str, arguments: &str) -> u64 {
    let result = host.call(plugin, method, arguments).expect("it does not fail");
    serde_json::from_str::<Option<u64>>(&result).expect("a number or nothing").unwrap_or_default()
}

fn handed_over(bytes: u64, name: &str, rounds: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let host = host(dir.path(), bytes);
    let (mut closed, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(call(&host, "alone", "{}") as f64);
        host.reload("ledger").expect("it is accepted");
        settled(&host);
        closed.push(last_closed(&host));
    }
    let ratios = closed.iter().zip(&alone).map(|(closed, alone)| closed / alone).collect();
    let ratio = median(ratios);
    let what = format!(
        "handover of {name}: gate closed, against save and restore alone ({})",
        table::shown(median(alone))
    );
    table::times(&what, ratio, if bytes >= 1 << 28 { Some(1.3) } else { None });
    table::note("— gate closed, p50", &table::shown(median(closed)));
    let waits = waits(&host, rounds);
    let limit = if bytes == 1 << 10 { Some(1e6) } else { None };
    table::note("— callers' wait, p50", &table::shown(quantile(waits.clone(), 0.5)));
    match limit {
        Some(limit) => table::time("— callers' wait, p99", quantile(waits.clone(), 0.99), limit),
        None => table::note("— callers' wait, p99", &table::shown(quantile(waits.clone(), 0.99))),
    }
    table::note("— callers' wait, the longest", &table::shown(quantile(waits, 1.0)));
    if bytes >= 1 << 28 {
        let more = peak_of(|| drop(host.reload("ledger").expect("it is accepted")));
        // The new build's own takes as much as the old one's.
        let carrying = more / bytes as f64 - 1.0;
        table::times(
            "— memory at its peak beyond both builds' own, against the state's size",
            carrying,
            None,
        );
    }
    host.shutdown(Duration::from_secs(60));
}

/// Old generations are unloaded, and what is kept is on disk, so that neither is measured with the next one.
fn settled(host: &Host) {
    while host.status().plugins[0].generations.len() > 1
        || host
            .history("ledger")
            .iter()
            .filter_map(|pair| pair.state.as_ref())
            .any(|state| state.path.is_none())
    {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// How long the gate was closed last, in ns.
fn last_closed(host: &Host) -> f64 {
    let events = host.recent_events();
    let closed = events.iter().rev().find_map(|event| match event.event {
        Event::Reloaded { closed_ms, .. } => Some(closed_ms * 1e6),
        _ => None,
    });
    closed.expect("it was reloaded")
}

/// The longest call during each of so many reloads, by one caller that pauses for a moment after each call, so that it is
/// not the scheduler's turn that is measured, in ns.
fn waits(host: &Host, reloads: usize) -> Vec<f64> {
    let (worst, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                call(host, "touch", "{}");
                worst.fetch_max(
                    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
                    Ordering::Relaxed,
                );
                std::thread::sleep(Duration::from_micros(5));
            }
        });
        let waits = (0..reloads).map(|_| {
            settled(host);
            worst.store(0, Ordering::Relaxed);
            host.reload("ledger").expect("it is accepted");
            // The call that has waited is over a moment later.
            std::thread::sleep(Duration::from_millis(1));
            worst.load(Ordering::Relaxed) as f64
        });
        let waits = waits.collect();
        done.store(true, Ordering::Relaxed);
        waits
    })
}

/// How much more memory was resident while this ran than before, in bytes.
fn peak_of(run: impl FnOnce()) -> f64 {
    fs::write("/proc/self/clear_refs", "5").expect("Linux has that");
    let before = resident("VmRSS:");
    run();
    resident("VmHWM:") - before
}

fn resident(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has that");
    let kib =
        status.lines().find_map(|it| it.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("it is there") * 1024.0
}

/// A region of 256 MiB, every page of which is in use.
fn left_in_place() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let host = serving(dir.path(), "libfield.so");
    call_of(&host, "field", "fill", "{}");
    let closed = (0..50).map(|_| {
        host.reload("field").expect("it is accepted");
        assert_eq!(call_of(&host, "field", "touch", "{}"), 65_536);
        last_closed(&host)
    });
    let closed: Vec<_> = closed.collect();
    table::time("handover of a region of 256 MiB: gate closed, p50", median(closed.clone()), 1e6);
    table::note("— the longest", &table::shown(quantile(closed, 1.0)));
}

/// From the start of a host to its serving what was kept.
fn restarted() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let limit = Duration::from_secs(60);
    host(dir.path(), 1 << 20).shutdown(limit);
    let times = (0..20).map(|_| {
        let begun = Instant::now();
        let host = serving(dir.path(), "libledger.so");
        let taken = begun.elapsed().as_nanos() as f64;
        assert_eq!(call(&host, "touch", "{}"), 16, "it has its state");
        host.shutdown(limit);
        taken
    });
    let times: Vec<_> = times.collect();
    table::time("start from what was kept, 1 MiB of state, the slowest of 20", quantile(times, 1.0), 1e9);
}
