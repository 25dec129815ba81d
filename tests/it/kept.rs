use std::path::PathBuf;
use std::time::Duration;

use reseat::{Event, Host, Options, RefusalReason, ReloadError, StartError, StateError, Step, TrustedDir};
use reseat_tests::counter::Counter;

use crate::child::in_child;
use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, until};

fn stamped(number: u32) -> Build {
    Build::of("counter_stamped").stamped(number)
}

/// A host whose counter is at 41, and whose store is only written when it must be.
fn scene(change: impl FnOnce(&mut Options)) -> Scene {
    let scene = Scene::with_options(&["counter_v2"], |options| {
        options.snapshot_every = None;
        change(options);
    });
    scene.handle::<dyn Counter>("counter").enter().unwrap().add(41).unwrap();
    scene
}

fn ended(scene: &Scene) {
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
}

/// Generation, build and total of the counter, by name.
fn now(host: &Host) -> (u64, String, String) {
    let call = |method: &str| host.call("counter", method, "{}").unwrap();
    let status = host.status();
    (status.plugins[0].generation.expect("it serves"), call("build"), call("get"))
}

fn at(generation: u64, build: u32, total: u64) -> (u64, String, String) {
    (generation, build.to_string(), total.to_string())
}

fn told(host: &Host, text: &str) -> bool {
    host.recent_events().iter().any(|event| event.event.to_string().contains(text))
}

/// The one file of the counter's that is kept.
fn state_file(scene: &Scene) -> PathBuf {
    let mut files: Vec<_> = std::fs::read_dir(scene.state().join("saved/counter")).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0).unwrap().path()
}

