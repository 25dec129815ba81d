use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object::elf::EM_AARCH64;
use reseat::{Handle, Phase, Probe, Step};
use reseat_tests::counter::Counter;
use reseat_tests::fault::{self, Point, Process};

use crate::callers::Callers;
use crate::child::in_child_within;
use crate::library::manifest_range;
use crate::program;
use crate::scene::{Build, Refused, Scene};
use crate::waiting::DEADLINE;

/// How often each kind comes.
const ROUNDS: u32 = 50;
/// How often a build that loops comes: each time takes the whole deadline of its probe, which is as short as it can be
/// for a helper on a busy machine to get that far.
const LOOPS: u32 = 10;
const LOOP_DEADLINE: Duration = Duration::from_millis(300);
/// How long all of it may take, half a minute where nobody else is at work.
const LIMIT: Duration = Duration::from_secs(360);
/// After so many rounds there is a new build that is good.
const CHANGE_EVERY: u32 = 5;

/// What becomes of a kind of build beside being refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// No code of it runs.
    Vetted,
    /// So too; but it looks like a file that somebody is still writing, so that the watcher takes its time.
    Incomplete,
    /// It has done something in a helper process for which the same bytes are never tried again.
    Denied,
    /// So too, when its time in the helper was up.
    Killed,
    /// It has refused the state in a helper process; the next state may be better.
    Refused,
}

/// A kind of bad build: what it is, where that is seen, and what is said of it.
type Kind = (fn(u32) -> Build, Fate, Step, &'static [&'static str]);

/// All but the one that loops, which needs a shorter deadline.
const KINDS: [Kind; 13] = [
    (garbage, Fate::Vetted, Step::Vet, &["is not a shared library: it begins with 5a"]),
    (|_| Build::raw("counter", ""), Fate::Incomplete, Step::Vet, &["is empty"]),
    (text, Fate::Vetted, Step::Vet, &["is not a shared library: it begins with 6a 75 73 74"]),
    (truncated, Fate::Incomplete, Step::Vet, &["is cut short", "the file has "]),
    (other_machine, Fate::Vetted, Step::Vet, &["is built for aarch64, this machine is x86_64"]),
    (without_note, Fate::Vetted, Step::Vet, &["has no reseat manifest"]),
    (other_boundary, Fate::Vetted, Step::Vet, &["is built for boundary 9, this host speaks 1"]),
    (
        |round| another(Build::of("counter_changed_signature"), round),
        Fate::Vetted,
        Step::Vet,
        &["counter 0.1.0 does not fit interface Counter 1.0: method `add` differs", "n: u64", "n: u32"],
    ),
    (
        |round| another(Build::of("counter_only_new"), round),
        Fate::Vetted,
        Step::Vet,
        &["the serving generation writes state version 1, this build reads 3..=3"],
    ),
    (
        |round| faulty(Point::Constructor, fault::Kind::Abort, round),
        Fate::Denied,
        Step::Probe,
        &["its constructors died of SIGABRT", "Constructor is about to go wrong"],
    ),
    (
        |round| faulty(Point::Constructor, fault::Kind::Fault, round),
        Fate::Denied,
        Step::Probe,
        &["its constructors died of SIGSEGV", "Constructor is about to go wrong"],
    ),
    (wrong_magic, Fate::Denied, Step::Probe, &["in a helper process", "is not a descriptor", "rebuild"]),
    (
        |round| faulty(Point::Restore, fault::Kind::Panic, round),
        Fate::Refused,
        Step::Probe,
        &["restore failed: the plugin panicked at", "a panic in Restore"],
    ),
];

const LOOPING: Kind = (
    |round| faulty(Point::Constructor, fault::Kind::Loop, round),
    Fate::Killed,
    Step::Probe,
    // On a machine busy enough, it may not even have got to its constructors.
    &["in a helper process", "had not returned after 300ms"],
);

fn good(number: u32) -> Build {
    assert!(number < 100);
    Build::of("faulty").stamped(number)
}

fn faulty(point: Point, kind: fault::Kind, round: u32) -> Build {
    another(Build::of("faulty").stamped(fault::stamp(point, kind, Process::Any)), round)
}

/// The same, but for its hash.
fn another(build: Build, round: u32) -> Build {
    build.changed(|bytes| bytes.extend(format!("round {round:04}").bytes()))
}

fn garbage(round: u32) -> Build {
    let mut state = u64::from(round) + 0x9e37_79b9_7f4a_7c15;
    let noise = (0..10_000).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    Build::raw("counter", std::iter::once(0x5a).chain(noise).collect::<Vec<_>>())
}

