use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reseat::{Event, Host, Options, StateError};
use reseat_tests::counter::Counter;

use crate::child::Mortal;
use crate::scene::{self, Build, put};
use crate::waiting::{DEADLINE, slowly, until};

/// Where the host of a child is.
const DIR: &str = "RESEAT_DIR";

fn stamped(number: u32) -> Build {
    Build::of("counter_stamped").stamped(number)
}

/// A directory whose counter is at 5, in this build.
fn prepared(number: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    put(&library(dir.path()), &stamped(number));
    let host = host(dir.path(), Duration::ZERO);
    host.call("counter", "add", r#"{"n":5}"#).unwrap();
    assert!(host.shutdown(DEADLINE));
    dir
}

fn library(dir: &Path) -> PathBuf {
    dir.join("plugins/libcounter.so")
}

fn host(dir: &Path, proving: Duration) -> Host {
    let options = Options { proving, snapshot_every: None, ..scene::options(dir) };
    Host::start(options).expect("it starts")
}

fn number(host: &Host, method: &str) -> u64 {
    host.call("counter", method, "{}").unwrap().parse().unwrap()
}

/// Puts a build where the one before was, by renaming.
fn install(dir: &Path, build: &Build) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let unfinished = dir.join(name);
    put(&unfinished, build);
    std::fs::rename(unfinished, library(dir)).unwrap();
}

fn troubles(host: &Host) -> Vec<String> {
    let events = host.recent_events().into_iter().map(|event| event.event);
    let bad = events.filter(|event| matches!(event, Event::Trouble { .. } | Event::Refused { .. }));
    bad.map(|event| event.to_string()).collect()
}

/// What fails on one thread is not to be kept from the parent by the others.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        std::process::exit(1);
    }
}

