use std::path::PathBuf;
use std::time::Duration;

use reseat::{Handle, MaxLingering, ReloadError};
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::child::{in_child, in_child_with, in_child_within};
use crate::long_lived::{LongLived, all_come_by, call_all};
use crate::process::{Belongings, Outside, mapped, resident_kib};
use crate::scene::{Scene, Verdict};
use crate::waiting::DEADLINE;

/// How often each of them is replaced.
const RELOADS: u64 = 100;

/// What one kind of plugin is put through.
#[derive(Clone, Copy)]
struct Shape {
    fixture: &'static str,
    /// How many threads live through all of it, and call every generation.
    threads: usize,
    /// Whether it leaves thread-locals, so that it lingers until the threads that called have come by.
    leaves: bool,
    /// How many destructors each thread runs for a generation, if the fixture counts them.
    destructors: u64,
    /// Whether the loader may run out of room for its thread-locals.
    may_be_refused: bool,
}

impl Shape {
    fn of(fixture: &'static str) -> Shape {
        Shape { fixture, threads: 2, leaves: false, destructors: 0, may_be_refused: false }
    }

    /// One that leaves thread-locals on the threads that call.
    fn leaving(fixture: &'static str) -> Shape {
        Shape { leaves: true, ..Shape::of(fixture) }
    }
}

/// A host with one plugin, threads that call it, and somebody outside who looks on.
struct Trial {
    scene: Scene,
    misc: Handle<dyn Misc>,
    plugin: &'static str,
    /// What calls are told.
    what: String,
    threads: Vec<LongLived>,
    outside: Outside,
    /// How often the host has said that a generation lingers while it was looked at from outside.
    lingering: usize,
}

impl Trial {
    fn new(shape: Shape) -> Trial {
        Trial::of(Scene::with(&[shape.fixture]), shape)
    }

    fn of(scene: Scene, shape: Shape) -> Trial {
        let misc = scene.handle(shape.fixture);
        let threads = (0..shape.threads).map(|n| LongLived::new(&format!("long-lived-{n}"), &misc)).collect();
        let (plugin, what) = (shape.fixture, "awake".to_owned());
        Trial { scene, misc, plugin, what, threads, outside: Outside::of_this_process(), lingering: 0 }
    }

    /// Every thread that lives on calls, and one that ends at once.
    #[track_caller]
    fn call(&self) {
        call_all(&self.threads, &self.what);
        let (misc, what) = (self.misc.clone(), self.what.clone());
        std::thread::spawn(move || call(&misc, &what)).join().expect("it is answered");
    }

    #[track_caller]
    fn serving(&self) -> u64 {
        self.scene.generation(self.plugin).expect("it serves")
    }

    /// The private copy of a generation, as far as its name is known.
    fn copy(&self, generation: u64) -> PathBuf {
        let run = self.scene.state().join("run").join(std::process::id().to_string());
        run.join(format!("{}-{generation}-", self.plugin))
    }

    /// Whether code of a generation is mapped, as seen from outside.
    #[track_caller]
    fn is_mapped(&mut self, generation: u64) -> bool {
        let copy = self.copy(generation);
        self.outside.executable(&copy) != 0
    }

    /// What the host says of an old generation while nobody comes by is what is seen from outside. Whether it
    /// lingers.
    #[track_caller]
    fn agrees_at_rest(&mut self, old: u64) -> bool {
        self.scene.eventually(|s| s.verdict_of(self.plugin, old).is_some());
        let is_mapped = self.is_mapped(old);
        if !is_mapped {
            // A thread of the plugin may have ended between the two looks.
            self.scene.unloaded(self.plugin, old);
        }
        let lingers = self.scene.verdict_of(self.plugin, old) != Some(Verdict::Unloaded);
        assert!(is_mapped || !lingers);
        lingers
    }

