use std::time::Duration;

use reseat::fault::{Fault, Faults};
use reseat::{Event, Handle, Observers, Probe, Step};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::fault::{Kind, Point, Process, stamp};

use crate::child::in_child_with;
use crate::program;
use crate::scene::{Build, Hold, Scene};

/// A host in which things can be made to go wrong, with a counter that has counted to 5 and an echo.
struct Trial {
    scene: Scene,
    faults: Faults,
    counter: Handle<dyn Counter>,
    echo: Handle<dyn Echo>,
    /// Events before this one have been looked at.
    seen: usize,
    next: u32,
}

struct Nobody;

impl reseat::Observer for Nobody {}

impl Trial {
    fn begin() -> Trial {
        let faults = Faults::default();
        let scene = Scene::with_options(&["echo_stamped"], |options| {
            options.faults = faults.clone();
            options.hook_deadline = Duration::from_millis(500);
            options.observers = Observers::none().and(Nobody);
            options.probe = Some(Probe::with(program::path(), ["probe"]));
        });
        scene.install(good(1)).published();
        let (counter, echo) = (scene.handle::<dyn Counter>("counter"), scene.handle::<dyn Echo>("echo"));
        // On a thread that ends, so that nothing is left on this one.
        std::thread::scope(|s| s.spawn(|| counter.enter().unwrap().add(5).unwrap()).join().unwrap());
        let mut trial = Trial { scene, faults, counter, echo, seen: 0, next: 2 };
        trial.happened();
        trial
    }

    /// The kinds of events since the last time, of both plugins.
    fn happened(&mut self) -> Vec<String> {
        let events = self.scene.host.recent_events();
        let seen = self.seen;
        let new = events.into_iter().filter(|event| event.sequence as usize > seen);
        let mut kinds = Vec::new();
        for recorded in new {
            self.seen = recorded.sequence as usize;
            kinds.push(match recorded.event {
                Event::Refused { step, .. } => format!("refused at {step}"),
                Event::Reloaded { generation, .. } => format!("reloaded {generation}"),
                Event::Unloaded { generation, .. } => format!("unloaded {generation}"),
                Event::Lingering { generation, .. } => format!("lingering {generation}"),
                Event::Trouble { .. } => "trouble".into(),
                other => other.to_string(),
            });
        }
        kinds
    }

    /// The serving generation and the total.
    fn now(&self) -> (u64, u64) {
        let guard = self.counter.enter().unwrap();
        (guard.generation(), guard.get().unwrap())
    }

    /// One more build that does nothing wrong.
    fn fresh(&mut self) -> Build {
        self.next += 1;
        assert!(self.next < 100);
        good(self.next)
    }

    /// The next good build takes over, with the state, and the one before is unloaded.
    #[track_caller]
    fn goes_on(&mut self, what: &str) {
        let (before, total) = self.now();
        let build = self.fresh();
        let generation = self.scene.install(build).published();
        assert_eq!(self.now(), (generation, total), "{what}");
        self.scene.unloaded("counter", before);
        self.scene.settled();
        let happened = self.happened();
        assert_eq!(happened, [format!("reloaded {generation}"), format!("unloaded {before}")], "{what}");
    }
}

fn good(number: u32) -> Build {
    Build::of("faulty").stamped(number)
}

fn bad(point: Point, kind: Kind) -> Build {
    Build::of("faulty").stamped(stamp(point, kind, Process::Host))
}

/// The steps that a reload of a stateful plugin comes to before it is published.
const BEFORE: [Step; 10] = [
    Step::Stage,
    Step::Vet,
    Step::Probe,
    Step::Observe,
    Step::Open,
    Step::Drain,
    Step::Save,
    Step::Restore,
    Step::Check,
    Step::Publish,
];

#[test]
fn an_error_or_a_panic_in_the_host_before_publish_is_a_refusal_and_undone() {
    let mut trial = Trial::begin();
    for step in BEFORE {
        for fault in [Fault::Error, Fault::Panic] {
            let what = format!("{fault:?} at {step}");
            let (generation, total) = trial.now();
            trial.faults.plan(step, fault);
            let build = trial.fresh();
            let refused = trial.scene.install(build).refused();
            let words = match fault {
                Fault::Panic => ["there was a mistake in the host", "an injected panic"],
                _ => ["an injected error", ""],
            };
            refused.at(step, &words);
            trial.faults.clear();
            assert_eq!(trial.now(), (generation, total), "{what}");
            trial.scene.settled();
            assert_eq!(trial.happened(), [format!("refused at {step}")], "{what}");
            trial.goes_on(&what);
        }
    }
}

