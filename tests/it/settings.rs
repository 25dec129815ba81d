use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use reseat::{Event, MaxLingering, Options, Outcome};
use reseat_tests::counter::Counter;
use reseat_tests::misc::Misc;
use serde_json::json;

use crate::cli::{ask, ok};
use crate::library::Build;
use crate::program::Running;
use crate::scene::Scene;
use crate::waiting::{DEADLINE, until};

#[test]
fn a_plugin_whose_configuration_changes_begins_again_with_it_and_others_do_not() {
    let scene = Scene::with_options(&["config", "counter_v2"], |options| {
        options.config.insert("config".into(), json!({ "greeting": "hello" }));
    });
    let (misc, counter) = (scene.handle::<dyn Misc>("config"), scene.handle::<dyn Counter>("counter"));
    counter.enter().unwrap().add(5).unwrap();
    let mut options = scene.host.options();
    options.config.insert("config".into(), json!({ "greeting": "goodbye" }));
    let became = scene.host.reconfigure(options);
    assert_eq!(became.in_the_next_host, [""; 0]);
    let [(name, outcome)] = &became.begun_again[..] else { panic!("{became:?}") };
    assert_eq!(name, "config");
    assert!(matches!(outcome, Ok(Outcome::Reloaded { generation: 2, .. })), "{outcome:?}");
    assert_eq!(misc.enter().unwrap().call("you").unwrap(), "goodbye you 0");
    assert_eq!((counter.enter().unwrap().get().unwrap(), scene.generation("counter")), (5, Some(1)));
    // One that had none, and has a state: it keeps it.
    let mut options = scene.host.options();
    options.config.insert("counter".into(), json!({ "unused": true }));
    assert_eq!(scene.host.reconfigure(options).begun_again.len(), 1);
    assert_eq!((counter.enter().unwrap().get().unwrap(), scene.generation("counter")), (5, Some(2)));
    let told = scene.events().iter().filter(|event| matches!(event, Event::Reconfigured { .. })).count();
    assert_eq!(told, 2);
}

#[test]
fn a_configuration_that_the_plugin_refuses_leaves_it_as_it_was_until_it_is_mended() {
    let scene = Scene::with_options(&["config"], |options| {
        options.config.insert("config".into(), json!({ "greeting": "hello" }));
    });
    let misc = scene.handle::<dyn Misc>("config");
    let with = |config| {
        let mut options = scene.host.options();
        options.config.insert("config".into(), config);
        scene.host.reconfigure(options).begun_again
    };
    let refused = with(json!({ "greeting": 7 }));
    let error = refused[0].1.as_ref().unwrap_err().to_string();
    assert!(error.contains("refused at create") && error.contains("expected a string"), "{error}");
    assert_eq!(misc.enter().unwrap().call("you").unwrap(), "hello you 0");
    assert!(with(json!({ "greeting": 7 })).is_empty(), "nothing has changed");
    assert!(with(json!({ "greeting": "again" }))[0].1.is_ok());
    assert_eq!(misc.enter().unwrap().call("you").unwrap(), "again you 0");
}

#[test]
fn what_only_a_start_can_change_stays_as_it_is_and_is_named() {
    let scene = Scene::with(&["counter_v2"]);
    let before = scene.host.options();
    let options = Options {
        watch: Vec::new(),
        persist: !before.persist,
        rescan_every: Duration::from_secs(77),
        max_lingering: MaxLingering { generations: 1, bytes: 1 },
        ..before.clone()
    };
    let became = scene.host.reconfigure(options);
    assert_eq!(became.in_the_next_host, ["watch", "persist", "rescan_every"]);
    let now = scene.host.options();
    assert_eq!(
        (&now.watch, now.persist, now.rescan_every),
        (&before.watch, before.persist, before.rescan_every)
    );
    assert_eq!(now.max_lingering.generations, 1);
}

#[test]
fn calls_are_counted_from_when_that_is_wanted_until_it_is_not() {
    let scene = Scene::with_options(&["counter_v2"], |options| {
        (options.measure_calls, options.probation) = (false, None);
    });
    let counter = scene.handle::<dyn Counter>("counter");
    let calls = || scene.host.figures().first().map(|figures| figures.calls);
    let add = || counter.enter().unwrap().add(1).unwrap();
    add();
    assert_eq!(calls(), None);
    scene.host.reconfigure(Options { measure_calls: true, ..scene.host.options() });
    (0..100).for_each(|_| assert!(add() > 0));
    assert_eq!(calls(), Some(100));
    scene.host.reconfigure(Options { measure_calls: false, ..scene.host.options() });
    add();
    assert_eq!(calls(), None);
    assert_eq!(counter.enter().unwrap().get().unwrap(), 102);
}