    /// What the host says of an old generation is what is seen from outside, until it is gone.
    #[track_caller]
    fn agrees_until_gone(&mut self, old: u64) {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            all_come_by(&self.threads);
            let before = self.scene.verdict_of(self.plugin, old);
            let is_mapped = self.is_mapped(old);
            match before {
                Some(Verdict::Unloaded) => {
                    assert!(!is_mapped, "generation {old} is said to be unloaded, and is mapped");
                    assert_eq!(mapped(&self.copy(old)), [""; 0], "not even to be read");
                    return;
                }
                Some(Verdict::Lingering(_)) if is_mapped => self.lingering += 1,
                // Between the two looks it has gone, and the host is about to say so.
                Some(Verdict::Lingering(_)) => self.scene.unloaded(self.plugin, old),
                // The host has not said anything yet.
                None => {}
            }
            assert!(std::time::Instant::now() < deadline, "generation {old} has not gone\n{}", self.scene);
        }
    }

    /// The threads end, then the host: every verdict was right, and nothing is left.
    #[track_caller]
    fn end(mut self) {
        self.threads.drain(..).for_each(LongLived::end);
        self.scene.settled();
        let serving = self.serving();
        assert!(self.is_mapped(serving));
        // Nothing but the one that serves.
        let (all, one) = (self.scene.state(), self.copy(serving));
        assert_eq!(self.outside.executable(&all), self.outside.executable(&one));
        // Threads of the test that have called have ended; this one has not called.
        assert!(self.scene.host.shutdown(DEADLINE), "{}", self.scene);
        assert_eq!(self.outside.executable(&all), 0);
    }
}

#[track_caller]
fn call(misc: &Handle<dyn Misc>, what: &str) {
    let said = misc.enter().and_then(|guard| guard.call(what)).unwrap();
    assert!(said.starts_with(what), "{said:?}");
}

/// Replaces it again and again; each generation is called, and its end is watched from outside.
fn replaced_again_and_again(name: &str, shape: Shape) {
    in_child(name, || run(Trial::new(shape), shape));
}