#[test]
fn a_stateless_plugin_comes_to_create_and_is_no_worse_off() {
    let mut trial = Trial::begin();
    for (step, fault) in [
        (Step::Create, Fault::Error),
        (Step::Create, Fault::Panic),
        (Step::Publish, Fault::Error),
        (Step::Publish, Fault::Panic),
    ] {
        trial.faults.plan(step, fault);
        let before = trial.echo.enter().unwrap().build().unwrap();
        let build = Build::of("echo_stamped").stamped(40 + trial.seen as u32);
        trial.scene.install(build).refused().at(step, &["an injected"]);
        trial.faults.clear();
        assert_eq!(trial.echo.enter().unwrap().build().unwrap(), before);
        trial.scene.settled();
        assert_eq!(trial.happened(), [format!("refused at {step}")]);
    }
    let generation = trial.scene.install(Build::of("echo_stamped").stamped(99)).published();
    assert_eq!(trial.echo.enter().unwrap().generation(), generation);
}

#[test]
fn a_step_of_the_host_that_hangs_is_named_and_can_be_cancelled_and_holds_up_nobody_else() {
    let mut trial = Trial::begin();
    for step in [Step::Probe, Step::Observe, Step::Open] {
        let (generation, total) = trial.now();
        trial.faults.plan(step, Fault::Hang);
        let build = trial.fresh();
        let expecting = trial.scene.install(build);
        let at_it =
            |s: &Scene| s.status("counter").busy.is_some_and(|busy| busy.starts_with(&step.to_string()));
        trial.scene.eventually(at_it);
        assert_eq!(trial.now(), (generation, total));
        let busy = trial.scene.host.reload("counter").unwrap_err().to_string();
        assert!(busy.starts_with(&format!("busy: reload of counter is at step {step} since")), "{busy}");
        assert_eq!(trial.scene.host.cancel("counter"), Some(step));
        trial.faults.clear();
        let refused = expecting.refused();
        assert_eq!(refused.reason, "it was cancelled");
        trial.scene.settled();
        trial.happened();
        trial.goes_on(&format!("a hang at {step}"));
    }
}

#[test]
fn an_error_or_a_panic_in_the_host_after_publish_changes_nothing_and_is_told() {
    let mut trial = Trial::begin();
    for fault in [Fault::Error, Fault::Panic] {
        let (before, total) = trial.now();
        trial.faults.plan(Step::Record, fault);
        let build = trial.fresh();
        let path = trial.scene.plugins().join(build.file_name());
        std::fs::rename(trial.scene.shelve(&build), path).unwrap();
        trial.scene.eventually(|s| s.generation("counter") > Some(before));
        trial.scene.unloaded("counter", before);
        trial.faults.clear();
        assert_eq!(trial.now(), (before + 1, total));
        let happened = trial.happened();
        assert!(happened.contains(&"trouble".to_owned()), "{happened:?}");
        trial.goes_on(&format!("{fault:?} at record"));
    }
}

#[test]
fn what_goes_wrong_when_a_generation_retires_keeps_it_in_memory_and_harms_no_other() {
    let mut trial = Trial::begin();
    for step in [Step::Retire, Step::Close] {
        // An error is passing: it is tried again.
        let (before, _) = trial.now();
        trial.faults.plan(step, Fault::Error);
        let build = trial.fresh();
        trial.scene.install(build).published();
        trial.scene.lingers("counter", before, &["an injected error"]);
        trial.faults.clear();
        trial.scene.unloaded("counter", before);
        trial.happened();
        trial.goes_on(&format!("an error at {step}"));
    }
    for step in [Step::Retire, Step::Close] {
        let (before, _) = trial.now();
        trial.faults.plan(step, Fault::Panic);
        let build = trial.fresh();
        trial.scene.install(build).published();
        trial.scene.lingers("counter", before, &["there was a mistake in the host: an injected panic"]);
        trial.faults.clear();
        // It stays; the next one goes as if nothing had been.
        let (next, total) = trial.now();
        let build = trial.fresh();
        trial.scene.install(build).published();
        trial.scene.unloaded("counter", next);
        assert_eq!(trial.now().1, total);
    }
}

