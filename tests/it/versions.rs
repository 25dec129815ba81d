use std::path::Path;

use reseat::{CheckError, Handle, RefusalReason, Step};
use reseat_tests::tally::{Tally, V1, V2, V3, V4, V5, Version};
use serde_json::{Value, json};

use crate::child::in_child_with;
use crate::scene::{Build, Refused, Scene};

const FIXTURES: [&str; 5] = ["tally_v1", "tally_v2", "tally_v3", "tally_v4", "tally_v5"];
/// What the builds say that they read and write, in the words of a refusal.
const READS: [&str; 5] = ["1..=1", "1..=2", "1..=3", "3..=4", "2..=5"];
const WRITES: [&str; 5] = ["1", "1..=2", "2..=3", "4", "2..=5"];
/// Which of them take over from which. The others have no version in common.
const ACCEPTED: [(u32, u32); 12] =
    [(1, 2), (1, 3), (2, 1), (2, 3), (2, 5), (3, 2), (3, 4), (3, 5), (4, 5), (5, 2), (5, 3), (5, 4)];

fn fixture(build: u32) -> &'static str {
    FIXTURES[build as usize - 1]
}

/// What a build is expected to have: computed here, with the same steps, and without a host.
#[derive(Clone)]
struct Expected {
    state: State,
    /// The optional section, while a build serves that does not know it.
    carried: Vec<String>,
}

#[derive(Clone)]
enum State {
    V1(V1),
    V2(V2),
    V3(V3),
    V4(V4),
    V5(V5),
}

impl Expected {
    fn of_an_empty(build: u32) -> Expected {
        let state = match build {
            1 => State::V1(V1::default()),
            2 => State::V2(V2::default()),
            3 => State::V3(V3::default()),
            4 => State::V4(V4::default()),
            _ => State::V5(V5::default()),
        };
        Expected { state, carried: Vec::new() }
    }

    fn version(&self) -> u32 {
        match self.state {
            State::V1(_) => 1,
            State::V2(_) => 2,
            State::V3(_) => 3,
            State::V4(_) => 4,
            State::V5(_) => 5,
        }
    }

    fn count(&mut self, key: &str, n: u64) {
        match &mut self.state {
            State::V1(state) => state.count(key, n),
            State::V2(state) => state.count(key, n),
            State::V3(state) => state.count(key, n),
            State::V4(state) => state.count(key, n),
            State::V5(state) => state.count(key, n),
        }
    }

    /// The direct conversion: no build in between.
    fn converted(mut self, version: u32) -> Expected {
        while self.version() != version {
            self = if self.version() < version { self.up() } else { self.down() };
        }
        self
    }

    fn up(mut self) -> Expected {
        let state = match self.state {
            State::V1(state) => State::V2(state.up().unwrap()),
            State::V2(state) => State::V3(state.up().unwrap()),
            State::V3(state) => State::V4(state.up().unwrap()),
            State::V4(state) => {
                let history = std::mem::take(&mut self.carried);
                State::V5(V5 { history, ..state.up().unwrap() })
            }
            State::V5(_) => unreachable!("there is no version 6"),
        };
        Expected { state, ..self }
    }

    fn down(self) -> Expected {
        let (state, carried) = match self.state {
            State::V1(_) => unreachable!("there is no version 0"),
            State::V2(state) => (State::V1(state.down().unwrap()), self.carried),
            State::V3(state) => (State::V2(state.down().unwrap()), self.carried),
            State::V4(state) => (State::V3(state.down().unwrap()), self.carried),
            State::V5(state) => (State::V4(state.clone().down().unwrap()), state.history),
        };
        Expected { state, carried }
    }

    fn shown(&self) -> Value {
        match &self.state {
            State::V1(state) => json!(state),
            State::V2(state) => json!(state),
            State::V3(state) => json!(state),
            State::V4(state) => json!(state),
            State::V5(state) => json!({ "state": state, "history": state.history }),
        }
    }
}

/// A host with a tally, and what the tally is expected to have.
struct Tallying {
    scene: Scene,
    tally: Handle<dyn Tally>,
    expected: Expected,
}

impl Tallying {
    fn with(build: u32) -> Tallying {
        let scene = Scene::with(&[fixture(build)]);
        let tally = scene.handle("tally");
        let mut tallying = Tallying { scene, tally, expected: Expected::of_an_empty(build) };
        for (key, n) in [("alice", 17), ("bob", 40), ("alice", 1)] {
            tallying.count(key, n);
        }
        tallying
    }

    fn count(&mut self, key: &str, n: u64) {
        self.tally.enter().unwrap().count(key, n).unwrap();
        self.expected.count(key, n);
    }

