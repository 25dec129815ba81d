use std::path::Path;
use std::time::Duration;

use reseat::{DrainPolicy, Handle, Options, Probe, Step};
use reseat_tests::counter::Counter;
use reseat_tests::fault::{Kind, Point, Process, stamp};

use crate::child::in_child_with;
use crate::program;
use crate::scene::{Build, Hold, Scene, Verdict};

/// A build of the counter that goes wrong.
fn bad(point: Point, kind: Kind, process: Process) -> Build {
    Build::of("faulty").stamped(stamp(point, kind, process))
}

/// A build that does not.
fn good(number: u32) -> Build {
    assert!(number < 100);
    Build::of("faulty").stamped(number)
}

/// A host that tries builds in a helper process, with a counter that has counted to 5.
fn scene(change: impl FnOnce(&mut Options)) -> (Scene, Handle<dyn Counter>) {
    let scene = Scene::with_options(&[], |options| {
        options.probe = Some(Probe::with(program::path(), ["probe"]));
        change(options);
    });
    scene.install(good(1)).published();
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    (scene, counter)
}

/// What answers: generation, total.
fn now(counter: &Handle<dyn Counter>) -> (u64, u64) {
    let guard = counter.enter().unwrap();
    (guard.generation(), guard.get().unwrap())
}

/// These processes have opened a fixture.
fn signed(canary: &Path) -> Vec<u32> {
    let lines = std::fs::read_to_string(canary).unwrap_or_default();
    lines.lines().map(|line| line.parse().unwrap()).collect()
}

/// Runs `test` in a process of its own, which may be told apart from its helpers by what they leave in this file.
fn with_canary(name: &str, test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    in_child_with(name, &[("RESEAT_CANARY", canary.to_str().unwrap())], || {
        test(Path::new(&std::env::var_os("RESEAT_CANARY").unwrap()));
    });
}

#[test]
fn what_would_kill_the_host_kills_a_helper_and_is_denied() {
    with_canary("probe::what_would_kill_the_host_kills_a_helper_and_is_denied", |canary| {
        let (scene, counter) = scene(|options| {
            options.probe.as_mut().unwrap().deadline = Duration::from_secs(20);
        });
        let host = std::process::id();
        let own = |signed: &[u32]| signed.iter().filter(|&&process| process == host).count();
        assert_eq!(own(&signed(canary)), 1);
        let cases = [
            (Point::Constructor, Kind::Fault, "its constructors died of SIGSEGV"),
            (Point::Constructor, Kind::Abort, "its constructors died of SIGABRT"),
            (Point::Constructor, Kind::Exit, "its constructors ended the process with exit code 7"),
            (Point::Restore, Kind::Fault, "restore died of SIGSEGV"),
            (Point::Restore, Kind::Exit, "restore ended the process with exit code 7"),
            (Point::Restore, Kind::Memory, "restore died of SIGABRT"),
            (Point::SelfCheck, Kind::Abort, "self_check died of SIGABRT"),
            (Point::Save, Kind::Fault, "save died of SIGSEGV"),
            (Point::Drop, Kind::Abort, "its destructors died of SIGABRT"),
        ];
        for (point, kind, words) in cases {
            let said = format!("it said: {point:?} is about to go wrong");
            let refused = scene.install(bad(point, kind, Process::Any)).refused();
            assert_eq!(refused.serving, Some(1));
            refused
                .at(Step::Probe, &["in a helper process", words, &said, "this build is denied from now on"]);
            assert_eq!(now(&counter), (1, 5));
            let helpers = signed(canary).len();
            // The same bytes again: nothing runs anywhere.
            let again = bad(point, kind, Process::Any);
            scene.install(again).refused().at(Step::Vet, &["this build is denied", words, "deny --clear"]);
            assert_eq!(signed(canary).len(), helpers);
        }
        assert_eq!(own(&signed(canary)), 1, "nothing of them has run in the host");
        assert_eq!(scene.host.denied().len(), cases.len());
        // Allowed again by hand, it is tried again.
        let first = scene.host.denied().remove(0);
        assert_eq!(scene.host.allow(&first.hash[..12]).len(), 1);
        scene.install(bad(Point::Constructor, Kind::Fault, Process::Any)).refused().at(Step::Probe, &[]);
        assert_eq!(scene.install(good(2)).published(), scene.generation("counter").unwrap());
        assert_eq!(now(&counter).1, 5);
    });
}