fn text(round: u32) -> Build {
    Build::raw("counter", format!("just a text, for the {round}th time\n"))
}

fn truncated(round: u32) -> Build {
    let whole = good(99);
    let len = 5_000 + (whole.bytes().len() - 10_000) * round as usize / ROUNDS as usize;
    whole.cut(len)
}

fn other_machine(round: u32) -> Build {
    let foreign = good(99).changed(|bytes| bytes[18..20].copy_from_slice(&EM_AARCH64.0.to_le_bytes()));
    another(foreign, round)
}

fn without_note(round: u32) -> Build {
    let stripped = good(99).changed(|bytes| {
        let (start, _) = manifest_range(bytes).unwrap();
        assert_eq!(&bytes[start - 8..start - 1], b"RESEAT\0");
        bytes[start - 3] = b'X';
    });
    another(stripped, round)
}

fn wrong_magic(round: u32) -> Build {
    another(good(99).with_descriptor(0, |byte| *byte = b'X'), round)
}

fn other_boundary(round: u32) -> Build {
    another(good(99).with_manifest("boundary 1\n", "boundary 9\n"), round)
}

/// A host under attack, and what has come of it.
struct Siege<'a> {
    scene: Scene,
    counter: Handle<dyn Counter>,
    callers: Callers,
    canary: &'a Path,
    /// The build that serves.
    build: u32,
    /// How often a build has been opened, in this process and in helpers.
    opened: (usize, usize),
    denied: usize,
}

impl Siege<'_> {
    /// Begins to call what serves.
    fn lay(scene: Scene, canary: &Path, build: u32, opened: (usize, usize), denied: usize) -> Siege<'_> {
        let counter = scene.handle::<dyn Counter>("counter");
        let callers = callers(&counter);
        Siege { scene, counter, callers, canary, build, opened, denied }
    }

    /// Installs a bad build, and checks that it is refused where and as it should be, and nobody notices.
    fn repel(&mut self, (make, fate, step, words): Kind, round: u32) {
        let serving = self.scene.generation("counter");
        let mut expecting = self.scene.install(make(round));
        if fate == Fate::Incomplete && round > 0 {
            // The watcher's patience has been seen once; somebody who asks is told at once.
            self.scene.host.load(&self.scene.trusted("libcounter.so")).unwrap_err();
        }
        let mut refused = expecting.outcome().expect_err("it is refused");
        while fate != Fate::Incomplete && is_late(&refused) {
            refused = expecting.outcome().expect_err("it is refused");
        }
        let refused = refused.at(step, words);
        assert_eq!(refused.serving.is_some(), refused.plugin.is_some(), "{refused:?}");
        if let Some(plugin) = &refused.plugin {
            assert_eq!((plugin.as_str(), refused.serving), ("counter", serving));
        }
        match fate {
            Fate::Vetted | Fate::Incomplete => {}
            Fate::Denied => {
                self.opened.1 += 1;
                self.denied += 1;
            }
            Fate::Killed => {
                // Whether it got so far is a matter of time.
                let in_helpers = signed(self.canary).1;
                assert!((self.opened.1..=self.opened.1 + 1).contains(&in_helpers));
                self.opened.1 = in_helpers;
                self.denied += 1;
            }
            Fate::Refused => self.opened.1 += 1,
        }
        self.checked(serving);
    }

    /// Installs bytes that were refused before.
    fn repel_again(&mut self, kind: Kind, round: u32) {
        let (make, fate, _, words) = kind;
        if !matches!(fate, Fate::Denied | Fate::Killed) {
            return self.repel(kind, round);
        }
        let serving = self.scene.generation("counter");
        let refused = self.scene.install(make(round)).refused();
        refused.at(Step::Vet, words).at(Step::Vet, &["this build is denied", "reseat deny --clear"]);
        self.checked(serving);
    }

    /// Installs a good build; `known`: it has been tried before.
    fn change(&mut self, number: u32, known: bool) {
        let mut expecting = self.scene.install(good(number));
        let mut outcome = expecting.outcome();
        while outcome.as_ref().is_err_and(is_late) {
            outcome = expecting.outcome();
        }
        let generation = outcome.unwrap();
        self.build = number;
        self.opened.0 += 1;
        self.opened.1 += usize::from(!known);
        self.checked(Some(generation));
    }

    #[track_caller]
    fn checked(&self, serving: Option<u64>) {
        let guard = self.counter.enter().unwrap();
        assert_eq!((Some(guard.generation()), guard.build().unwrap()), (serving, self.build));
        drop(guard);
        assert_eq!(signed(self.canary), self.opened, "opened here, and in helpers");
        assert_eq!(self.scene.host.denied().len(), self.denied);
        self.callers.go_on(&self.scene, 1);
    }

    /// No call has failed, none is lost, and nothing is left behind.
    fn lift(self) -> Scene {
        let calls = self.callers.finish();
        assert_eq!(self.counter.enter().unwrap().get().unwrap(), calls);
        self.scene.eventually(|s| {
            s.status("counter").generations.iter().all(|one| one.phase == Phase::Serving) && copies(s) == 1
        });
        // SAFETY: asks for children that have ended; the host waits for each of its own.
        let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        assert_eq!(child, -1, "no helper is left, dead or alive");
        self.scene
    }
}

