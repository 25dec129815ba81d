/// Files of state that older builds have left.
mod golden;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::*;
use crate::buckets::{Rule, TOKEN};
use crate::state::Bucket;

/// Ten tokens; one flows back every 200 ms.
const RULE: Rule = Rule { full: 10 * TOKEN, refill: TOKEN / 200, max_keys: 1000 };
/// As good as no refill.
const STILL: Rule = Rule { refill: 1, ..RULE };

fn host(config: serde_json::Value) -> Services {
    plugin_api::testing::services("limiter", config)
}

fn still() -> Services {
    host(json!({ "refill_per_second": 1e-9 }))
}

fn allowed(tokens_left: u32) -> Decision {
    Decision { allowed: true, tokens_left, retry_after_ms: 0 }
}

fn denied(tokens_left: u32, retry_after_ms: u64) -> Decision {
    Decision { allowed: false, tokens_left, retry_after_ms }
}

#[test]
fn a_bucket_is_emptied_and_says_when_to_come_again() {
    let buckets = Buckets::new(RULE);
    let ask = |cost, now| buckets.take("alice", cost, now);
    assert_eq!(ask(8, 0), allowed(2));
    assert_eq!(ask(3, 0), denied(2, 200), "one token is missing");
    assert_eq!(ask(3, 199), denied(2, 1));
    assert_eq!(ask(3, 200), allowed(0));
    assert_eq!(ask(1, 200), denied(0, 200));
    assert_eq!(buckets.take("bob", 1, 200), allowed(9), "others have their own bucket");
    assert_eq!(ask(0, 1_000_000), allowed(10), "a bucket holds no more than it holds");
}

#[test]
fn many_looks_refill_exactly_as_much_as_one() {
    for refill in [TOKEN / 3333, TOKEN / 7, 3 * TOKEN / 10_000, 1] {
        let rule = Rule { full: 1_000_000 * TOKEN, refill, ..RULE };
        let (often, once) = (Buckets::new(rule), Buckets::new(rule));
        often.take("alice", 1_000_000, 0);
        once.take("alice", 1_000_000, 0);
        for now in 1..10_000 {
            often.take("alice", 1_000_000, now);
            // Even taking what there is and giving less time in between changes no sum.
            if often.take("alice", 1, now).allowed {
                assert!(once.take("alice", 1, now).allowed);
            }
        }
        assert_eq!(often.levels(10_000), once.levels(10_000));
    }
}

#[test]
fn the_time_to_wait_is_exact() {
    let third = Rule { refill: TOKEN / 3000, ..RULE };
    let buckets = Buckets::new(third);
    buckets.take("alice", 10, 0);
    let Decision { retry_after_ms, .. } = buckets.take("alice", 1, 0);
    assert!(!buckets.take("alice", 1, retry_after_ms - 1).allowed);
    assert!(buckets.take("alice", 1, retry_after_ms).allowed);
}

#[test]
fn a_cost_above_a_full_bucket_is_never_allowed_and_no_cost_always() {
    let buckets = Buckets::new(RULE);
    assert_eq!(buckets.take("alice", 11, 0), denied(10, u64::MAX));
    assert_eq!(buckets.take("alice", u32::MAX, 0), denied(10, u64::MAX));
    buckets.take("alice", 10, 0);
    assert_eq!(buckets.take("alice", 0, 0), allowed(0));
}

#[test]
fn only_who_takes_something_has_a_bucket() {
    let buckets = Buckets::new(RULE);
    buckets.take("idle", 0, 0);
    buckets.take("greedy", 11, 0);
    assert_eq!(buckets.len(), 0);
    assert_eq!(buckets.peek("idle", 0), None);
    buckets.take("alice", 4, 0);
    assert_eq!(buckets.peek("alice", 0), Some(allowed(6)));
    assert_eq!(buckets.peek("alice", 400), Some(allowed(8)));
    assert_eq!(buckets.len(), 1);
}

