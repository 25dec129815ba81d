use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant, SystemTime};

use reseat::{Event, Outcome, PluginStatus, ReloadError, Step, TrustedDir};
use reseat_tests::echo::Echo;
use reseat_tests::misc::Blocker;

use crate::callers::Callers;
use crate::scene::{Build, Scene, put};
use crate::waiting::slowly;

const FILE: &str = "libecho.so";

fn stamped(number: u32) -> Build {
    Build::of("echo_stamped").stamped(number)
}

fn build_of(scene: &Scene) -> u32 {
    scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap()
}

/// Sees to it that the host has looked at everything that was done before.
fn looked(scene: &Scene) {
    scene.host.rescan();
    let again = scene.host.status().plugins.iter().any(|p| p.name == "callback");
    let build = Build::of("callback").stamped(if again { 3 } else { 2 });
    scene.install(build).published();
    scene.host.unload("callback").unwrap();
    fs::remove_file(scene.plugins().join("libcallback.so")).unwrap();
}

#[test]
fn a_file_renamed_into_place_takes_over() {
    let scene = Scene::with(&["echo_v1"]);
    assert_eq!(build_of(&scene), 1);
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(build_of(&scene), 2);
    scene.unloaded("echo", 1);
}

#[test]
fn a_plugin_that_appears_is_loaded() {
    let scene = Scene::with(&[]);
    assert_eq!(scene.install("echo_v1").published(), 1);
    assert_eq!(build_of(&scene), 1);
}

#[test]
fn a_file_unlinked_and_hard_linked_anew_takes_over_as_cargo_does_it() {
    let scene = Scene::with(&["echo_v1"]);
    for number in 2..12 {
        let expecting = scene.expecting(FILE);
        let made = scene.shelve(&stamped(number));
        fs::remove_file(&expecting.file).unwrap();
        fs::hard_link(made, &expecting.file).unwrap();
        assert_eq!(expecting.published(), u64::from(number));
        assert_eq!(build_of(&scene), number);
    }
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn a_file_overwritten_in_place_takes_over_and_the_old_one_is_not_disturbed() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let guard = echo.enter().unwrap();
    let expecting = scene.expecting(FILE);
    put(&expecting.file, &stamped(2));
    assert_eq!(expecting.published(), 2);
    assert_eq!(guard.say("hi").unwrap(), "v1: hi");
    drop(guard);
    assert_eq!(build_of(&scene), 2);
}

#[test]
fn a_symlink_switched_to_another_build_takes_over() {
    let scene = Scene::with(&[]);
    let expecting = scene.expecting(FILE);
    symlink(scene.shelve(&stamped(1)), &expecting.file).unwrap();
    let link = expecting.file.clone();
    assert_eq!(expecting.published(), 1);

    let expecting = scene.expecting(FILE);
    let next = scene.path("shelf/link");
    symlink(scene.shelve(&stamped(2)), &next).unwrap();
    fs::rename(&next, &link).unwrap();
    assert_eq!(expecting.published(), 2);
    assert_eq!(build_of(&scene), 2);
}

#[test]
fn a_directory_removed_and_created_again_is_followed_again() {
    let scene = Scene::with(&["echo_v1"]);
    fs::remove_dir_all(scene.plugins()).unwrap();
    let gone = |e: &Event| matches!(e, Event::Trouble { what } if what.contains("is gone"));
    scene.eventually(|s| s.events().iter().any(gone));
    assert_eq!(build_of(&scene), 1);
    fs::create_dir(scene.plugins()).unwrap();
    assert_eq!(scene.install("echo_v2").published(), 2);
    // And by events as before, not only by looking around now and then.
    assert_eq!(scene.install(stamped(3)).published(), 3);
}