#[test]
fn what_goes_wrong_in_the_plugin_before_publish_is_a_refusal_and_undone() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let name = "faults::what_goes_wrong_in_the_plugin_before_publish_is_a_refusal_and_undone";
    in_child_with(name, &[("RESEAT_HOLD", &hold.until())], || {
        let hold = Hold::at(std::env::var_os("RESEAT_HOLD").unwrap().into());
        let mut trial = Trial::begin();
        for (point, step) in
            [(Point::Restore, Step::Restore), (Point::Started, Step::Check), (Point::SelfCheck, Step::Check)]
        {
            for kind in [Kind::Error, Kind::Panic, Kind::Hang] {
                let what = format!("{kind:?} in {point:?}");
                let (generation, total) = trial.now();
                let words = match kind {
                    Kind::Error => format!("an error in {point:?}"),
                    Kind::Panic => format!("a panic in {point:?}"),
                    _ => "has not returned within 500ms".to_owned(),
                };
                trial.scene.install(bad(point, kind)).refused().at(step, &[&words]);
                assert_eq!(trial.now(), (generation, total), "{what}");
                if kind == Kind::Hang {
                    // It is left behind until it returns.
                    let refused = generation + 1;
                    trial.scene.lingers("counter", refused, &["one of its hooks has not returned"]);
                    hold.release();
                    trial.scene.settled();
                    std::fs::remove_file(hold.until()).unwrap();
                }
                trial.scene.settled();
                let happened = trial.happened();
                assert!(happened.contains(&format!("refused at {step}")), "{what}: {happened:?}");
                assert!(happened.len() == 1 || kind == Kind::Hang, "{what}: {happened:?}");
                trial.goes_on(&what);
            }
        }
    });
}

#[test]
fn a_serving_build_that_cannot_save_serves_on() {
    let mut trial = Trial::begin();
    for kind in [Kind::Error, Kind::Panic] {
        let generation = trial.scene.install(bad(Point::Save, kind)).published();
        let total = trial.now().1;
        let words = [if kind == Kind::Error { "an error in Save" } else { "a panic in Save" }];
        let build = trial.fresh();
        trial.scene.install(build).refused().at(Step::Probe, &words);
        assert_eq!(trial.now(), (generation, total), "{kind:?}");
        // Its state is its own: whoever wants it gone says so.
        trial.scene.host.unload("counter").unwrap();
        trial.scene.unloaded("counter", generation);
        let build = trial.fresh();
        trial.scene.install(build).published();
        assert_eq!(trial.now().1, 0);
    }
}

#[test]
fn what_goes_wrong_in_the_old_build_after_publish_is_told_and_the_new_one_serves() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let name = "faults::what_goes_wrong_in_the_old_build_after_publish_is_told_and_the_new_one_serves";
    in_child_with(name, &[("RESEAT_HOLD", &hold.until())], || {
        let hold = Hold::at(std::env::var_os("RESEAT_HOLD").unwrap().into());
        let mut trial = Trial::begin();
        for point in [Point::Stopping, Point::Drop] {
            for kind in [Kind::Error, Kind::Panic, Kind::Hang] {
                let what = format!("{kind:?} in {point:?}");
                let old = trial.scene.install(bad(point, kind)).published();
                let total = trial.now().1;
                let build = trial.fresh();
                let new = trial.scene.install(build).published();
                assert_eq!(trial.now(), (new, total), "{what}");
                if kind == Kind::Hang {
                    trial.scene.lingers("counter", old, &["its last hooks have not returned within 500ms"]);
                    hold.release();
                }
                trial.scene.unloaded("counter", old);
                let _ = std::fs::remove_file(hold.until());
                let happened = trial.happened();
                let told = happened.contains(&"trouble".to_owned());
                assert!(told || kind == Kind::Hang, "{what}: {happened:?}");
                trial.scene.settled();
                trial.happened();
                trial.goes_on(&what);
            }
        }
    });
}

