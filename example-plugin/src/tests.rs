use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::*;
use crate::buckets::{MILLI, Rule};
use crate::state::{Known, Level, V1};

const RULE: Rule = Rule { full: 10 * MILLI, per_ms: 5.0, max_keys: 1000 };

fn buckets(rule: Rule) -> Buckets {
    Buckets::new(rule, Known::default(), 0)
}

fn host(config: serde_json::Value) -> Services {
    plugin_api::testing::services("limiter", config)
}

#[test]
fn a_bucket_is_emptied_and_says_when_to_come_again() {
    let buckets = buckets(RULE);
    let ask = |cost, now| buckets.take("alice", cost, now);
    assert_eq!(ask(8, 0), Decision { allowed: true, tokens_left: 2, retry_after_ms: 0 });
    // One token is missing, and flows back in 200 ms.
    assert_eq!(ask(3, 0), Decision { allowed: false, tokens_left: 2, retry_after_ms: 200 });
    assert!(!ask(3, 199).allowed);
    assert_eq!(ask(3, 200), Decision { allowed: true, tokens_left: 0, retry_after_ms: 0 });
}

#[test]
fn many_short_waits_refill_as_much_as_a_long_one() {
    let slow = Rule { per_ms: 0.3, ..RULE };
    let buckets = buckets(slow);
    buckets.take("alice", 10, 0);
    for now in 0..10_000 {
        buckets.take("alice", 0, now);
        buckets.take("alice", 11, now);
    }
    assert_eq!(buckets.peek("alice", 10_000).map(|decision| decision.tokens_left), Some(3));
}

#[test]
fn a_cost_above_a_full_bucket_is_never_allowed_and_no_cost_always() {
    let buckets = buckets(RULE);
    assert_eq!(
        buckets.take("alice", 11, 0),
        Decision { allowed: false, tokens_left: 10, retry_after_ms: u64::MAX }
    );
    buckets.take("alice", 10, 0);
    assert_eq!(buckets.take("alice", 0, 0), Decision { allowed: true, tokens_left: 0, retry_after_ms: 0 });
}

#[test]
fn a_clock_that_jumps_back_takes_and_gives_nothing() {
    let buckets = buckets(RULE);
    buckets.take("alice", 4, 1_000_000);
    assert_eq!(buckets.peek("alice", 10).map(|decision| decision.tokens_left), Some(6));
    assert_eq!(buckets.peek("alice", 1_000_000).map(|decision| decision.tokens_left), Some(6));
}

#[test]
fn eight_threads_take_exactly_what_is_there() {
    let slow = Rule { full: 100_000 * MILLI, per_ms: 1e-12, ..RULE };
    let buckets = buckets(slow);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while buckets.take("shared", 7, 1).allowed {
                    taken.fetch_add(7, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 100_000 / 7 * 7);
}

#[test]
fn memory_is_bounded_and_full_buckets_are_forgotten_first() {
    let small = Rule { max_keys: 16, per_ms: 1e-12, ..RULE };
    let buckets = buckets(small);
    for number in 0..10_000 {
        buckets.take(&format!("key-{number}"), 1, 0);
    }
    assert!(buckets.len() <= 16, "{}", buckets.len());
}

#[test]
fn a_reload_carries_every_bucket_and_saving_twice_gives_the_same_bytes() -> Result<()> {
    let host = host(json!({ "refill_per_second": 1e-9 }));
    let old = TokenBuckets::create(&host)?;
    old.check("alice", 3);
    old.check("bob", 10);
    assert_eq!(old.save()?, old.save()?);

    let new: TokenBuckets = plugin_api::testing::hand_over(&old, &host)?;
    assert_eq!(new.check("alice", 0).tokens_left, BURST - 3);
    assert!(!new.check("bob", 1).allowed);
    assert_eq!(old.check("alice", 0).tokens_left, BURST - 3, "saving has not changed the old one");
    Ok(())
}

#[test]
fn a_smaller_burst_applies_to_the_buckets_there_are() {
    let level = Level { milli: 9 * MILLI, at_ms: 0 };
    let known = Known { buckets: [("alice".to_owned(), level)].into() };
    let buckets = Buckets::new(Rule { full: 4 * MILLI, ..RULE }, known, 0);
    assert_eq!(buckets.peek("alice", 0).map(|decision| decision.tokens_left), Some(4));
}

#[test]
fn state_of_version_1_is_read() -> Result<()> {
    let saved = Saved::encode(&V1([("alice".to_owned(), 4)].into()))?.with_version(1);
    let limiter = TokenBuckets::restore(&host(json!({ "refill_per_second": 1e-9 })), saved)?;
    assert_eq!(limiter.check("alice", 0).tokens_left, 4);
    Ok(())
}

#[test]
fn a_newer_state_is_refused_by_its_number() {
    let saved = Saved::encode(&Known::default()).map(|saved| saved.with_version(3));
    let Err(error) = TokenBuckets::restore(&host(json!({})), saved.expect("it can be written")) else {
        panic!("version 3 was read");
    };
    assert!(error.to_string().contains("version 3"), "{error}");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (config, name) in [
        (json!({ "burst": 0 }), "burst"),
        (json!({ "refill_per_second": 0.0 }), "refill_per_second"),
        (json!({ "max_keys": 0 }), "max_keys"),
        (json!({ "brust": 3 }), "brust"),
        (json!({ "burst": "many" }), "many"),
    ] {
        let Err(error) = TokenBuckets::create(&host(config)) else { panic!("{name} was taken") };
        assert!(format!("{error:#}").contains(name), "{error:#}");
    }
}