#[test]
fn the_next_host_goes_on_with_the_state_of_the_last() {
    let scene = scene(|_| {});
    ended(&scene);
    for round in 0..3 {
        let next = scene.next_host(|_| {});
        assert_eq!(now(&next), at(1, 2, 41 + round));
        let begun = |event: &reseat::Recorded| matches!(event.event, Event::Loaded { state_bytes: 51, .. });
        assert!(next.recent_events().iter().any(begun));
        next.call("counter", "add", r#"{"n":1}"#).unwrap();
        assert!(next.shutdown(DEADLINE));
        state_file(&scene);
    }
}

#[test]
fn what_was_built_while_no_host_ran_takes_over_from_what_served() {
    let scene = scene(|_| {});
    ended(&scene);
    std::fs::write(scene.plugins().join("libcounter.so"), stamped(7).bytes()).unwrap();
    let next = scene.next_host(|_| {});
    assert_eq!(now(&next), at(2, 7, 41));
    // And the way back leads across the restart.
    next.roll_back("counter").unwrap();
    assert_eq!(now(&next), at(3, 2, 41));
}

#[test]
fn the_way_back_is_there_after_a_restart() {
    let scene = scene(|_| {});
    scene.install(stamped(7)).published();
    ended(&scene);
    let next = scene.next_host(|_| {});
    assert_eq!(now(&next), at(1, 7, 41));
    let history = next.history("counter");
    assert_eq!(history.len(), 2);
    assert!(history.iter().all(|pair| pair.state.as_ref().is_some_and(|state| state.version == 2)));
    next.roll_back("counter").unwrap();
    assert_eq!(now(&next), at(2, 2, 41));
    assert!(next.shutdown(DEADLINE));
    // What lies in the directory is denied; what served serves.
    let last = scene.next_host(|_| {});
    assert_eq!(now(&last), at(1, 2, 41));
    assert!(told(&last, "this build is denied: it was sent back"));
}

#[test]
fn code_that_cannot_read_the_state_is_never_started_with_it() {
    let scene = scene(|_| {});
    ended(&scene);
    // It reads version 1 only; what served is still kept.
    std::fs::write(scene.plugins().join("libcounter.so"), Build::of("counter_v1").bytes()).unwrap();
    let next = scene.next_host(|_| {});
    assert_eq!(now(&next), at(1, 2, 41));
    assert!(told(&next, "the serving generation writes state version 2, this build reads 1..=1"));
    assert!(next.shutdown(DEADLINE));
    // Now it is not.
    std::fs::remove_dir_all(scene.state().join("builds")).unwrap();
    let next = scene.next_host(|_| {});
    assert_eq!(next.status().plugins[0].generation, None);
    assert!(told(&next, "the state that it is to begin with has version 2, this build reads 1..=1"));
    // Until a build comes that reads it.
    std::fs::write(scene.plugins().join("libcounter.so"), stamped(8).bytes()).unwrap();
    assert!(until(DEADLINE, || next.status().plugins[0].generation.is_some()));
    assert_eq!(now(&next), at(1, 8, 41));
}

#[test]
fn a_state_that_is_damaged_is_told_of_and_nothing_is_started_without_it_unless_asked() {
    let scene = scene(|_| {});
    ended(&scene);
    let file = state_file(&scene);
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[13] ^= 1;
    for (bytes, why) in [
        (Some(damaged), "is damaged: checksum"),
        (Some(whole[..30].to_vec()), "is cut short"),
        (None, "No such file"),
    ] {
        match bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let next = scene.next_host(|_| {});
        assert_eq!(next.status().plugins[0].generation, None, "{why}");
        assert!(told(&next, why) && told(&next, "--fresh"), "{why}: {:?}", next.recent_events());
        assert!(next.shutdown(DEADLINE));
    }
    std::fs::write(&file, &whole).unwrap();
    let next = scene.next_host(|_| {});
    assert_eq!(now(&next), at(1, 2, 41));
    assert!(next.shutdown(DEADLINE));

    let next = scene.next_host(|options| options.start_fresh = true);
    assert_eq!(now(&next), at(1, 2, 0));
    assert!(next.shutdown(DEADLINE));
    let mut entries = std::fs::read_dir(scene.state()).unwrap().flatten().map(|entry| entry.path());
    let aside = entries.find(|path| path.to_string_lossy().contains("/set-aside-")).unwrap();
    assert_eq!(std::fs::read_dir(aside.join("saved/counter")).unwrap().count(), 1);
    assert_eq!(now(&scene.next_host(|_| {})), at(1, 2, 0));
}

#[test]
fn saved_states_without_the_store_that_names_them_keep_a_host_from_starting() {
    let scene = scene(|_| {});
    ended(&scene);
    std::fs::remove_file(scene.state().join("store.redb")).unwrap();
    let error = scene.try_next_host(|_| {}).err().expect("it is gone");
    assert!(matches!(error, StartError::Store(reseat::StoreError::Gone { .. })), "{error}");
    assert!(error.to_string().contains("--fresh"), "{error}");
    assert_eq!(now(&scene.next_host(|options| options.start_fresh = true)), at(1, 2, 0));
}

#[test]
fn a_build_whose_kept_copy_is_damaged_is_not_opened() {
    let scene = scene(|_| {});
    ended(&scene);
    let copy = std::fs::read_dir(scene.state().join("builds")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&copy).unwrap();
    std::fs::write(&copy, stamped(9).bytes()).unwrap();
    let next = scene.next_host(|_| {});
    assert!(told(&next, "the copy of it that was kept is damaged: its hash is"));
    // What is in the directory is the same build.
    assert_eq!(now(&next), at(1, 2, 41));
}

#[test]
fn what_was_unloaded_begins_empty_also_in_the_next_host() {
    let scene = scene(|_| {});
    scene.host.unload("counter").unwrap();
    scene.eventually(|s| !s.state().join("saved/counter").exists());
    scene.host.load(&scene.trusted("libcounter.so")).unwrap();
    assert_eq!(now(&scene.host), at(2, 2, 0));
    scene.host.unload("counter").unwrap();
    ended(&scene);
    assert_eq!(now(&scene.next_host(|_| {})), at(1, 2, 0));
}

#[test]
fn a_file_that_was_taken_away_is_not_started_and_its_state_waits_for_it() {
    let scene = scene(|_| {});
    ended(&scene);
    let (file, away) = (scene.plugins().join("libcounter.so"), scene.plugins().join("away"));
    std::fs::rename(&file, &away).unwrap();
    let next = scene.next_host(|_| {});
    assert_eq!(next.status().plugins.len(), 0);
    std::fs::rename(&away, &file).unwrap();
    assert!(until(DEADLINE, || next.status().plugins.iter().any(|plugin| plugin.generation.is_some())));
    assert_eq!(now(&next), at(1, 2, 41));
}

#[test]
fn a_host_that_is_to_keep_nothing_writes_nothing() {
    let scene = scene(|options| options.persist = false);
    scene.install(stamped(7)).published();
    let error = scene.host.snapshot("counter").unwrap_err();
    assert!(matches!(error, StateError::NotKept(_)), "{error}");
    ended(&scene);
    for name in ["saved", "builds", "store.redb"] {
        assert!(!scene.state().join(name).exists(), "{name}");
    }
}

#[test]
fn states_are_kept_now_and_then_of_plugins_that_say_that_this_may_be() {
    let every = |options: &mut Options| options.snapshot_every = Some(Duration::from_millis(20));
    let scene = Scene::with_options(&["counter_v2", "lasting_calls"], every);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    let told = scene.host.events().filter_map(|event| match event {
        Event::Snapshotted { plugin, .. } => Some(plugin),
        _ => None,
    });
    assert_eq!(told.take(5).collect::<Vec<_>>(), ["counter"; 5]);
    // The one that is kept is a true one.
    scene.eventually(|s| {
        let kept = s.host.history("counter").remove(0).state.and_then(|state| state.path);
        let frame = kept.and_then(|path| std::fs::read(path).ok());
        frame.is_some_and(|frame| {
            plugin_api::Saved::from_frame(&frame).unwrap().to_json().unwrap()
                == serde_json::json!({ "total": 5 })
        })
    });
}

#[test]
fn a_reload_that_is_asked_for_while_the_state_is_kept_waits_for_that() {
    let often = Some(Duration::from_millis(1));
    let scene = Scene::with_options(&["counter_v2"], |options| options.snapshot_every = often);
    for _ in 0..50 {
        scene.host.reload("counter").unwrap();
    }
}

#[test]
fn one_that_does_not_say_so_is_saved_behind_its_gate_and_not_at_all_while_a_call_lasts() {
    let scene = Scene::with_options(&["counter_only_new"], |options| {
        options.drain_deadline = Duration::from_millis(200);
    });
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    assert_eq!(scene.host.snapshot("counter").unwrap(), 51);
    let hold = scene.hold();
    let until = hold.until();
    let holder = {
        let counter = counter.clone();
        std::thread::Builder::new()
            .name("holder".into())
            .spawn(move || counter.enter().unwrap().hold(&until).unwrap())
    };
    hold.entered();
    let error = scene.host.snapshot("counter").unwrap_err();
    assert!(matches!(error, StateError::Refused(RefusalReason::Held { .. })), "{error}");
    assert!(error.to_string().contains("by thread holder"), "{error}");
    hold.release();
    holder.unwrap().join().unwrap();
    assert_eq!(counter.enter().unwrap().add(1).unwrap(), 6);
    scene.host.snapshot("counter").unwrap();
}

#[test]
fn a_disk_that_refuses_costs_what_is_kept_and_nothing_else_until_it_does_not() {
    let scene = scene(|_| {});
    scene.host.snapshot("counter").unwrap();
    let directory = scene.state().join("saved/counter");
    // Where a directory is to be, there is a file.
    std::fs::rename(&directory, scene.state().join("elsewhere")).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    scene.host.snapshot("counter").expect("it has not changed, so nothing is written");
    scene.host.call("counter", "add", r#"{"n":1}"#).unwrap();
    let error = scene.host.snapshot("counter").unwrap_err();
    assert!(matches!(error, StateError::NotKept(_)), "{error}");
    scene.install(stamped(7)).published();
    assert_eq!(now(&scene.host), at(2, 7, 42));
    assert!(told(&scene.host, "cannot be kept for the next host"));
    let troubles = scene.host.recent_events();
    let troubles = troubles.iter().filter(|event| matches!(event.event, Event::Trouble { .. }));
    assert_eq!(troubles.count(), 1, "told once: {scene}");
    std::fs::remove_file(&directory).unwrap();
    // It is tried again without being asked.
    scene.eventually(|s| {
        s.host.history("counter").iter().all(|pair| pair.state.as_ref().is_some_and(|it| it.path.is_some()))
    });
    ended(&scene);
    assert_eq!(now(&scene.next_host(|_| {})), at(1, 7, 42));
}

#[test]
fn a_state_can_be_taken_out_and_put_back_through_the_same_checks() {
    let scene = scene(|_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let frame = scene.host.state("counter").unwrap();
    assert_eq!(scene.host.state("counter").unwrap(), frame, "the same bytes, and it serves on");
    counter.enter().unwrap().add(9).unwrap();
    scene.host.load_state("counter", frame.to_vec()).unwrap();
    assert_eq!(now(&scene.host), at(2, 2, 41));
    let refused = |bytes: Vec<u8>| match scene.host.load_state("counter", bytes) {
        Err(ReloadError::Refused(refusal)) => (refusal.step, refusal.reason.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b"{}".to_vec()).0, Step::Vet);
    let mut damaged = frame.to_vec();
    damaged[14] ^= 4;
    assert!(refused(damaged).1.contains("is damaged: checksum"));
    let newer = plugin_api::Saved::encode(&5).unwrap().with_version(9).to_frame();
    assert!(refused(newer).1.contains("has version 9, this build reads 1..=2"));
    let wrong = plugin_api::Saved::encode("five").unwrap().with_version(2).to_frame();
    assert_eq!(refused(wrong).0, Step::Restore);
    assert_eq!(now(&scene.host).2, "41");
    // Also of an older version.
    let older = plugin_api::Saved::encode(&7).unwrap().with_version(1).to_frame();
    scene.host.load_state("counter", older).unwrap();
    assert_eq!(now(&scene.host).2, "7");
    let stateless = Scene::with(&["echo_v1"]);
    assert!(matches!(stateless.host.state("echo"), Err(StateError::Stateless { .. })));
    assert!(matches!(stateless.host.state("none"), Err(StateError::NoSuchPlugin { .. })));
}

#[test]
fn a_second_host_on_the_same_directory_says_that_it_keeps_nothing() {
    let scene = scene(|_| {});
    // The store is there.
    scene.host.snapshot("counter").unwrap();
    // SAFETY: only this test writes there, and only builds of our fixtures.
    let watch = vec![unsafe { TrustedDir::new(scene.plugins()) }];
    let second = Host::start(Options { watch, state_dir: scene.state(), ..Options::default() }).unwrap();
    assert!(told(&second, "another host uses the store"));
    assert_eq!(now(&second), at(1, 2, 0));
    assert!(second.shutdown(DEADLINE));
    ended(&scene);
    assert_eq!(now(&scene.next_host(|_| {})), at(1, 2, 41));
}

#[test]
fn a_host_that_begins_afresh_and_keeps_nothing_leaves_a_whole_store() {
    let scene = scene(|_| {});
    ended(&scene);
    let next = scene.next_host(|options| (options.persist, options.start_fresh) = (false, true));
    assert_eq!(now(&next), at(1, 2, 0));
    assert!(next.shutdown(DEADLINE));
    let last = scene.next_host(|_| {});
    assert_eq!(now(&last), at(1, 2, 0));
    assert_eq!(last.recent_events().iter().filter(|e| matches!(e.event, Event::Refused { .. })).count(), 0);
}

#[test]
fn a_store_that_was_being_made_when_its_host_died_is_made_anew() {
    let scene = scene(|options| options.persist = false);
    ended(&scene);
    std::fs::write(scene.state().join("store.redb.new"), vec![0; 1 << 20]).unwrap();
    let next = scene.next_host(|_| {});
    next.snapshot("counter").unwrap();
    assert!(next.shutdown(DEADLINE));
    assert_eq!(now(&scene.next_host(|_| {})), at(1, 2, 0));
}

#[test]
fn without_a_probation_no_rollback_takes_a_state_of_long_ago() {
    let scene = Scene::with(&["counter_v1"]);
    scene.install("counter_v2").published();
    let error = scene.host.roll_back("counter").unwrap_err().to_string();
    assert!(error.contains("writes state version 2, this build reads 1..=1"), "{error}");
    assert_eq!(now(&scene.host), at(2, 2, 0));
}

#[test]
fn a_process_that_goes_elsewhere_keeps_its_state_where_it_was() {
    in_child("kept::a_process_that_goes_elsewhere_keeps_its_state_where_it_was", || {
        let scene = Scene::with_options(&["counter_v2"], |options| {
            let dir = options.state_dir.parent().unwrap().to_owned();
            std::env::set_current_dir(dir).unwrap();
            options.state_dir = "state".into();
        });
        std::env::set_current_dir("/").unwrap();
        scene.host.snapshot("counter").unwrap();
        state_file(&scene);
    });
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_what_is_kept_meanwhile() {
    in_child("kept::a_disk_that_is_full_for_a_while_costs_what_is_kept_meanwhile", || {
        let scene = scene(|_| {});
        scene.host.snapshot("counter").unwrap();
        let full = |is_full: bool| {
            let limit = if is_full { 8192 } else { libc::RLIM_INFINITY };
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: nothing but this process's own limits and signals; a write then fails instead of ending it.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
            }
        };
        full(true);
        scene.host.call("counter", "add", r#"{"n":1}"#).unwrap();
        let error = scene.host.snapshot("counter").unwrap_err();
        assert!(matches!(error, StateError::NotKept(_)), "{error}");
        full(false);
        assert!(until(DEADLINE, || scene.host.snapshot("counter").is_ok()), "{scene}");
        ended(&scene);
        assert_eq!(now(&scene.next_host(|_| {})), at(1, 2, 42));
    });
}
