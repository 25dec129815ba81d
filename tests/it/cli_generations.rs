use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::cli::{ask, ok, path, text};
use crate::library::Build;
use crate::program::Running;
use crate::waiting::{DEADLINE, until};

/// A host with a stateless plugin that is reloaded on demand.
struct Served {
    dir: tempfile::TempDir,
    _running: Running,
}

fn many(number: u32) -> Build {
    Build::of("many_builds").stamped(number)
}

impl Served {
    fn begin(settings: &str) -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (plugins, config) = (dir.path().join("plugins"), dir.path().join("reseat.toml"));
        fs::create_dir(&plugins).expect("it can be written");
        fs::write(&config, settings).expect("it can be written");
        fs::write(plugins.join(many(1).file_name()), many(1).bytes()).expect("it can be written");
        let running = Running::start(&plugins, &dir.path().join("state"), Some(&config));
        Served { dir, _running: running }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Puts a build in the place of the one that is there.
    fn install(&self, number: u32) {
        let new = self.dir.path().join("new");
        fs::write(&new, many(number).bytes()).expect("it can be written");
        fs::rename(new, self.dir.path().join("plugins").join(many(1).file_name())).expect("one file system");
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        ok(&ask(&self.state(), args))
    }

    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let output = ask(&self.state(), args);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    }
}

#[test]
fn an_old_generation_is_kept_called_by_its_number_and_released() {
    let served = Served::begin("reload = \"on-demand\"\n");
    served.install(2);
    assert_eq!(served.ok(&["reload", "many", "--keep", "1"]), "generation 2 of many serves\n");
    assert_eq!(served.ok(&["call", "many", "call", r#"{"what":""}"#]), "\"2\"\n");
    let old = ["call", "many", "call", r#"{"what":""}"#, "--generation", "1"];
    assert_eq!(served.ok(&old), "\"1\"\n");
    assert!(served.ok(&["ps"]).contains("\n  generation 1 is kept\n"), "{}", served.ok(&["ps"]));
    assert_eq!(served.ok(&["release", "many", "1"]), "generation 1 of many is kept no longer\n");
    let said = served.refused(&old);
    assert!(said.contains("generation 1 of `many` is not there: there is 2"), "{said}");
    let said = served.refused(&["release", "many", "1"]);
    assert!(said.contains("generation 1 of `many` is not kept: none is"), "{said}");
}

#[test]
fn a_candidate_is_seen_in_the_listing_gets_calls_by_name_and_is_promoted_or_discarded() {
    let served = Served::begin("reload = \"on-demand\"\nprobation_period_ms = 600000\n");
    let file = served.dir.path().join("libcandidate.so");
    fs::write(&file, many(2).bytes()).expect("it can be written");
    let said = served.ok(&["reload", "many", "--canary", "50", "--file", path(&file)]);
    assert_eq!(said, "generation 2 of many gets 50 of 100 scopes\n");
    let answers: Vec<_> = (0..4).map(|_| served.ok(&["call", "many", "call", r#"{"what":""}"#])).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "\"2\"\n").count(), 2, "{answers:?}");
    let listed = served.ok(&["ps"]);
    assert!(listed.contains("  generation 2 is candidate: 50 of 100 scopes; 2 calls, 0 failed"), "{listed}");
    let json: Value = serde_json::from_str(&served.ok(&["ps", "--json"])).expect("it is JSON");
    let it = &json["plugins"][0]["generations"][1];
    assert!(it["phase"] == "candidate" && it["percent"] == 50, "{it}");
    assert_eq!(served.ok(&["promote", "many"]), "generation 2 of many serves, after generation 1\n");
    fs::write(&file, many(3).bytes()).expect("it can be written");
    served.ok(&["reload", "many", "--canary", "0", "--file", path(&file)]);
    let said = served.ok(&["discard", "many"]);
    assert_eq!(said, "the candidate of many is discarded, and its build is denied\n");
    let said = served.refused(&["promote", "many"]);
    assert!(said.contains("`many` has no candidate: reload it with a share of the scopes"), "{said}");
    let events = served.ok(&["events"]);
    for told in [
        "gets 50 of 100 scopes",
        "is asked for and takes over",
        "is discarded, and is denied: it was asked for",
    ] {
        assert!(events.contains(told), "{told}: {events}");
    }
}

#[test]
fn a_setting_has_every_new_build_tried_and_what_panics_is_gone_by_itself() {
    let served = Served::begin("canary_percent = 50\nprobation_period_ms = 300\nprobation_calls = 5\n");
    served.install(13);
    let call = || ask(&served.state(), &["call", "many", "call", r#"{"what":""}"#]);
    let gone = || {
        let _ = call();
        served.ok(&["events"]).contains("is discarded, and is denied: ")
    };
    assert!(until(DEADLINE, gone), "{}", served.ok(&["events"]));
    assert_eq!(ok(&call()), "\"1\"\n");
    served.install(2);
    let taken_over = || {
        assert!(call().status.success());
        served.ok(&["events"]).contains("has proved itself and takes over")
    };
    assert!(until(DEADLINE, taken_over), "{}", served.ok(&["events"]));
    assert_eq!(ok(&call()), "\"2\"\n");
}

#[test]
fn shares_of_more_than_all_are_refused_with_what_is_the_most() {
    let served = Served::begin("");
    let output = ask(&served.state(), &["reload", "many", "--canary", "101"]);
    assert_eq!(output.status.code(), Some(2));
    let file = served.dir.path().join("wrong.toml");
    fs::write(&file, "canary_percent = 101\n").expect("it can be written");
    let said =
        text(&crate::program::reseat().args(["config", "--check", path(&file)]).output().unwrap().stderr);
    assert!(said.contains("101 of 100 scopes: 100 is the most"), "{said}");
}