#[test]
fn what_would_hang_hangs_in_a_helper_that_is_ended_at_the_deadline() {
    with_canary("probe::what_would_hang_hangs_in_a_helper_that_is_ended_at_the_deadline", |canary| {
        let (scene, counter) = scene(|options| {
            options.probe.as_mut().unwrap().deadline = Duration::from_millis(400);
        });
        for (point, kind, what) in [
            (Point::Constructor, Kind::Loop, "its constructors"),
            (Point::Restore, Kind::Hang, "restore"),
            (Point::Drop, Kind::Hang, "its destructors"),
        ] {
            let words = format!("{what} had not returned after 400ms");
            scene.install(bad(point, kind, Process::Any)).refused().at(Step::Probe, &[&words]);
            assert_eq!(now(&counter), (1, 5));
        }
        // They are gone, with nothing left of them.
        let alive = |process: &u32| Path::new(&format!("/proc/{process}")).exists();
        let processes = signed(canary);
        assert_eq!(
            processes.iter().filter(|process| alive(process)).collect::<Vec<_>>(),
            [&std::process::id()]
        );
    });
}

#[test]
fn what_a_hook_says_in_the_helper_is_what_the_refusal_says() {
    let (scene, counter) = scene(|_| {});
    let refuse = |point, kind| scene.install(bad(point, kind, Process::Any)).refused();
    refuse(Point::Restore, Kind::Error).at(Step::Probe, &["restore failed: an error in Restore"]);
    refuse(Point::SelfCheck, Kind::Panic).at(Step::Probe, &["self_check failed", "a panic in SelfCheck"]);
    refuse(Point::Save, Kind::Error).at(Step::Probe, &["save failed: an error in Save"]);
    assert_eq!(now(&counter), (1, 5));
    // What refuses a state that is in use may be right: it is not denied.
    let denied: Vec<_> = scene.host.denied().into_iter().map(|denial| denial.reason).collect();
    assert_eq!(denied, [""; 0]);
}

#[test]
fn what_goes_wrong_only_in_the_host_is_refused_there() {
    let (scene, counter) = scene(|_| {});
    let refuse = |point, kind| scene.install(bad(point, kind, Process::Host)).refused();
    refuse(Point::Restore, Kind::Error).at(Step::Restore, &["an error in Restore"]);
    refuse(Point::SelfCheck, Kind::Panic).at(Step::Check, &["a panic in SelfCheck"]);
    assert_eq!(now(&counter), (1, 5));
    scene.install(good(2)).published();
    assert_eq!(now(&counter).1, 5);
    gone(&scene, 1);
}

#[test]
fn a_build_that_was_tried_is_not_tried_again_also_by_the_next_host() {
    with_canary("probe::a_build_that_was_tried_is_not_tried_again_also_by_the_next_host", |canary| {
        let (scene, _counter) = scene(|_| {});
        let host = std::process::id();
        let helpers = || signed(canary).iter().filter(|&&process| process != host).count();
        assert_eq!(helpers(), 1);
        // With a state it is another matter, once.
        for _ in 0..2 {
            scene.host.reload("counter").unwrap();
            assert_eq!(helpers(), 2);
        }
        scene.install(good(2)).published();
        assert_eq!(helpers(), 3);
        scene.install(bad(Point::Create, Kind::Error, Process::Helper)).published();
        let restored = "it is created only where there is no state";
        assert_eq!(helpers(), 4, "{restored}");
        scene.install(bad(Point::Save, Kind::Abort, Process::Helper)).refused().at(Step::Probe, &[]);
        assert_eq!(helpers(), 5);

        assert!(scene.host.shutdown(crate::waiting::DEADLINE));
        let next = scene.next_host(|options| {
            options.probe = Some(Probe::with(program::path(), ["probe"]));
        });
        assert_eq!(next.denied().len(), 1);
        // It goes on with what served. The one that is denied is what lies there.
        assert_eq!(next.status().plugins[0].generation, Some(1));
        assert!(next.recent_events().iter().any(|event| event.event.to_string().contains("is denied")));
        std::fs::write(scene.plugins().join("libcounter.so"), good(2).bytes()).unwrap();
        scene.eventually(|_| next.status().plugins.iter().any(|plugin| plugin.generation == Some(2)));
        next.reload("counter").unwrap();
        assert_eq!(helpers(), 5);
    });
}