#[test]
fn a_file_written_slowly_is_loaded_once_when_it_is_complete() {
    let scene = Scene::with(&["echo_v1"]);
    let build = stamped(2);
    let expecting = scene.expecting(FILE);
    let mut file = File::create(&expecting.file).unwrap();
    for piece in build.bytes().chunks(build.bytes().len().div_ceil(10)) {
        file.write_all(piece).unwrap();
        slowly(Duration::from_millis(200));
        assert_eq!(build_of(&scene), 1);
    }
    drop(file);
    assert_eq!(expecting.published(), 2);
    looked(&scene);
    assert_eq!(scene.generation("echo"), Some(2));
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn a_file_preallocated_and_then_filled_is_loaded_once_when_it_is_complete() {
    let scene = Scene::with(&["echo_v1"]);
    let build = stamped(2);
    let expecting = scene.expecting(FILE);
    let mut file = File::create(&expecting.file).unwrap();
    file.set_len(build.bytes().len() as u64).unwrap();
    // From the end to the beginning, so that the header comes last.
    let half = build.bytes().len() / 2;
    for (at, piece) in [(half, &build.bytes()[half..]), (0, &build.bytes()[..half])] {
        slowly(Duration::from_millis(100));
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(piece).unwrap();
    }
    assert_eq!(build_of(&scene), 1);
    drop(file);
    assert_eq!(expecting.published(), 2);
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn a_file_closed_and_reopened_between_its_pieces_is_loaded_when_it_is_complete() {
    let scene = Scene::with(&["echo_v1"]);
    let build = stamped(2);
    let expecting = scene.expecting(FILE);
    fs::remove_file(&expecting.file).unwrap();
    for piece in build.bytes().chunks(build.bytes().len().div_ceil(5)) {
        let mut file = OpenOptions::new().create(true).append(true).open(&expecting.file).unwrap();
        file.write_all(piece).unwrap();
        drop(file);
        slowly(Duration::from_millis(100));
    }
    assert_eq!(expecting.published(), 2);
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn of_50_versions_in_a_row_the_last_one_wins_and_no_caller_goes_back() {
    let scene = Scene::with(&[]);
    scene.install(stamped(1)).published();
    let echo = scene.handle::<dyn Echo>("echo");
    let callers = Callers::start(2, |_| {
        let (echo, mut last) = (echo.clone(), (0, 0));
        move || {
            let guard = echo.enter().map_err(|e| e.to_string())?;
            let now = (guard.generation(), guard.build().map_err(|e| e.to_string())?);
            if now.0 < last.0 || now.1 < last.1 {
                return Err(format!("generation and build were {last:?}, now they are {now:?}"));
            }
            last = now;
            Ok(())
        }
    });
    for number in 2..=50 {
        drop(scene.install(stamped(number)));
    }
    scene.eventually(|s| build_of(s) == 50);
    callers.go_on(&scene, 100);
    callers.finish();
    assert_eq!(scene.refusals(), [""; 0]);
    scene.settled();
    assert_eq!(build_of(&scene), 50);
}

#[test]
fn the_same_content_again_is_no_new_generation() {
    let scene = Scene::with(&["echo_v1"]);
    drop(scene.install("echo_v1"));
    looked(&scene);
    assert_eq!(scene.generation("echo"), Some(1));
    assert_eq!(
        scene.host.load(&scene.trusted(FILE)).unwrap(),
        Outcome::Unchanged { plugin: "echo".into(), generation: 1 }
    );
}

#[test]
fn a_touched_file_is_no_new_generation() {
    let scene = Scene::with(&["echo_v1"]);
    let file = File::options().append(true).open(scene.plugins().join(FILE)).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    drop(file);
    looked(&scene);
    assert_eq!(scene.generation("echo"), Some(1));
}

#[test]
fn of_two_files_that_claim_one_name_the_first_serves_until_it_is_removed() {
    let scene = Scene::with(&["echo_v1"]);
    let refused = scene.install(Build::of("echo_v2").in_slot("rival")).refused();
    assert_eq!((refused.plugin.as_deref(), refused.serving), (Some("echo"), Some(1)));
    let refused = refused.at(Step::Vet, &["plugin `echo` is provided by", FILE, "remove one of the two"]);
    assert!(refused.reason.contains(scene.plugins().to_str().unwrap()));
    assert_eq!(build_of(&scene), 1);

    fs::remove_file(scene.plugins().join(FILE)).unwrap();
    let expecting = scene.expecting("librival.so");
    let rival = File::options().append(true).open(&expecting.file).unwrap();
    rival.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    drop(rival);
    assert_eq!(expecting.published(), 2);
    assert_eq!(build_of(&scene), 2);
}

#[test]
fn a_plugin_whose_file_is_removed_serves_on() {
    let scene = Scene::with(&["echo_v1"]);
    let file = scene.plugins().join(FILE);
    fs::remove_file(&file).unwrap();
    let gone = |e: &Event| matches!(e, Event::FileGone { plugin, file: f } if plugin == "echo" && *f == file);
    scene.eventually(|s| s.events().iter().any(gone));
    assert_eq!(build_of(&scene), 1);
    let error = scene.host.reload("echo").unwrap_err().to_string();
    assert!(error.contains("there is no such file"), "{error}");
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn a_file_moved_to_another_name_is_followed_there() {
    let scene = Scene::with(&["echo_v1"]);
    let (from, to) = (scene.plugins().join(FILE), scene.plugins().join("libmoved.so"));
    fs::rename(from, &to).unwrap();
    scene.eventually(|s| s.status("echo").file == to);
    assert_eq!(scene.generation("echo"), Some(1));
    assert_eq!(scene.install(Build::of("echo_v2").in_slot("moved")).published(), 2);
    assert_eq!(build_of(&scene), 2);
}

#[test]
fn a_plugin_that_was_unloaded_comes_back_with_a_new_build_and_not_by_itself() {
    let scene = Scene::with(&["echo_v1"]);
    scene.host.unload("echo").unwrap();
    looked(&scene);
    assert_eq!(scene.generation("echo"), None);
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(build_of(&scene), 2);
}

#[test]
fn a_directory_that_is_not_there_yet_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("late");
    // SAFETY: only this test writes there.
    let trusted = unsafe { TrustedDir::new(&late) };
    let scene = Scene::with_options(&["echo_v1"], |options| options.watch.push(trusted));
    let told = |e: &Event| matches!(e, Event::Trouble { what } if what.contains(late.to_str().unwrap()));
    scene.eventually(|s| s.events().iter().any(told));
    fs::create_dir(&late).unwrap();
    let callback = Build::of("callback");
    fs::rename(scene.shelve(&callback), late.join(callback.file_name())).unwrap();
    let serves = |p: &PluginStatus| p.name == "callback" && p.generation == Some(1);
    scene.eventually(|s| s.host.status().plugins.iter().any(serves));
}

#[test]
fn a_host_that_does_not_follow_changes_only_on_demand() {
    let scene = Scene::with_options(&["echo_v1"], |options| options.follow = false);
    drop(scene.install("echo_v2"));
    scene.host.rescan();
    assert_eq!(build_of(&scene), 1);
    assert_eq!(
        scene.host.reload("echo").unwrap(),
        Outcome::Reloaded { plugin: "echo".into(), from: 1, generation: 2 }
    );
    assert_eq!(build_of(&scene), 2);
    drop(scene.install("callback"));
    assert_eq!(
        scene.host.load(&scene.trusted("libcallback.so")).unwrap(),
        Outcome::Loaded { plugin: "callback".into(), generation: 1 }
    );
}

#[test]
fn a_reload_on_demand_makes_a_new_generation_of_the_same_file() {
    let scene = Scene::with(&["echo_v1"]);
    let reloaded = scene.host.reload("echo").unwrap();
    assert_eq!(reloaded, Outcome::Reloaded { plugin: "echo".into(), from: 1, generation: 2 });
    scene.unloaded("echo", 1);
    assert!(matches!(scene.host.reload("ecko"), Err(ReloadError::NoSuchPlugin { .. })));
}

#[test]
fn a_load_of_another_file_on_demand_is_refused_or_taken_as_if_it_had_appeared() {
    let scene = Scene::with(&["echo_v1"]);
    let missing = scene.host.load(&scene.trusted("libmissing.so")).unwrap_err().to_string();
    assert!(missing.contains("there is no such file"), "{missing}");
    fs::write(scene.plugins().join("notes.txt"), "not a library").unwrap();
    let text = scene.host.load(&scene.trusted("notes.txt")).unwrap_err();
    assert!(text.to_string().contains("is not a shared library"), "{text}");
    assert!(scene.trusted("libmissing.so").path().starts_with(scene.plugins()));
}

#[test]
fn only_what_lies_in_a_directory_is_vouched_for_with_it() {
    // SAFETY: nothing is loaded from there.
    let trusted = unsafe { TrustedDir::new("plugins") };
    for outside in ["../libecho.so", "/libecho.so", "sub/libecho.so", "..", ".", ""] {
        assert_eq!(trusted.file(outside), None, "{outside:?}");
    }
    assert!(trusted.file("libecho.so").unwrap().path().is_absolute());
}

#[test]
fn a_second_request_while_a_reload_waits_is_busy_and_each_says_so_once() {
    let scene =
        Scene::with_options(&["counter_v1"], |options| options.call_wait = Duration::from_millis(100));
    let hold = scene.hold();
    let blocked = std::thread::spawn({
        let (counter, until) = (scene.handle::<dyn reseat_tests::counter::Counter>("counter"), hold.until());
        move || counter.enter().unwrap().hold(&until).unwrap()
    });
    hold.entered();
    let expecting = scene.install("counter_v2");
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain since")));
    let busy = scene.host.reload("counter").unwrap_err();
    assert!(matches!(busy, ReloadError::Busy { step: Step::Drain, .. }), "{busy}");
    assert!(busy.to_string().starts_with("busy: reload of counter is at step drain since"), "{busy}");
    let what = "reload of counter is at step drain since";
    let said = [
        scene.host.unload("counter").unwrap_err().to_string(),
        scene.host.state("counter").unwrap_err().to_string(),
        scene.host.release("counter", 1).unwrap_err().to_string(),
    ];
    said.iter().for_each(|busy| assert!(busy.starts_with(&format!("busy: {what}")), "{busy}"));
    let busy =
        scene.host.plugin::<dyn reseat_tests::counter_next::Counter>("counter").unwrap_err().to_string();
    assert!(busy.starts_with(&format!("plugin `counter` is busy: {what}")), "{busy}");
    hold.release();
    assert_eq!(expecting.published(), 2);
    assert_eq!(blocked.join().unwrap(), 1);
}

#[test]
fn whoever_asks_right_while_the_host_looks_at_a_file_by_itself_is_not_told_that_it_is_busy() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    for round in 0..100 {
        let expecting = scene.install("echo_changed_layout");
        // Anywhere in the few milliseconds in which it is looked at.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(round * 60) {
            std::hint::spin_loop();
        }
        let error = scene.host.reload("echo").unwrap_err();
        assert!(matches!(error, ReloadError::Refused(_)), "round {round}: {error}");
        expecting.refused();
    }
}

#[test]
fn a_file_that_is_renamed_while_it_is_looked_at_is_nothing_to_tell_of() {
    let scene = Scene::with(&["echo_v1"]);
    for number in 2..32 {
        let expecting = scene.expecting(FILE);
        let beside = scene.plugins().join("libother.so");
        put(&beside, &stamped(number));
        // Anywhere in the few milliseconds in which it is looked at under its first name.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(u64::from(number) * 150) {
            std::hint::spin_loop();
        }
        fs::rename(beside, &expecting.file).unwrap();
        scene.eventually(|_| build_of(&scene) == number);
    }
    assert_eq!(scene.refusals().into_iter().filter(|text| text.contains("cannot be read")).count(), 0);
}

