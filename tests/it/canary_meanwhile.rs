use reseat::{Canary, Event, MaxLingering, Options, Outcome, Phase, ReloadMode, Step};
use reseat_tests::echo::Echo;
use reseat_tests::misc::Misc;

use crate::canary::{candidate, discarded, for_ever, many, one_scope, scene, tried};
use crate::scene::{Build, Scene, Verdict};
use crate::waiting::DEADLINE;

#[test]
fn a_newer_build_comes_in_the_place_of_the_one_on_trial_and_the_same_one_changes_nothing() {
    let scene = scene(50, |_| {});
    let handle = scene.handle::<dyn Misc>("many");
    assert_eq!(tried(&scene, 2), 2);
    let inside = scene.host.owned_scope();
    assert_eq!(inside.enter_at(&handle, 2).unwrap().call("").unwrap(), "2");
    assert_eq!(tried(&scene, 3), 3);
    let (reason, denied) = discarded(&scene, 2).unwrap();
    assert_eq!((reason.as_str(), denied), ("generation 3 has come in its place", false));
    assert_eq!(candidate(&scene), Some((3, 50)));
    assert_eq!(inside.enter(&handle).unwrap().call("").unwrap(), "2", "until it ends");
    drop(inside);
    scene.unloaded("many", 2);
    // Looked at again, it is what it was.
    let outcome = scene.host.reconfigure(Options { trusted_keys: Vec::new(), ..scene.host.options() });
    assert!(outcome.begun_again.is_empty());
    drop(scene.install(many(3)));
    // What serves is back in the file: then nothing is newer.
    drop(scene.install(many(1)));
    scene.eventually(|s| discarded(s, 3).is_some());
    assert_eq!(discarded(&scene, 3).unwrap().0, "its file holds the build again that serves");
    assert_eq!((candidate(&scene), scene.generation("many")), (None, Some(1)));
    scene.unloaded("many", 3);
    assert!(scene.host.denied().is_empty());
}

#[test]
fn a_plain_reload_takes_its_place_and_the_way_back_leaves_it() {
    let scene = scene(50, |_| {});
    let handle = scene.handle::<dyn Misc>("many");
    tried(&scene, 2);
    scene.host.promote("many").unwrap();
    let third = tried(&scene, 3);
    // What serves goes back; what is on trial may be what helps.
    scene.host.roll_back("many").unwrap();
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "1");
    assert_eq!(candidate(&scene), Some((third, 50)));
    scene.host.promote("many").unwrap();
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "3");
    let fifth = tried(&scene, 5);
    // Somebody asks for it, and so it takes over at once.
    let Outcome::Reloaded { generation, .. } = scene.host.reload("many").unwrap() else { panic!() };
    assert_eq!(handle.enter().unwrap().generation(), generation);
    let (reason, denied) = discarded(&scene, fifth).unwrap();
    assert_eq!((reason, denied), (format!("generation {generation} has taken over"), false));
    assert_eq!(candidate(&scene), None);
    (1..generation).for_each(|old| scene.unloaded("many", old));
    scene.settled();
}

#[test]
fn other_settings_of_the_plugin_have_what_serves_begin_again_without_the_candidate() {
    let scene = scene(50, |_| {});
    let second = tried(&scene, 2);
    let config = [("many".to_owned(), serde_json::json!({ "n": 1 }))].into();
    let became = scene.host.reconfigure(Options { config, ..scene.host.options() });
    assert!(matches!(&became.begun_again[..], [(_, Ok(Outcome::Reloaded { from: 1, generation: 3, .. }))]));
    assert_eq!(discarded(&scene, second), Some(("generation 3 has taken over".into(), false)));
    scene.unloaded("many", second);
}

#[test]
fn whom_a_candidate_requires_is_called_by_it_and_not_unloaded_before_it() {
    let scene = scene(100, |_| {});
    scene.install("two_interfaces").published();
    scene.install("asks_nobody").published();
    let asker = scene.handle::<dyn Misc>("asker");
    // It requires somebody, and what serves does not.
    let before = scene.host.recent_events().len();
    drop(scene.install("asks_echo"));
    let is_tried = |s: &Scene| {
        let events = s.host.recent_events();
        events[before..]
            .iter()
            .any(|it| matches!(&it.event, Event::Candidate { plugin, .. } if plugin == "asker"))
    };
    scene.eventually(is_tried);
    assert_eq!(one_scope(&scene, &asker), (2, Ok("1 asks 1".into())));
    let error = scene.host.unload("two_interfaces").unwrap_err().to_string();
    assert!(error.contains("required by asker"), "{error}");
    scene.host.discard("asker").unwrap();
    scene.unloaded("asker", 2);
    scene.host.unload("two_interfaces").unwrap();
}