#[test]
fn a_helper_has_nothing_open_that_the_host_has() {
    let (scene, _counter) = scene(|_| {});
    let secret = std::fs::File::create(scene.path("secret")).unwrap();
    // As programs leave them that know nothing of it.
    // SAFETY: sets the flags of a descriptor of our own.
    assert_eq!(unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&secret), libc::F_SETFD, 0) }, 0);
    let refused = scene.install(bad(Point::Restore, Kind::Files, Process::Any)).refused();
    let refused = refused.at(Step::Probe, &["restore failed: open are"]);
    assert!(refused.reason.contains("memfd:") && !refused.reason.contains("secret"), "{refused:?}");
    // Nor the host's socket, lock, watch or store.
    assert!(!refused.reason.contains("state") && !refused.reason.contains("inotify"), "{refused:?}");
}

#[test]
fn without_a_helper_nothing_is_opened_and_nothing_is_denied() {
    let (scene, counter) = scene(|options| {
        // Builds of the counter are let in; those of the other are not.
        options.plugins.entry("counter".into()).or_default().probe = Some(false);
        options.probe = Some(Probe::with("/nowhere/at/all", ["probe"]));
    });
    scene
        .install("echo_v1")
        .refused()
        .at(Step::Probe, &["it could not be tried", "the helper /nowhere/at/all cannot be used"]);
    scene.install(good(2)).published();
    assert_eq!(now(&counter).1, 5);
    assert_eq!(scene.host.denied().len(), 0);
}

#[test]
fn a_helper_that_is_none_is_told_from_a_build_that_fails() {
    let (scene, _counter) = scene(|options| {
        options.plugins.entry("counter".into()).or_default().probe = Some(false);
        options.probe = Some(Probe::with("/bin/sh", ["-c", "echo no idea >&2; exit 3"]));
    });
    scene
        .install("echo_v1")
        .refused()
        .at(Step::Probe, &["it could not be tried", "it ended at once", "it said: no idea"]);
    assert_eq!(scene.host.denied().len(), 0);
}

#[test]
fn a_dry_run_tries_a_build_and_changes_nothing() {
    let (scene, counter) = scene(|_| {});
    let shelved = |build: &Build| {
        let path = scene.shelve(build);
        std::fs::rename(&path, scene.plugins().join(".shelved.so")).unwrap();
        scene.trusted(".shelved.so")
    };
    let fine = shelved(&good(2));
    let outcome = scene.host.dry_run("counter", Some(&fine)).unwrap();
    assert_eq!(outcome.to_string(), "version 0.1.0 of counter would be accepted after generation 1");
    let fatal = shelved(&bad(Point::Restore, Kind::Abort, Process::Any));
    let error = scene.host.dry_run("counter", Some(&fatal)).unwrap_err().to_string();
    assert!(error.contains("restore died of SIGABRT"), "{error}");
    let other = shelved(&Build::of("echo_v1"));
    let error = scene.host.dry_run("counter", Some(&other)).unwrap_err().to_string();
    assert!(error.contains("it is plugin `echo`, asked was `counter`"), "{error}");
    assert_eq!(now(&counter), (1, 5));
    // Reloaded from there, it goes on being followed where it was.
    let fine = shelved(&good(3));
    scene.host.reload_from("counter", &fine).unwrap();
    assert_eq!(counter.enter().unwrap().build().unwrap(), 3);
    scene.install(good(4)).published();
    assert_eq!((counter.enter().unwrap().build().unwrap(), now(&counter).1), (4, 5));
}

#[test]
fn a_probe_that_is_cancelled_ends_at_once() {
    let (scene, counter) = scene(|options| {
        options.probe.as_mut().unwrap().deadline = Duration::from_secs(600);
    });
    assert_eq!(scene.host.cancel("counter"), None);
    let expecting = scene.install(bad(Point::Restore, Kind::Loop, Process::Any));
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("probe")));
    assert_eq!(scene.host.cancel("counter"), Some(Step::Probe));
    expecting.refused().at(Step::Probe, &["it was cancelled"]);
    assert_eq!(now(&counter), (1, 5));
    assert_eq!(scene.host.denied().len(), 0);
}

#[test]
fn a_drain_that_waits_can_be_cancelled_and_asks_its_holders_to_leave() {
    let (scene, counter) = scene(|options| options.drain_policy = DrainPolicy::Wait);
    let hold = scene.hold();
    let holder = hold_in(&counter, &hold);
    let expecting = scene.install(good(2));
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    assert_eq!(scene.host.cancel("counter"), Some(Step::Drain));
    expecting.refused().at(Step::Drain, &["it was cancelled"]);
    assert_eq!(now(&counter), (1, 5));
    hold.release();
    assert_eq!(holder.join().unwrap(), 1);
}