    fn generation(&self) -> u64 {
        self.scene.generation("tally").unwrap()
    }

    /// What serves has all that is expected.
    #[track_caller]
    fn agrees(&self) {
        let guard = self.tally.enter().unwrap();
        let state: Value = serde_json::from_str(&guard.state().unwrap()).unwrap();
        assert_eq!((guard.build().unwrap(), state), (self.expected.version(), self.expected.shown()));
    }

    /// Puts a build in place of the one that serves; whether it has taken over. In both cases everything is as it
    /// should be then.
    #[track_caller]
    fn replace_by(&mut self, build: u32) -> bool {
        let (old, before) = (self.expected.version(), self.generation());
        let outcome = self.scene.install(fixture(build)).outcome();
        let accepted = outcome.is_ok();
        match outcome {
            Ok(generation) => {
                assert_eq!(generation, self.generation());
                self.expected = self.expected.clone().converted(build);
            }
            Err(refused) => {
                refused_by_versions(refused, old, build);
                assert_eq!(self.generation(), before);
            }
        }
        assert_eq!(accepted, ACCEPTED.contains(&(old, build)), "{old} to {build}");
        self.agrees();
        accepted
    }
}

fn why(old: u32, new: u32) -> String {
    let (writes, reads) = (WRITES[old as usize - 1], READS[new as usize - 1]);
    format!("the serving generation writes state version {writes}, this build reads {reads}: ")
}

#[track_caller]
fn refused_by_versions(refused: Refused, old: u32, new: u32) {
    let refused = refused.at(Step::Vet, &[&why(old, new)]);
    assert!(refused.serving.is_some());
}