#[test]
fn a_caller_who_read_the_clock_earlier_takes_and_gives_nothing() {
    let buckets = Buckets::new(RULE);
    buckets.take("alice", 4, 1_000_000);
    assert_eq!(buckets.take("alice", 0, 10), allowed(6));
    assert_eq!(buckets.take("alice", 1, 999_999), allowed(5));
    assert_eq!(buckets.peek("alice", 1_000_200), Some(allowed(6)));
}

#[test]
fn eight_threads_take_exactly_what_is_there() {
    let buckets = Buckets::new(Rule { full: 100_000 * TOKEN, ..STILL });
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (buckets, taken) = (&buckets, &taken);
            scope.spawn(move || {
                // Different costs, down to single tokens, so that nothing is left over.
                for cost in [7 + thread, 3, 1] {
                    while buckets.take("shared", cost, 1).allowed {
                        taken.fetch_add(u64::from(cost), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 100_000);
}

#[test]
fn memory_is_bounded() {
    for max_keys in [1, 5, 16, 100, 127] {
        let buckets = Buckets::new(Rule { max_keys, ..STILL });
        for number in 0..10_000 {
            buckets.take(&format!("key-{number}"), 1, 0);
        }
        let len = buckets.len();
        assert_eq!(len, max_keys);
        assert!(buckets.peek("key-9999", 0).is_some(), "the newest is there");
    }
}

#[test]
fn at_the_limit_a_full_bucket_is_forgotten_first_and_then_the_one_used_least_recently() {
    // As many as are looked at: the choice is among all of them.
    let buckets = Buckets::new(Rule { max_keys: 4, ..RULE });
    let known = |key, now| buckets.peek(key, now).is_some();
    buckets.take("drained", 10, 0);
    buckets.take("idle", 1, 0);
    buckets.take("older", 5, 100);
    buckets.take("newer", 5, 101);
    // At 200 ms `idle` is full again.
    buckets.take("first", 10, 200);
    assert!(!known("idle", 200) && known("drained", 200) && known("older", 200));
    // Then the fullest, which is also the older of two.
    buckets.take("second", 10, 200);
    assert!(!known("older", 200) && known("newer", 200) && known("drained", 200));
    // Of equally full ones, the one that was used least recently.
    let buckets = Buckets::new(Rule { max_keys: 3, ..RULE });
    for (key, now) in [("a", 0), ("b", 200), ("c", 400)] {
        buckets.take(key, 5, now);
    }
    buckets.take("d", 10, 100_000);
    let left = ["a", "b", "c"].map(|key| buckets.peek(key, 100_000).is_some());
    assert_eq!(left, [false, true, true]);
}

#[test]
fn a_reload_at_the_limit_forgets_nobody() {
    let rule = Rule { max_keys: 2000, ..RULE };
    let old = Buckets::new(rule);
    for number in 0..5000 {
        old.take(&format!("key-{number}"), 3, 0);
    }
    assert_eq!(old.len(), 2000);
    for _ in 0..8 {
        let new = Buckets::new(rule);
        V2::of(&old, 0, 0).put_into(&new, 0, 0);
        assert_eq!(V2::of(&new, 0, 0), V2::of(&old, 0, 0));
    }
}

#[test]
fn a_flood_of_new_keys_does_not_fill_the_bucket_of_who_has_used_it_up() {
    let buckets = Buckets::new(Rule { max_keys: 16 * 16, ..STILL });
    buckets.take("mallory", 10, 0);
    for number in 0..10_000 {
        buckets.take(&format!("flood-{number}"), 1, 0);
    }
    assert!(!buckets.take("mallory", 1, 0).allowed);
}

#[test]
fn a_reload_carries_every_bucket_and_saving_changes_nothing() -> Result<()> {
    let host = still();
    let old = TokenBuckets::create(&host)?;
    old.check("alice", 3);
    old.check("bob", 10);
    old.save()?;
    let new: TokenBuckets = plugin_api::testing::hand_over(&old, &host)?;
    assert_eq!(new.check("alice", 0).tokens_left, BURST - 3);
    assert!(!new.check("bob", 1).allowed);
    assert_eq!(new.check("fresh", 0).tokens_left, BURST);
    assert_eq!(old.check("alice", 0).tokens_left, BURST - 3, "saving has not changed the old one");
    Ok(())
}

#[test]
fn saving_twice_at_one_moment_gives_the_same_bytes() -> Result<()> {
    let buckets = Buckets::new(RULE);
    for number in 0..1000 {
        buckets.take(&format!("key-{number}"), 1 + number % 10, 7);
    }
    let saved = || Saved::encode(&V2::of(&buckets, 9, 5000));
    assert!(saved()? == saved()?);

    // And one that was restored from it saves them again: nothing depends on the order of a map.
    let again = Buckets::new(RULE);
    saved()?.decode::<V2>()?.put_into(&again, 9, 5000);
    assert!(Saved::encode(&V2::of(&again, 9, 5000))? == saved()?);
    Ok(())
}

#[test]
fn a_reload_refills_for_the_time_that_passed_and_no_more() {
    let old = Buckets::new(RULE);
    old.take("alice", 10, 1000);
    // Saved 100 ms after, restored 300 ms later by another clock: two tokens have flowed back.
    let state = V2::of(&old, 1100, 50_000);
    let new = Buckets::new(RULE);
    state.put_into(&new, Clock::START_MS, 50_300);
    assert_eq!(new.peek("alice", Clock::START_MS), Some(allowed(2)));
    assert_eq!(new.peek("alice", Clock::START_MS + 199), Some(allowed(2)));
    assert_eq!(new.peek("alice", Clock::START_MS + 200), Some(allowed(3)));
}

#[test]
fn parts_of_tokens_cross_a_reload() {
    let (mut buckets, mut now) = (Buckets::new(RULE), 0);
    buckets.take("alice", 10, now);
    // 200 reloads, 1 ms apart, are worth one token.
    for _ in 0..200 {
        now += 1;
        let state = V2::of(&buckets, now, 0);
        buckets = Buckets::new(RULE);
        state.put_into(&buckets, now, 0);
    }
    assert_eq!(buckets.take("alice", 1, now), allowed(0));
}

#[test]
fn a_wall_clock_that_jumps_back_during_a_reload_does_no_harm() {
    let old = Buckets::new(RULE);
    old.take("alice", 10, 0);
    let new = Buckets::new(RULE);
    V2::of(&old, 400, 1_000_000).put_into(&new, Clock::START_MS, 5);
    assert_eq!(new.peek("alice", Clock::START_MS), Some(allowed(2)));
    assert_eq!(new.peek("alice", Clock::START_MS + 200), Some(allowed(3)), "and time goes on");
}

#[test]
fn a_bucket_that_has_filled_up_is_not_carried() {
    let buckets = Buckets::new(RULE);
    buckets.take("alice", 1, 0);
    assert_eq!(V2::of(&buckets, 199, 0).buckets.len(), 1);
    assert_eq!(V2::of(&buckets, 200, 0).buckets.len(), 0);
}

#[test]
fn a_new_burst_applies_to_the_buckets_there_are() {
    let old = Buckets::new(RULE);
    old.take("alice", 1, 0);
    old.take("bob", 8, 0);
    let state = V2::of(&old, 0, 0);

    let smaller = Buckets::new(Rule { full: 4 * TOKEN, ..RULE });
    state.put_into(&smaller, 0, 0);
    assert_eq!(smaller.peek("alice", 0), Some(allowed(4)), "no more than fit");
    assert_eq!(smaller.peek("bob", 0), Some(allowed(2)));

    let larger = Buckets::new(Rule { full: 20 * TOKEN, ..RULE });
    state.put_into(&larger, 0, 0);
    assert_eq!(larger.peek("alice", 0), Some(allowed(9)), "a larger bucket fills at its rate");
    assert_eq!(larger.peek("alice", 2200), Some(allowed(20)));
}

#[test]
fn state_of_version_1_is_read() -> Result<()> {
    let saved =
        Saved::encode(&V1([("alice".to_owned(), 4), ("rich".to_owned(), 40)].into()))?.with_version(1);
    let limiter = TokenBuckets::restore(&still(), saved)?;
    assert_eq!(limiter.check("alice", 0).tokens_left, 4);
    assert_eq!(limiter.check("rich", 0).tokens_left, BURST);
    Ok(())
}

#[test]
fn a_newer_state_is_refused_by_its_number() -> Result<()> {
    let saved = Saved::encode(&V2 { saved_at_ms: 0, buckets: Default::default() })?.with_version(3);
    let Err(error) = TokenBuckets::restore(&still(), saved) else { panic!("version 3 was read") };
    assert!(error.to_string().contains("version 3"), "{error}");
    Ok(())
}

#[test]
fn state_can_be_read_by_people() -> Result<()> {
    let buckets = Buckets::new(RULE);
    buckets.take("alice", 3, 0);
    let saved = Saved::encode(&V2::of(&buckets, 150, 7))?;
    assert_eq!(
        saved.to_json()?,
        json!({ "saved_at_ms": 7, "buckets": { "alice": { "tokens": 7, "units": 750_000_000_000_000_000u64, "age_ms": 0 } } })
    );
    let odd = Bucket { tokens: u32::MAX, units: u64::MAX, age_ms: u64::MAX };
    let state = V2 { saved_at_ms: u64::MAX, buckets: [("odd".to_owned(), odd)].into() };
    state.put_into(&buckets, 0, 0);
    assert_eq!(buckets.peek("odd", 0), Some(allowed(10)), "whatever stands there, it is a bucket");
    Ok(())
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    for (config, name) in [
        (json!({ "burst": 0 }), "burst is 0; expected at least 1"),
        (json!({ "burst": -1 }), "invalid value: integer `-1`, expected u32"),
        (json!({ "burst": "many" }), "invalid type: string \"many\", expected u32"),
        (json!({ "refill_per_second": 0.0 }), "refill_per_second is 0; expected a number above 0"),
        (json!({ "refill_per_second": -1 }), "refill_per_second is -1; expected a number above 0"),
        (json!({ "max_keys": 0 }), "max_keys is 0; expected at least 1"),
        (
            json!({ "brust": 3 }),
            "unknown field `brust`, expected one of `burst`, `refill_per_second`, `max_keys`",
        ),
    ] {
        let Err(error) = TokenBuckets::create(&host(config)) else { panic!("{name} was taken") };
        assert!(format!("{error:#}").contains(name), "{error:#}");
    }
}

#[test]
fn settings_replace_the_constants() -> Result<()> {
    let limiter = TokenBuckets::create(&host(json!({ "burst": 2 })))?;
    assert_eq!(limiter.check("alice", 0).tokens_left, 2);
    let limiter = TokenBuckets::create(&host(json!({})))?;
    assert_eq!(limiter.check("alice", 0).tokens_left, BURST);
    // The fastest and the slowest that can be written.
    for rate in [f64::MAX, f64::MIN_POSITIVE] {
        let limiter = TokenBuckets::create(&host(json!({ "burst": u32::MAX, "refill_per_second": rate })))?;
        assert!(limiter.check("alice", u32::MAX).allowed);
    }
    Ok(())
}

#[test]
fn decisions_are_counted() -> Result<()> {
    let limiter = TokenBuckets::create(&still())?;
    limiter.check("alice", BURST);
    limiter.check("alice", 1);
    limiter.check("alice", 1);
    assert_eq!((limiter.allowed.get(), limiter.denied.get()), (1, 2));
    assert!(limiter.peek("").is_err());
    assert_eq!(limiter.peek("alice")?, Some(allowed(0)));
    assert_eq!((limiter.allowed.get(), limiter.denied.get()), (1, 2), "looking is not asking");
    Ok(())
}