/// Counts on two threads, puts one build after the other, and says what is on disk, until it is killed.
fn live(dir: &Path) {
    let host = host(dir, Duration::ZERO);
    println!("begins with {} {:?}", number(&host, "get"), troubles(&host));
    let counter = host.plugin::<dyn Counter>("counter").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _end = EndsTheProcess;
                loop {
                    counter.enter().unwrap().add(1).unwrap();
                }
            });
        }
        scope.spawn(|| {
            let _end = EndsTheProcess;
            for build in (1..=9).cycle() {
                install(dir, &stamped(build));
                assert!(until(DEADLINE, || number(&host, "build") == u64::from(build)));
                // Also of the same build, while it is written down.
                host.reload("counter").unwrap();
            }
        });
        let _end = EndsTheProcess;
        loop {
            // Whatever is kept now, it is no less.
            let counted = number(&host, "get");
            match host.snapshot("counter") {
                Ok(_) => println!("kept {counted}"),
                // It has given way to a reload.
                Err(StateError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn killed_two_hundred_times_under_reloads_and_load_nothing_that_was_said_to_be_kept_is_lost() {
    let name =
        "killed::killed_two_hundred_times_under_reloads_and_load_nothing_that_was_said_to_be_kept_is_lost";
    let dir = std::env::var_os(DIR).map_or_else(|| prepared(1).keep(), PathBuf::from);
    let mut kept = 5;
    // Any moments will do, but the same in every run.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..200 {
        let child = Mortal::begin(name, &[(DIR, dir.to_str().unwrap())], || live(&dir));
        let begins = child.hear("begins with ");
        let (counted, troubles) = begins.split_once(' ').unwrap();
        let counted: u64 = counted.parse().unwrap();
        assert!(counted >= kept, "round {round}: it begins with {counted}, kept were {kept}");
        assert_eq!(troubles, "[]", "round {round}");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        slowly(Duration::from_micros((random >> 33) % 60_000));
        let said = child.kill();
        let said = said.iter().filter_map(|line| line.strip_prefix("kept ")?.parse::<u64>().ok());
        kept = said.max().unwrap_or(counted).max(counted);
    }
    let host = host(&dir, Duration::ZERO);
    assert!(number(&host, "get") >= kept);
    assert!(kept > 5, "something was counted, and kept");
    drop(host);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_build_under_which_three_hosts_die_within_a_minute_is_not_started_a_fourth_time() {
    let name = "killed::a_build_under_which_three_hosts_die_within_a_minute_is_not_started_a_fourth_time";
    let proving = Duration::from_secs(60);
    let dir = std::env::var_os(DIR).map_or_else(|| prepared(1).keep(), PathBuf::from);
    for death in 1..=3 {
        let child = Mortal::begin(name, &[(DIR, dir.to_str().unwrap())], || {
            let host = host(&dir, proving);
            install(&dir, &stamped(9));
            assert!(until(DEADLINE, || number(&host, "build") == 9));
            host.call("counter", "add", r#"{"n":1}"#).unwrap();
            host.snapshot("counter").unwrap();
            println!("counts {}", number(&host, "get"));
            slowly(DEADLINE);
        });
        assert_eq!(child.hear("counts "), (5 + death).to_string());
        child.kill();
    }
    let host = host(&dir, proving);
    assert_eq!((number(&host, "build"), number(&host, "get")), (1, 5));
    assert!(host.denied()[0].reason.contains("the host has ended 3 times"), "{:?}", host.denied());
    assert_eq!(troubles(&host).len(), 1, "what lies there is denied: {:?}", troubles(&host));
    assert!(host.shutdown(DEADLINE));
    // Allowed again, it is as any other.
    let host = self::host(&dir, proving);
    host.allow("");
    host.reload("counter").unwrap();
    assert_eq!((number(&host, "build"), number(&host, "get")), (9, 5));
    drop(host);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_first_build_under_which_three_hosts_die_is_not_started_and_the_host_lives() {
    let name = "killed::a_first_build_under_which_three_hosts_die_is_not_started_and_the_host_lives";
    let dir = std::env::var_os(DIR).map_or_else(
        || {
            let dir = tempfile::tempdir().unwrap().keep();
            std::fs::create_dir(dir.join("plugins")).unwrap();
            put(&library(&dir), &stamped(1));
            dir
        },
        PathBuf::from,
    );
    for _ in 0..3 {
        let child = Mortal::begin(name, &[(DIR, dir.to_str().unwrap())], || {
            let host = host(&dir, Duration::from_secs(60));
            host.snapshot("counter").unwrap();
            println!("serves {}", number(&host, "build"));
            slowly(DEADLINE);
        });
        assert_eq!(child.hear("serves "), "1");
        child.kill();
    }
    let host = host(&dir, Duration::from_secs(60));
    assert_eq!(host.status().plugins[0].generation, None);
    assert!(troubles(&host)[0].contains("this build is denied: the host has ended 3 times"));
    drop(host);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_host_that_is_killed_right_after_it_went_back_leaves_a_build_to_begin_with() {
    let name = "killed::a_host_that_is_killed_right_after_it_went_back_leaves_a_build_to_begin_with";
    let dir = std::env::var_os(DIR).map_or_else(|| prepared(1).keep(), PathBuf::from);
    for round in 0..10 {
        let child = Mortal::begin(name, &[(DIR, dir.to_str().unwrap())], || {
            let host = host(&dir, Duration::ZERO);
            host.allow("");
            install(&dir, &stamped(2 + round));
            assert!(until(DEADLINE, || number(&host, "build") == u64::from(2 + round)));
            host.snapshot("counter").unwrap();
            println!("goes back");
            let _ = host.roll_back("counter");
            println!("is back");
            slowly(DEADLINE);
        });
        child.hear("goes back");
        if round % 2 == 0 {
            child.hear("is back");
        }
        child.kill();
        let host = host(&dir, Duration::ZERO);
        assert_eq!(number(&host, "get"), 5, "round {round}");
        assert!(host.shutdown(DEADLINE));
    }
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_plugin_that_was_away_is_not_blamed_for_the_deaths_of_hosts() {
    let name = "killed::a_plugin_that_was_away_is_not_blamed_for_the_deaths_of_hosts";
    let proving = Duration::from_secs(60);
    let dir = std::env::var_os(DIR).map_or_else(
        || {
            let dir = prepared(1).keep();
            put(&dir.join("plugins/libecho.so"), &Build::of("echo_v1"));
            // It has yet to prove itself.
            install(&dir, &stamped(2));
            assert!(host(&dir, proving).shutdown(DEADLINE));
            std::fs::rename(library(&dir), dir.join("away")).unwrap();
            dir
        },
        PathBuf::from,
    );
    for _ in 0..4 {
        let child = Mortal::begin(name, &[(DIR, dir.to_str().unwrap())], || {
            let host = host(&dir, Duration::ZERO);
            println!("serves {}", host.call("echo", "build", "{}").unwrap());
            slowly(DEADLINE);
        });
        child.hear("serves ");
        child.kill();
    }
    std::fs::rename(dir.join("away"), library(&dir)).unwrap();
    let host = host(&dir, proving);
    assert_eq!((number(&host, "build"), number(&host, "get")), (2, 5));
    drop(host);
    std::fs::remove_dir_all(dir).unwrap();
}