/// Whether this is what the watcher says at last of a file that something else has replaced since.
fn is_late(refused: &Refused) -> bool {
    ["is empty", "is cut short"].iter().any(|words| refused.reason.contains(words))
}

fn callers(counter: &Handle<dyn Counter>) -> Callers {
    Callers::start(4, |_| {
        let (counter, mut last) = (counter.clone(), (0, 0));
        move || {
            let guard = counter.enter().map_err(|e| e.to_string())?;
            let now = (guard.generation(), guard.add(1).map_err(|e| e.to_string())?);
            if now.0 < last.0 || now.1 <= last.1 {
                return Err(format!("generation and total were {last:?}, now they are {now:?}"));
            }
            last = now;
            Ok(())
        }
    })
}

/// How many private copies there are, of any host of this scene.
fn copies(scene: &Scene) -> usize {
    let entries =
        |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = entries(&scene.state().join("run")).flat_map(|run| entries(&run).collect::<Vec<_>>());
    all.filter(|path| path.extension().is_some_and(|extension| extension == "so")).count()
}

/// How often a fixture was opened in this process, and in others.
fn signed(canary: &Path) -> (usize, usize) {
    let (lines, own) = (std::fs::read_to_string(canary).unwrap(), std::process::id().to_string());
    let here = lines.lines().filter(|line| **line == own).count();
    (here, lines.lines().count() - here)
}

#[test]
fn fourteen_kinds_of_bad_builds_fifty_times_over_cost_nobody_a_call() {
    let name = "artefacts::fourteen_kinds_of_bad_builds_fifty_times_over_cost_nobody_a_call";
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    in_child_within(LIMIT, name, &[("RESEAT_CANARY", canary.to_str().unwrap())], || {
        let canary = std::env::var("RESEAT_CANARY").unwrap();
        let canary = Path::new(&canary);
        let scene = Scene::with_options(&[], |options| {
            let mut probe = Probe::with(program::path(), ["probe"]);
            probe.deadline = DEADLINE;
            options.probe = Some(probe);
        });
        scene.install(good(1)).published();
        let mut siege = Siege::lay(scene, canary, 1, (1, 1), 0);
        for round in 0..ROUNDS {
            KINDS.iter().for_each(|kind| siege.repel(*kind, round));
            if round % CHANGE_EVERY == 0 {
                siege.change(2 + round / CHANGE_EVERY, false);
            }
        }
        KINDS.iter().for_each(|kind| siege.repel_again(*kind, 1));
        siege.change(20, false);
        let denied = siege.denied;
        assert_eq!(denied, 3 * ROUNDS as usize);
        let (here, in_helpers) = siege.opened;
        let mut scene = siege.lift();

        // The good builds have passed, this one also without a state, as the next host begins with it: so for them
        // its shorter deadline does not matter.
        scene.host.unload("counter").unwrap();
        scene.host.load(&scene.trusted("libcounter.so")).unwrap();
        assert!(scene.host.shutdown(DEADLINE));
        scene.host = Arc::new(scene.next_host(|options| {
            let mut probe = Probe::with(program::path(), ["probe"]);
            probe.deadline = LOOP_DEADLINE;
            (options.probe, options.probation) = (Some(probe), None);
        }));
        let mut siege = Siege::lay(scene, canary, 20, (here + 2, in_helpers + 1), denied);
        for round in 0..LOOPS {
            siege.repel(LOOPING, round);
            siege.change(2 + round % 5, true);
        }
        siege.repel_again(LOOPING, 0);
        // What the host before has denied is denied.
        KINDS.iter().filter(|kind| kind.1 == Fate::Denied).for_each(|kind| siege.repel_again(*kind, 7));
        siege.lift();
    });
}
