use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rate_limiter_interface::{Decision, RateLimiter};
use reseat::{Handle, Host, Options, TrustedDir};
use serde_json::json;

use crate::program::Running;
use crate::waiting::{DEADLINE, until};
use crate::workshop::Workshop;

/// How often the plugin is changed and built.
const BUILDS: u32 = 20;
/// The size of a bucket in the first build; each later one has one more, which is how an answer tells its build.
const BURST: u32 = 2_000_000_000;

/// What callers have seen: which build answered in which generation, and how many tokens they took.
#[derive(Default)]
struct Seen {
    bursts: Mutex<BTreeMap<u64, u32>>,
    calls: AtomicU64,
    taken: AtomicU64,
}

/// A bucket that nobody has taken from is full, so its level is the constant of the build that answers.
fn probe() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("probe-{}", NEXT.fetch_add(1, Ordering::Relaxed) % 1000)
}

/// One turn of a caller that has a typed handle. `last` is the newest build that has answered it.
fn call_typed(limiter: &Handle<dyn RateLimiter>, seen: &Seen, last: &mut u32) -> Result<(), String> {
    let guard = limiter.enter().map_err(|e| e.to_string())?;
    let ask = |key: &str, cost| guard.check(key, cost).map_err(|e| e.to_string());
    let (first, second) = (ask(&probe(), 0)?.tokens_left, ask(&probe(), 0)?.tokens_left);
    if first != second {
        return Err(format!("one guard, two builds: {first} and {second}"));
    }
    let known = *seen.bursts.lock().expect("no caller panics").entry(guard.generation()).or_insert(first);
    if known != first {
        return Err(format!("generation {} is both {known} and {first}", guard.generation()));
    }
    newer(first, last)?;
    if !ask("shared", 1)?.allowed {
        return Err("a full bucket is empty".into());
    }
    seen.taken.fetch_add(1, Ordering::Relaxed);
    seen.calls.fetch_add(3, Ordering::Relaxed);
    Ok(())
}

/// One turn of a caller that knows the host by its address.
fn call_http(program: &Running, seen: &Seen, last: &mut u32) -> Result<(), String> {
    let ask = |key: &str, cost: u32| -> Result<Decision, String> {
        let answer = program.post("/call/limiter/check", &json!({ "key": key, "cost": cost }))?;
        serde_json::from_value(answer).map_err(|e| e.to_string())
    };
    newer(ask(&probe(), 0)?.tokens_left, last)?;
    if !ask("shared", 1)?.allowed {
        return Err("a full bucket is empty".into());
    }
    seen.taken.fetch_add(1, Ordering::Relaxed);
    seen.calls.fetch_add(2, Ordering::Relaxed);
    Ok(())
}

fn newer(burst: u32, last: &mut u32) -> Result<(), String> {
    if burst < *last {
        return Err(format!("went back from build {last} to build {burst}"));
    }
    *last = burst;
    Ok(())
}

#[test]
fn twenty_builds_take_over_under_load_and_nothing_is_lost() {
    let workshop = Workshop::open("rebuilt");
    workshop.set("BURST", &BURST.to_string());
    workshop.build();

    // Nothing flows back into the buckets, so every token can be accounted for.
    let config = json!({ "refill_per_second": 1e-9 });
    let state = tempfile::tempdir().expect("a temporary directory can be made");
    // SAFETY: only this test's builds are put there.
    let output = unsafe { TrustedDir::new(workshop.output()) };
    let host = Host::start(Options {
        watch: vec![output],
        state_dir: state.path().join("typed"),
        config: [("limiter".to_owned(), config.clone())].into(),
        ..Options::default()
    })
    .expect("the host starts");
    let settings = state.path().join("reseat.toml");
    std::fs::write(&settings, "[plugins.limiter.config]\nrefill_per_second = 1e-9\n")
        .expect("it can be written");
    let served = Arc::new(Running::start(&workshop.output(), &state.path().join("served"), Some(&settings)));

    let limiter: Handle<dyn RateLimiter> = host.plugin("limiter").expect("it is loaded");
    let (typed, by_http) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let begun = Instant::now();
    let mut callers = Vec::new();
    for number in 0..6 {
        let (limiter, served, stop) = (limiter.clone(), served.clone(), stop.clone());
        let seen = if number < 4 { typed.clone() } else { by_http.clone() };
        callers.push(std::thread::spawn(move || {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                match number {
                    0..4 => call_typed(&limiter, &seen, &mut last)?,
                    _ => call_http(&served, &seen, &mut last)?,
                }
            }
            Ok::<u32, String>(last)
        }));
    }

    for build in 1..=BUILDS {
        let burst = BURST + build;
        workshop.set("BURST", &burst.to_string());
        workshop.build();
        // Both hosts have it before the next one is built, so that every build has its turn.
        let typed_has = || ask(&limiter, "fresh", 0).tokens_left == burst;
        assert!(until(DEADLINE, typed_has), "build {build}: {:?}", host.recent_events());
        let served_has = || served.tokens_left("fresh") == Some(burst);
        assert!(until(DEADLINE, served_has), "build {build}: {}", served.output());
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let last = caller.join().expect("no caller panics").unwrap_or_else(|e| panic!("a call failed: {e}"));
        assert!(last >= BURST, "each caller was answered");
    }
    let seconds = begun.elapsed().as_secs_f64();

    // Every build has answered in a generation of its own.
    let bursts = typed.bursts.lock().expect("no caller panics").clone();
    assert!(bursts.values().zip(bursts.values().skip(1)).all(|(a, b)| a < b), "{bursts:?}");
    assert_eq!(host.status().plugins[0].generation, Some(u64::from(BUILDS) + 1));
    // Every token that was taken is missing, and no other.
    let left = ask(&limiter, "shared", 0).tokens_left;
    assert_eq!(u64::from(left) + typed.taken.load(Ordering::Relaxed), u64::from(BURST));
    let left = served.tokens_left("shared").expect("it serves");
    assert_eq!(u64::from(left) + by_http.taken.load(Ordering::Relaxed), u64::from(BURST));
    let calls = typed.calls.load(Ordering::Relaxed) + by_http.calls.load(Ordering::Relaxed);
    assert!(calls as f64 >= 1000.0 * seconds, "{calls} calls in {seconds} s");
    // Nothing of the old builds is left.
    let only_one = || host.status().plugins[0].generations.len() == 1;
    assert!(until(DEADLINE, only_one), "{:#?}", host.status());
    assert!(Arc::into_inner(served).expect("the callers have ended").interrupt().success());
}

fn ask(limiter: &Handle<dyn RateLimiter>, key: &str, cost: u32) -> Decision {
    limiter.enter().and_then(|guard| guard.check(key, cost)).expect("it answers")
}