/// The trial itself, in a process that has nothing else to do.
fn run(mut trial: Trial, shape: Shape) {
    let mut refused = 0;
    let mut lingered = 0;
    for number in 0..RELOADS {
        trial.call();
        let old = trial.serving();
        match trial.scene.host.reload(trial.plugin) {
            Ok(_) => {
                // Now and then only: it takes a moment until a host says that something lingers.
                if number % 10 == 0 {
                    lingered += u64::from(trial.agrees_at_rest(old));
                }
                trial.agrees_until_gone(old);
            }
            Err(ReloadError::Refused(refusal)) if shape.may_be_refused => {
                let reason = refusal.to_string();
                assert!(reason.contains("static TLS block"), "{reason}");
                assert_eq!(trial.serving(), old);
                assert!(trial.is_mapped(old));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("{}: {refused} refused, {lingered} lingered; seen {} times", trial.plugin, trial.lingering);
    assert!(!shape.leaves || lingered == RELOADS / 10, "{lingered} lingered");
    // The last one goes when the host does, and the threads before that.
    trial.call();
    trial.threads.drain(..).for_each(LongLived::end);
    if shape.destructors != 0 {
        let each = (shape.threads as u64 + 1) * shape.destructors;
        let all = (RELOADS + 1) * each;
        assert_eq!(trial.scene.status(trial.plugin).counters, [("destroyed".to_owned(), all)]);
    }
    trial.end();
}

#[test]
fn thread_locals_with_destructors_on_32_threads_that_live_on() {
    let name = "matrix::thread_locals_with_destructors_on_32_threads_that_live_on";
    replaced_again_and_again(name, Shape { threads: 32, destructors: 1, ..Shape::leaving("tls_with_drop") });
}

#[test]
fn the_handle_of_the_current_thread() {
    replaced_again_and_again("matrix::the_handle_of_the_current_thread", Shape::of("thread_current"));
}

#[test]
fn destructors_of_thread_locals_that_make_thread_locals() {
    let name = "matrix::destructors_of_thread_locals_that_make_thread_locals";
    replaced_again_and_again(name, Shape { destructors: 2, ..Shape::leaving("tls_in_tls_drop") });
}

#[test]
fn threads_that_were_started_a_moment_ago() {
    replaced_again_and_again(
        "matrix::threads_that_were_started_a_moment_ago",
        Shape::leaving("spawns_and_returns"),
    );
}

#[test]
fn threads_that_are_joined() {
    replaced_again_and_again("matrix::threads_that_are_joined", Shape::leaving("spawns_and_joins"));
}

#[test]
fn channels_of_std() {
    replaced_again_and_again("matrix::channels_of_std", Shape::leaving("uses_mpsc"));
}

#[test]
fn random_numbers() {
    replaced_again_and_again("matrix::random_numbers", Shape::leaving("uses_rand"));
}

#[test]
fn tracing_with_a_subscriber_inside() {
    replaced_again_and_again("matrix::tracing_with_a_subscriber_inside", Shape::leaving("logs_with_tracing"));
}

#[test]
fn locks_of_parking_lot() {
    replaced_again_and_again("matrix::locks_of_parking_lot", Shape::leaving("uses_parking_lot"));
}

#[test]
fn an_allocator_in_static_thread_local_storage_is_refused_when_there_is_no_room_left() {
    let name = "matrix::an_allocator_in_static_thread_local_storage_is_refused_when_there_is_no_room_left";
    replaced_again_and_again(name, Shape { may_be_refused: true, ..Shape::of("uses_mimalloc") });
}

#[test]
fn panics_that_are_caught_while_backtraces_are_asked_for() {
    let name = "matrix::panics_that_are_caught_while_backtraces_are_asked_for";
    in_child_with(name, &[("RUST_BACKTRACE", "1")], || {
        let shape = Shape::of("catches_panics");
        run(Trial::new(shape), shape);
    });
}

#[test]
fn a_runtime_of_tokio() {
    replaced_again_and_again("matrix::a_runtime_of_tokio", Shape::leaving("runs_tokio"));
}

#[test]
fn a_pool_of_rayon() {
    replaced_again_and_again("matrix::a_pool_of_rayon", Shape::of("runs_rayon"));
}

#[test]
fn the_pool_of_rayon_that_every_program_has() {
    let name = "matrix::the_pool_of_rayon_that_every_program_has";
    in_child_with(name, &[("RAYON_NUM_THREADS", "1")], || {
        let limit = MaxLingering { generations: RELOADS as usize + 1, bytes: u64::MAX };
        let fixture = "runs_rayon_globally";
        let scene = Scene::with_options(&[fixture], |options| options.max_lingering = limit);
        let mut trial = Trial::of(scene, Shape::of(fixture));
        for _ in 0..RELOADS {
            trial.call();
            let old = trial.serving();
            trial.scene.host.reload(fixture).unwrap();
            trial.scene.lingers(fixture, old, &["of the plugin still runs"]);
            assert!(trial.is_mapped(old));
        }
        // What could not be unloaded has not gone since, and nobody has said that it has.
        for old in 1..=RELOADS {
            assert!(trial.is_mapped(old));
            assert!(matches!(trial.scene.verdict_of(fixture, old), Some(Verdict::Lingering(_)) | None));
        }
    });
}

#[test]
fn c_code_with_a_constructor_and_a_thread_local() {
    replaced_again_and_again("matrix::c_code_with_a_constructor_and_a_thread_local", Shape::of("links_c"));
}

#[test]
fn a_library_that_remembers_the_thread_that_opened_it() {
    replaced_again_and_again(
        "matrix::a_library_that_remembers_the_thread_that_opened_it",
        Shape::of("opening_thread"),
    );
}

#[test]
fn regular_expressions() {
    replaced_again_and_again("matrix::regular_expressions", Shape::of("uses_regex"));
}

#[test]
fn functions_that_are_to_run_at_exit_run_when_their_library_goes() {
    let name = "matrix::functions_that_are_to_run_at_exit_run_when_their_library_goes";
    in_child(name, || {
        let shape = Shape::of("atexit_handler");
        let mut trial = Trial::new(shape);
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("lines");
        trial.what = lines.to_str().unwrap().to_owned();
        run(trial, shape);
        // One for each generation, the last one included, and all of them before the process ends.
        assert_eq!(std::fs::read_to_string(lines).unwrap().lines().count() as u64, RELOADS + 1);
    });
}

#[test]
fn threads_that_are_left_behind_and_end_after_a_while() {
    in_child("matrix::threads_that_are_left_behind_and_end_after_a_while", || {
        let mut trial = Trial::new(Shape::of("stray_thread"));
        for _ in 0..RELOADS {
            let hold = trial.scene.hold();
            trial.what = hold.until();
            trial.call();
            hold.entered();
            let old = trial.serving();
            trial.scene.host.reload(trial.plugin).unwrap();
            // As long as they run it lingers, for a reason that names them.
            trial.scene.lingers(trial.plugin, old, &["thread \"stray\"", "of the plugin still runs"]);
            // The threads that called have left something, too.
            all_come_by(&trial.threads);
            assert!(trial.is_mapped(old));
            assert!(matches!(trial.scene.verdict_of(trial.plugin, old), Some(Verdict::Lingering(_))));
            hold.release();
            // Nobody calls, and nobody comes by.
            trial.scene.unloaded(trial.plugin, old);
            assert!(!trial.is_mapped(old));
        }
        trial.end();
    });
}

/// Reloads under the calls of two threads, which then end; no call fails. Returns how many calls there were.
fn reload_under_calls(scene: &Scene, reloads: u64) -> u64 {
    let callers = Callers::start(2, |_| {
        let misc: Handle<dyn Misc> = scene.handle("soak");
        move || match misc.enter().and_then(|guard| guard.call("awake")) {
            Ok(said) if said.starts_with("awake by ") => {
                // The host has work to do, too.
                std::thread::yield_now();
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    for number in 1..=reloads {
        let old = scene.generation("soak").expect("it serves");
        scene.host.reload("soak").unwrap();
        // Now and then only, so that generations overlap as well.
        if number % 10 == 0 {
            scene.unloaded("soak", old);
        }
    }
    callers.go_on(scene, 2);
    let calls = callers.finish();
    scene.settled();
    calls
}

/// Also run by `scripts/soak`, with more reloads.
#[test]
fn a_thousand_reloads_leave_nothing_behind() {
    const WARM_UP: u64 = 50;
    let reloads = std::env::var("RESEAT_SOAK").map_or(1000, |n| n.parse().expect("RESEAT_SOAK: a number"));
    // A reload takes some milliseconds; this is for machines that are busy.
    let limit = Duration::from_millis(120 * reloads.max(1000));
    in_child_within(limit, "matrix::a_thousand_reloads_leave_nothing_behind", &[], || {
        let scene = Scene::with(&["soak"]);
        reload_under_calls(&scene, WARM_UP);
        // Twice the same: now and then the host has a directory open, or the kernel a thread that was joined.
        let mut before = Belongings::now();
        scene.eventually(|_| {
            let now = Belongings::now();
            std::mem::replace(&mut before, now.clone()) == now
        });
        let resident = resident_kib();

        let calls = reload_under_calls(&scene, reloads);

        scene.eventually(|_| Belongings::now() == before);
        assert_eq!(scene.generation("soak"), Some(1 + WARM_UP + reloads));
        let grown = resident_kib().saturating_sub(resident);
        println!("{reloads} reloads, {calls} calls, {grown} KiB more than after {WARM_UP} reloads");
        assert!(
            grown <= 4 << 10,
            "{grown} KiB more are resident than after {WARM_UP} reloads, {resident} KiB"
        );
        assert_eq!(scene.refusals(), [""; 0]);
        assert!(scene.host.shutdown(DEADLINE));
    });
}