#[test]
fn a_handover_that_overlaps_does_not_wait_for_a_call_that_lasts() {
    let (scene, counter) = scene(|options| options.drain_policy = DrainPolicy::Overlap);
    let hold = scene.hold();
    let holder = hold_in(&counter, &hold);
    let generation = scene.install(good(2)).published();
    assert_eq!(now(&counter), (generation, 5));
    // The one that lasts ends where it began.
    hold.release();
    assert_eq!(holder.join().unwrap(), 1);
    gone(&scene, 1);
}

/// Waits until a generation is gone; this thread has called it, and comes by.
fn gone(scene: &Scene, generation: u64) {
    scene.eventually(|s| {
        reseat::quiesce();
        s.verdict_of("counter", generation) == Some(Verdict::Unloaded)
    });
}

/// A thread in a call that lasts.
fn hold_in(counter: &Handle<dyn Counter>, hold: &Hold) -> std::thread::JoinHandle<u32> {
    let (counter, until) = (counter.clone(), hold.until());
    let holder = std::thread::spawn(move || counter.enter().unwrap().hold(&until).unwrap());
    hold.entered();
    holder
}

#[test]
fn a_build_that_has_passed_without_a_state_is_tried_again_with_one() {
    let scene = Scene::with_options(&[], |options| {
        options.probe = Some(Probe::with(program::path(), ["probe"]));
    });
    // There is no state yet, so it is created, here and there.
    let fatal = || bad(Point::Restore, Kind::Fault, Process::Any);
    assert_eq!(scene.install(fatal()).published(), 1);
    assert_eq!(scene.install(good(2)).published(), 2);
    scene.install(fatal()).refused().at(Step::Probe, &["restore died of SIGSEGV"]);
    // A dry run tries what has passed, too.
    let served = scene.trusted("libcounter.so");
    assert!(scene.host.dry_run("counter", Some(&served)).unwrap_err().to_string().contains("is denied"));
}

#[test]
fn what_a_hook_refuses_may_be_right_another_time() {
    let scene = Scene::with_options(&[], |options| {
        options.probe = Some(Probe::with(program::path(), ["probe"]));
    });
    let refused = scene.install(bad(Point::Create, Kind::Error, Process::Any)).refused();
    refused.at(Step::Probe, &["create failed: an error in Create"]);
    assert_eq!(scene.host.denied().len(), 0);
}

#[test]
fn a_store_that_is_damaged_keeps_a_host_from_starting_until_it_is_to_begin_afresh() {
    let (scene, _counter) = scene(|_| {});
    assert!(scene.host.shutdown(crate::waiting::DEADLINE));
    let store = scene.state().join("store.redb");
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 3] =
        [|bytes| bytes[..9].fill(0xa5), |bytes| bytes[64..400].fill(0xa5), |bytes| bytes.truncate(5000)];
    for (damage, change) in damages.into_iter().enumerate() {
        let mut bytes = std::fs::read(&store).unwrap();
        change(&mut bytes);
        std::fs::write(&store, &bytes).unwrap();
        let error = scene.try_next_host(|_| {}).err().expect("it is damaged").to_string();
        assert!(error.contains("store.redb is damaged: ") && error.contains("--fresh"), "{damage}: {error}");
        let next = scene.next_host(|options| options.start_fresh = true);
        let told = |event: &reseat::Recorded| event.event.to_string().contains("is set aside in");
        assert!(next.recent_events().iter().any(told), "damaged at {damage}");
        assert_eq!(next.call("counter", "get", "{}").unwrap(), "0");
        assert!(next.shutdown(crate::waiting::DEADLINE));
        // And after that there is a whole one again.
        assert!(scene.next_host(|_| {}).shutdown(crate::waiting::DEADLINE));
    }
}

#[test]
fn a_host_that_ends_waits_for_no_reload_that_waits() {
    let (scene, counter) = scene(|options| options.drain_policy = DrainPolicy::Wait);
    let hold = scene.hold();
    let holder = hold_in(&counter, &hold);
    let expecting = scene.install(good(2));
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    let clean = scene.host.shutdown(Duration::from_millis(200));
    assert!(!clean, "a call is in flight");
    expecting.refused().at(Step::Drain, &["it was cancelled"]);
    hold.release();
    assert_eq!(holder.join().unwrap(), 1);
}