#[test]
fn a_refused_file_does_not_stand_in_the_way_of_a_good_one() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    scene.install("echo_changed_layout").refused();
    assert!(scene.status("echo").last_refusal.is_some());
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(scene.status("echo").last_refusal, None);
}

#[test]
fn generations_count_up_by_one_for_each_build_that_is_opened() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    for round in 0..5 {
        scene.install("echo_changed_signature").refused();
        scene.install(Build::of("echo_v1").with_descriptor(0, |byte| *byte = 0)).refused();
        assert_eq!(scene.install(stamped(round)).published(), 2 * u64::from(round) + 3);
    }
}

#[test]
fn a_stateless_plugin_is_replaced_while_a_call_is_in_it() {
    let scene = Scene::with(&["blocker"]);
    let blocker = scene.handle::<dyn Blocker>("blocker");
    let hold = scene.hold();
    let blocked = std::thread::Builder::new().name("patient".into()).spawn({
        let (blocker, until) = (blocker.clone(), hold.until());
        move || blocker.enter().unwrap().hold(&until).unwrap()
    });
    hold.entered();
    assert_eq!(scene.install(Build::of("blocker").stamped(2)).published(), 2);
    assert_eq!(blocker.enter().unwrap().build().unwrap(), 2);
    // The message about who holds it is part of the product.
    let named = |e: &Event| {
        matches!(e, Event::Draining { plugin, generation: 1, holders, .. }
            if plugin == "blocker" && holders.starts_with("1 guard, entered at least") && holders.ends_with("by thread patient (last call: hold)"))
    };
    scene.eventually(|s| s.events().iter().any(named));
    hold.release();
    assert_eq!(blocked.unwrap().join().unwrap(), 1);
    scene.unloaded("blocker", 1);
}
