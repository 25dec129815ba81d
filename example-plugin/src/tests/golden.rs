//! A file of state for each version that was ever released, written when that version was the newest, and read by all
//! builds that come after.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::*;

const NEWEST: u32 = TokenBuckets::STATE_VERSION;

/// What to do when there is a new version.
const ADVICE: &str = "say in `newest` what a state of that version contains, and in `EXPECTED` what becomes of it; then \
     run this test once with WRITE_GOLDEN=1, and commit the file. Once it is released it is never changed again";

/// What each key of each file has left, where a full bucket holds ten tokens.
const EXPECTED: &[&[(&str, u32)]] =
    &[&[("alice", 4), ("bob", 0), ("rich", 10)], &[("alice", 6), ("bob", 0), ("zoë", 2)]];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn file_name(version: u32) -> String {
    format!("state-v{version}.rsst")
}

fn read(version: u32) -> Saved {
    let frame = std::fs::read(folder().join(file_name(version))).unwrap();
    Saved::from_frame(&frame).unwrap()
}

/// No token flows back in a million years, so that it makes no difference when the test runs.
fn motionless() -> Services {
    host(json!({ "burst": 10, "refill_per_second": f64::MIN_POSITIVE }))
}

/// A state of the newest version.
fn newest() -> Saved {
    let buckets = Buckets::new(RULE);
    for (key, cost) in [("alice", 4), ("bob", 10), ("zoë", 8)] {
        buckets.take(key, cost, 0);
    }
    let state = V2::of(&buckets, 150, 1_700_000_000_000);
    Saved::encode(&state).unwrap().with_version(2)
}

/// Leaves the files alone that there are.
fn write_newest() {
    let saved = newest();
    assert_eq!(saved.version(), NEWEST, "{ADVICE}");
    let path = folder().join(file_name(NEWEST));
    let file = File::options().write(true).create_new(true).open(&path);
    let mut file = file.unwrap_or_else(|e| panic!("{}: {e}: a golden file is written once", path.display()));
    file.write_all(&saved.to_frame()).unwrap();
}

#[test]
fn a_state_of_every_version_that_was_released_is_read() -> Result<()> {
    if std::env::var_os("WRITE_GOLDEN").is_some() {
        write_newest();
    }
    let there = std::fs::read_dir(folder())?.map(|entry| Ok(entry?.file_name().into_string().unwrap()));
    let there = there.collect::<Result<BTreeSet<String>>>()?;
    let released: BTreeSet<String> = (1..=NEWEST).map(file_name).collect();
    let missing: Vec<_> = released.difference(&there).collect();
    assert!(missing.is_empty(), "golden/ lacks {missing:?}: {ADVICE}");
    assert_eq!(EXPECTED.len(), NEWEST as usize, "{ADVICE}");
    let others: Vec<_> = there.difference(&released).collect();
    assert!(others.is_empty(), "golden/ has {others:?}, which no version up to {NEWEST} has written");

    for (version, expected) in (1..).zip(EXPECTED) {
        let saved = read(version);
        assert_eq!(saved.version(), version);
        let limiter = TokenBuckets::restore(&motionless(), saved)?;
        for (key, tokens) in expected.iter() {
            assert_eq!(limiter.peek(key)?, Some(allowed(*tokens)), "version {version}, {key}");
        }
        assert_eq!(limiter.buckets.len(), expected.len(), "version {version}");
    }
    Ok(())
}

#[test]
fn the_golden_files_are_what_they_were() -> Result<()> {
    let V1(tokens) = read(1).decode()?;
    let then = [("alice", 4), ("bob", 0), ("rich", 40)].map(|(key, tokens)| (key.to_owned(), tokens));
    assert_eq!(tokens, then.into());

    // It was written 150 ms after they had taken what they took: three quarters of a token had flowed back.
    let bucket = |tokens| Bucket { tokens, units: 750_000_000_000_000_000, age_ms: 0 };
    let then = [("alice", 6), ("bob", 0), ("zoë", 2)].map(|(key, tokens)| (key.to_owned(), bucket(tokens)));
    let buckets = then.into();
    let state: V2 = read(2).decode()?;
    assert_eq!(state, V2 { saved_at_ms: 1_700_000_000_000, buckets });

    // And 50 ms later, by another clock, the last quarter has, too.
    let buckets = Buckets::new(RULE);
    state.put_into(&buckets, Clock::START_MS, 1_700_000_000_050);
    assert_eq!(buckets.take("bob", 1, Clock::START_MS), allowed(0));
    assert_eq!(buckets.peek("bob", Clock::START_MS + 199), Some(allowed(0)));
    Ok(())
}