/// Writes as an editor does that cares: all of it at once, under its name.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it can be written");
    fs::rename(new, path).expect("one file system");
}

#[test]
fn a_running_host_goes_by_its_settings_when_they_are_edited_and_keeps_to_them_when_they_are_not_understood() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state, file) =
        (dir.path().join("plugins"), dir.path().join("state"), dir.path().join("reseat.toml"));
    fs::create_dir(&plugins).expect("it can be written");
    fs::write(plugins.join("libconfig.so"), Build::of("config").bytes()).expect("it can be written");
    write(&file, "[plugins.config.config]\ngreeting = \"hello\"\n");
    let running = Running::start(&plugins, &state, Some(&file));
    let greeting = || ok(&ask(&state, &["call", "config", "call", r#"{"what":"you"}"#])).trim().to_owned();
    assert_eq!(greeting(), "\"hello you 0\"");
    write(&file, "[plugins.config.config]\ngreeting = \"goodbye\"\n");
    assert!(until(DEADLINE, || greeting() == "\"goodbye you 0\""), "{}", running.output());
    write(&file, "drain_dedline_ms = 5\n[plugins.config.config]\ngreeting = \"nobody\"\n");
    let told = "unknown key `drain_dedline_ms`: did you mean `drain_deadline_ms`?; what it said before holds";
    assert!(until(DEADLINE, || running.output().contains(told)), "{}", running.output());
    assert_eq!(greeting(), "\"goodbye you 0\"");
    // In place, and with something that takes a restart.
    fs::write(&file, "persist = false\n[plugins.config.config]\ngreeting = \"again\"\n")
        .expect("it can be written");
    assert!(until(DEADLINE, || greeting() == "\"again you 0\""), "{}", running.output());
    let told = "other options hold from now on, except for persist: that takes a restart";
    assert!(until(DEADLINE, || running.output().contains(told)), "{}", running.output());
    // A table for a plugin that may come yet is no mistake, but is told of.
    write(&file, "[plugins.confg]\nprobation_calls = 5\n");
    let told = "[plugins.confg] is for a plugin that is not there: did you mean [plugins.config]?";
    assert!(until(DEADLINE, || running.output().contains(told)), "{}", running.output());
    // One that is gone says nothing.
    fs::remove_file(&file).expect("it is there");
    running.signal(libc::SIGHUP);
    write(&file, "[plugins.config.config]\ngreeting = \"back\"\n");
    assert!(until(DEADLINE, || greeting() == "\"back you 0\""), "{}", running.output());
    assert!(running.interrupt().success());
}

#[test]
fn settings_behind_links_are_followed_and_what_is_wrong_with_them_is_told_once() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("plugins")).expect("it can be written");
    fs::write(at("plugins/libconfig.so"), Build::of("config").bytes()).expect("it can be written");
    // As a volume of Kubernetes: nothing ever happens to the name that the host was given.
    for (version, greeting) in [("1", "hello"), ("2", "goodbye"), ("3", "")] {
        fs::create_dir(at(version)).expect("it can be written");
        let text = format!("[plugins.config.config]\ngreeting = \"{greeting}\"\n");
        fs::write(at(version).join("reseat.toml"), text).expect("it can be written");
    }
    let publish = |version: &str| {
        symlink(version, at("new")).expect("it can be written");
        fs::rename(at("new"), at("..data")).expect("one file system");
    };
    publish("1");
    symlink("..data/reseat.toml", at("reseat.toml")).expect("it can be written");
    let running = Running::start(&at("plugins"), &at("state"), Some(&at("reseat.toml")));
    let greeting =
        || ok(&ask(&at("state"), &["call", "config", "call", r#"{"what":"you"}"#])).trim().to_owned();
    assert_eq!(greeting(), "\"hello you 0\"");
    publish("2");
    assert!(until(DEADLINE, || greeting() == "\"goodbye you 0\""), "{}", running.output());
    // One that is written in several pieces, and is too large, and is no text.
    let mut file = fs::File::create(at("3/reseat.toml")).expect("it can be written");
    publish("3");
    (0..3).for_each(|_| file.write_all(&[b'x'; 100 << 10]).expect("it can be written"));
    drop(file);
    let told = "it is larger than 256 KiB: these are no settings; what it said before holds";
    assert!(until(DEADLINE, || running.output().contains(told)), "{}", running.output());
    publish("1");
    assert!(until(DEADLINE, || greeting() == "\"hello you 0\""), "{}", running.output());
    assert_eq!(running.output().matches(told).count(), 1, "{}", running.output());
    assert!(running.interrupt().success());
}