/// From now on no file of this process may grow beyond this, as if the disk were full.
fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: sets a disposition and a limit of this process, from values of our own.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
    }
}

#[test]
fn a_disk_that_is_full_costs_a_refusal_and_the_file_is_loaded_when_there_is_room() {
    let name = "faults::a_disk_that_is_full_costs_a_refusal_and_the_file_is_loaded_when_there_is_room";
    in_child_with(name, &[], || {
        let scene = Scene::with(&["counter_v1"]);
        let counter = scene.handle::<dyn Counter>("counter");
        let build = Build::of("counter_v2");
        let expecting = scene.expecting(&build.file_name());
        let shelved = scene.shelve(&build);
        limit_files(64 << 10);
        std::fs::rename(shelved, &expecting.file).unwrap();
        expecting.refused().at(Step::Stage, &["cannot write a private copy"]);
        assert_eq!(counter.enter().unwrap().build().unwrap(), 1);
        let expecting = scene.expecting(&build.file_name());
        limit_files(libc::RLIM_INFINITY);
        // Nobody has touched the file since.
        assert_eq!(expecting.published(), 2);
        scene.settled();
    });
}

#[test]
fn a_state_directory_that_goes_away_costs_a_refusal_and_is_used_again_when_it_is_back() {
    let scene = Scene::with(&["counter_v1"]);
    let counter = scene.handle::<dyn Counter>("counter");
    let run = scene.state().join("run").join(std::process::id().to_string());
    std::fs::remove_dir_all(&run).unwrap();
    scene.install("counter_v2").refused().at(Step::Stage, &["cannot write a private copy in"]);
    assert_eq!(counter.enter().unwrap().build().unwrap(), 1);
    let expecting = scene.expecting("libcounter.so");
    std::fs::create_dir(&run).unwrap();
    assert_eq!(expecting.published(), 2);
    scene.unloaded("counter", 1);
}

#[test]
fn an_observer_that_objects_panics_or_hangs_costs_a_refusal_and_is_told_of_what_serves() {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    struct Strict {
        mood: Arc<AtomicU32>,
        told: Arc<Mutex<Vec<String>>>,
        until: String,
    }
    impl reseat::Observer for Strict {
        fn before_reload(&self, change: &reseat::Change) -> Result<(), String> {
            match self.mood.load(Ordering::Relaxed) {
                0 => Ok(()),
                1 => Err(format!("not while {:?} is in use", change.from)),
                2 => panic!("an observer that cannot cope"),
                _ => {
                    reseat_tests::held::hold(&self.until);
                    Ok(())
                }
            }
        }
        fn name(&self) -> String {
            "strict".into()
        }
        fn after_load(&self, change: &reseat::Change) {
            self.after_reload(change);
        }
        fn after_reload(&self, change: &reseat::Change) {
            self.told.lock().unwrap().push(format!("{} {}", change.plugin, change.version));
        }
    }

    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let (mood, told) = (Arc::new(AtomicU32::new(0)), Arc::<Mutex<Vec<String>>>::default());
    let strict = Strict { mood: mood.clone(), told: told.clone(), until: hold.until() };
    let scene = Scene::with_options(&["counter_v1"], |options| {
        options.observers = Observers::none().and(Nobody).and(strict);
        options.hook_deadline = Duration::from_millis(500);
    });
    assert_eq!(*told.lock().unwrap(), ["counter 0.1.0"]);
    for (number, words) in [
        (1, "the observer `strict` objects: not while Some(1) is in use"),
        (2, "the observer `strict` panicked: an observer that cannot cope"),
        (3, "the observer `strict` has not answered within 500ms"),
    ] {
        mood.store(number, Ordering::Relaxed);
        scene.host.reload("counter").unwrap_err();
        scene.install(Build::of("counter_v2")).refused().at(Step::Observe, &[words]);
        assert_eq!(scene.generation("counter"), Some(1));
    }
    hold.release();
    mood.store(0, Ordering::Relaxed);
    scene.install(Build::of("counter_v2")).published();
    scene.eventually(|_| told.lock().unwrap().len() == 2);
}