#[test]
fn an_unload_takes_the_candidate_too_and_so_does_the_end_of_the_host() {
    let scene = scene(50, |_| {});
    tried(&scene, 2);
    scene.host.unload("many").unwrap();
    (1..3).for_each(|generation| scene.unloaded("many", generation));
    assert_eq!(candidate(&scene), None);
    scene.host.load(&scene.trusted(&many(2).file_name())).unwrap();
    let fourth = tried(&scene, 4);
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    (3..=fourth).for_each(|generation| {
        assert_eq!(scene.verdict_of("many", generation), Some(Verdict::Unloaded));
    });
    // The next one begins with what was published, and what lies in the directory is tried anew.
    let next = scene.next_host(|options| {
        options.canary = Some(Canary { percent: 50 });
        options.probation = Some(for_ever());
    });
    assert_eq!(next.call("many", "call", r#"{"what":""}"#).unwrap(), "\"2\"");
    let phases: Vec<_> = next.status().plugins[0].generations.iter().map(|one| one.phase).collect();
    assert_eq!(phases, [Phase::Serving, Phase::Candidate]);
}

#[test]
fn between_scopes_its_trial_begins_and_it_takes_over_under_those_that_are_under_way() {
    let scene = scene(50, |options| options.mode = ReloadMode::BetweenScopes);
    let handle = scene.handle::<dyn Misc>("many");
    let owned = scene.host.owned_scope();
    owned.enter(&handle).unwrap();
    drop(scene.install(many(2)));
    let waits = |event: &Event| matches!(event, Event::Waiting { .. });
    scene.eventually(|s| s.events().iter().any(waits));
    assert_eq!(candidate(&scene), None);
    drop(owned);
    scene.eventually(|s| candidate(s).is_some());
    let owned = scene.host.owned_scope();
    owned.enter_at(&handle, 1).unwrap();
    scene.host.promote("many").unwrap();
    assert_eq!(owned.enter(&handle).unwrap().call("").unwrap(), "1");
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "2");
}

#[test]
fn as_much_lingers_as_may_and_so_no_candidate_is_opened() {
    let scene = scene(50, |options| {
        options.max_lingering = MaxLingering { generations: 1, ..MaxLingering::default() };
    });
    scene.install("stray_thread").published();
    let hold = scene.hold();
    let stray = scene.handle::<dyn Misc>("stray_thread");
    stray.enter().unwrap().call(&hold.until()).unwrap();
    scene.host.reload("stray_thread").unwrap();
    scene.lingers("stray_thread", 1, &["thread"]);
    // The limit is known a moment after that was said.
    scene.eventually(|s| s.host.reload("stray_thread").is_err());
    scene.install(many(2)).refused().at(Step::Open, &["max_lingering"]);
    assert_eq!((candidate(&scene), scene.generation("many")), (None, Some(1)));
    // It is tried again when something has been unloaded.
    hold.release();
    scene.unloaded("stray_thread", 1);
    scene.eventually(|s| candidate(s).is_some());
}

#[test]
fn a_candidate_goes_when_somebody_wants_an_interface_that_it_lacks() {
    let scene = scene(100, |_| {});
    scene.install("two_interfaces").published();
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    drop(scene.install(Build::of("one_interface").in_slot("two_interfaces")));
    let is_tried = |event: &Event| matches!(event, Event::Candidate { generation: 2, .. });
    scene.eventually(|s| s.events().iter().any(is_tried));
    scene.host.scope(|scope| assert_eq!(scope.enter(&echo).unwrap().say("hi").unwrap(), "one: hi"));
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    let (reason, denied) = discarded(&scene, 2).unwrap();
    assert!(
        reason.starts_with("somebody wants Misc now: it does not implement Misc 1.0") && !denied,
        "{reason}"
    );
    scene.host.scope(|scope| assert_eq!(scope.enter(&misc).unwrap().generation(), 1));
    scene.unloaded("two_interfaces", 2);
}