/// What a look at two files says: the same as a reload would.
#[track_caller]
fn compared(scene: &Scene, old: u32, new: u32) {
    let file = |build| scene.shelve(&Build::of(fixture(build)));
    match reseat::compare(&file(new), &file(old)) {
        Ok(found) => assert!(ACCEPTED.contains(&(old, new)) && found.plugin == "tally", "{old} to {new}"),
        Err(CheckError::Unfit { reason, .. }) => {
            assert!(matches!(reason, RefusalReason::StateVersion { .. }), "{reason}");
            assert!(reason.to_string().starts_with(&why(old, new)), "{reason}");
            assert!(!ACCEPTED.contains(&(old, new)), "{old} to {new}");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_build_takes_over_what_it_can_and_is_refused_before_its_code_runs_where_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    let environment = [("RESEAT_CANARY", canary.to_str().unwrap())];
    let name =
        "versions::each_build_takes_over_what_it_can_and_is_refused_before_its_code_runs_where_it_cannot";
    in_child_with(name, &environment, || {
        let canary = std::env::var("RESEAT_CANARY").unwrap();
        let canary = Path::new(&canary);
        let pairs = (1..=5).flat_map(|old| (1..=5).map(move |new| (old, new)));
        for (old, new) in pairs.filter(|(old, new)| old != new) {
            let mut tallying = Tallying::with(old);
            std::fs::remove_file(canary).unwrap();
            compared(&tallying.scene, old, new);
            assert!(!canary.exists(), "{old} to {new}: to compare files is to read them");
            let accepted = tallying.replace_by(new);
            assert_eq!(canary.exists(), accepted, "{old} to {new}");
            // Whoever serves goes on from there.
            tallying.count("carol", 25);
            tallying.agrees();
        }
    });
}

#[test]
fn a_state_that_goes_all_the_way_up_and_down_is_what_a_person_would_expect() {
    let mut tallying = Tallying::with(1);
    for (build, state) in [
        (2, json!({ "total": 58, "last": 0 })),
        (3, json!({ "tens": 5, "ones": 8, "latest": 0 })),
        (4, json!({ "counts": { "earlier": 58 }, "latest": 0 })),
        (5, json!({ "state": { "counts": { "earlier": 58 } }, "history": [] })),
        (4, json!({ "counts": { "earlier": 58 }, "latest": 0 })),
        // From version 4 nothing leads back.
        (5, json!({ "state": { "counts": { "earlier": 58 } }, "history": [] })),
        (3, json!({ "tens": 5, "ones": 8, "latest": 0 })),
        (2, json!({ "total": 58, "last": 0 })),
        (1, json!(58)),
    ] {
        assert!(tallying.replace_by(build));
        assert_eq!(tallying.expected.shown(), state, "what this test computes is wrong");
    }
}

/// Numbers that look random and are the same each time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// Three to six builds, none of which is put where it lies already.
fn any_chain(numbers: &mut Numbers) -> Vec<u32> {
    let mut chain = vec![1 + numbers.below(5) as u32];
    let mut serving = chain[0];
    for _ in 0..2 + numbers.below(4) {
        let lies = [serving, *chain.last().unwrap()];
        let others: Vec<u32> = (1..=5).filter(|build| !lies.contains(build)).collect();
        let next = others[numbers.below(others.len())];
        if ACCEPTED.contains(&(serving, next)) {
            serving = next;
        }
        chain.push(next);
    }
    chain
}

/// Three to five builds, each newer than the one before.
fn rising_chain(numbers: &mut Numbers) -> Vec<u32> {
    let (mut chain, len) = (vec![1, 2, 3, 4, 5], 3 + numbers.below(3));
    while chain.len() > len {
        chain.remove(numbers.below(chain.len()));
    }
    chain
}

/// Installs one build after the other, and has each count if `counts` says so; returns those that have served.
#[track_caller]
fn follow(chain: &[u32], mut counts: Option<&mut Numbers>) -> Vec<u32> {
    let mut tallying = Tallying::with(chain[0]);
    let (start, mut served) = (tallying.expected.clone(), vec![chain[0]]);
    for &build in &chain[1..] {
        if tallying.replace_by(build) {
            served.push(build);
        }
        if let Some(numbers) = &mut counts {
            tallying.count(["alice", "bob", "carol"][numbers.below(3)], numbers.below(1000) as u64);
            tallying.agrees();
        }
    }
    if counts.is_none() && (served.is_sorted() || served.iter().rev().is_sorted()) {
        let direct = start.converted(*served.last().unwrap());
        assert_eq!(tallying.expected.shown(), direct.shown(), "{chain:?}");
    }
    served
}

#[test]
fn any_chain_of_builds_converts_the_state_step_by_step() {
    let mut numbers = Numbers(5);
    let (mut refused, mut accepted) = (0, 0);
    for number in 0..30 {
        let chain = any_chain(&mut numbers);
        let served = follow(&chain, (number % 2 == 1).then_some(&mut numbers));
        (refused, accepted) = (refused + chain.len() - served.len(), accepted + served.len() - 1);
    }
    assert!(refused >= 20 && accepted >= 40, "{refused} refused, {accepted} accepted");
}

#[test]
fn a_chain_of_builds_that_only_rises_or_falls_converts_the_state_as_if_at_once() {
    let mut numbers = Numbers(7);
    let mut longest = 0;
    for number in 0..12 {
        let mut chain = rising_chain(&mut numbers);
        if number % 2 == 1 {
            chain.reverse();
        }
        longest = longest.max(follow(&chain, None).len());
    }
    assert!(longest >= 4);
}

#[test]
fn a_section_that_a_build_does_not_know_and_must_not_lose_refuses_it_by_its_name() {
    let scene = Scene::with(&["tally_ledger"]);
    let tally = scene.handle::<dyn Tally>("tally");
    tally.enter().unwrap().count("alice", 3).unwrap();
    let before = tally.enter().unwrap().state().unwrap();
    for build in [5, 4] {
        // Version 4 has no other way to be reached: the ledger's build writes version 5 only.
        let refused = scene.install(fixture(build)).refused();
        match build {
            5 => refused.at(Step::Restore, &["a section `ledger` that this build does not know"]),
            _ => refused.at(Step::Vet, &["writes state version 5, this build reads 3..=4"]),
        };
        assert_eq!(scene.generation("tally"), Some(1));
        let guard = tally.enter().unwrap();
        assert_eq!((guard.build().unwrap(), guard.state().unwrap()), (50, before.clone()));
    }
}

#[test]
fn an_optional_section_survives_builds_that_do_not_know_it() {
    for builds in [&[4, 5][..], &[2, 5], &[3, 2, 3, 5], &[3, 4, 5]] {
        let mut tallying = Tallying::with(5);
        for &build in builds {
            assert!(tallying.replace_by(build));
            if build != 5 {
                tallying.count("dave", 2);
            }
        }
        let state = tallying.tally.enter().unwrap().state().unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["history"], json!(["alice", "bob", "alice"]), "by way of {builds:?}");
        tallying.agrees();
    }
}

#[test]
fn a_state_that_a_step_cannot_bring_back_refuses_the_reload_by_the_step() {
    let mut tallying = Tallying::with(5);
    tallying.count("carol", u64::MAX);
    let refused = tallying.scene.install(fixture(3)).refused();
    refused.at(Step::Save, &["the step back to state version 3: the total is too large"]);
    tallying.agrees();
    // That far it can be brought back.
    assert!(tallying.replace_by(4));
}
