use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reseat::{
    CallError, DispatchError, Event, Host, Options, PluginOptions, Probe, Registered, Step, TrustedDir,
};
use serde_json::{Value, json};

use crate::callers::Callers;
use crate::cli::{ask, ok, text};
use crate::net::change;
use crate::program::{self, Running};
use crate::scene::{Build, Scene, put};
use crate::waiting::DEADLINE;

const NAME: &str = r#"{"name":"alice"}"#;

fn routes(host: &Host) -> Vec<String> {
    host.registrations(Some("route")).into_iter().map(|one| format!("{}: {}", one.plugin, one.key)).collect()
}

fn hello(host: &Host) -> Result<String, DispatchError> {
    host.dispatch("route", "GET /hello", NAME)
}

#[track_caller]
fn one(host: &Host, kind: &str, key: &str) -> Registered {
    let mut found = host.registrations(Some(kind)).into_iter().filter(|one| one.key == key);
    let only = found.next().unwrap_or_else(|| panic!("no {kind} `{key}`"));
    assert_eq!(found.next(), None, "{kind} `{key}` is there twice");
    only
}

fn counter(scene: &Scene, plugin: &str, name: &str) -> u64 {
    let counters = scene.status(plugin).counters;
    counters.into_iter().find(|(known, _)| known == name).map_or(0, |(_, value)| value)
}

/// What has changed by reloads, as it is told.
fn changes(scene: &Scene) -> Vec<String> {
    let events = scene.events().into_iter();
    events.filter(|event| matches!(event, Event::Registrations { .. })).map(|e| e.to_string()).collect()
}

/// Has threads do this without pause while something else is done. It never fails.
#[track_caller]
fn meanwhile(
    threads: usize,
    load: impl Fn() -> Result<(), String> + Sync,
    work: impl FnOnce(&AtomicU64),
) -> u64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let run = || {
            while !stop.load(Ordering::Relaxed) {
                load()?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, String>(())
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        // Also if the work fails: nobody would wait for these otherwise.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&done)));
        stop.store(true, Ordering::Relaxed);
        let failed = running.into_iter().filter_map(|thread| thread.join().expect("no panic").err()).next();
        assert_eq!(failed, None);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    done.into_inner()
}

#[test]
fn what_two_builds_register_both_is_dispatched_without_a_gap_while_they_replace_one_another() {
    let scene = Scene::with(&["registers_v1"]);
    let host = &scene.host;
    let load = || {
        let answer = hello(host).map_err(|error| error.to_string())?;
        // A method that another build than the answering one has registered would show.
        if answer != r#""v1 answers alice""# && answer != r#""v2 greets alice""# {
            return Err(answer);
        }
        host.dispatch("command", "greet", NAME).map_err(|error| error.to_string())?;
        let told = host.notify("news", r#"{"text":"x"}"#);
        if told.len() != 1 || told[0].outcome.is_err() {
            return Err(format!("{told:?}"));
        }
        let listed = host.registrations(None).into_iter().filter(|one| one.key == "GET /hello");
        match listed.count() {
            1 => Ok(()),
            count => Err(format!("GET /hello is there {count} times")),
        }
    };
    meanwhile(3, load, |done| {
        for number in 0..50 {
            let fixture = if number % 2 == 0 { "registers_v2" } else { "registers_v1" };
            scene.install(fixture).published();
            let goal = done.load(Ordering::Relaxed) + 3;
            scene.eventually(|_| done.load(Ordering::Relaxed) >= goal);
        }
    });
    assert_eq!(scene.generation("greeter"), Some(51));
    let hello = one(host, "route", "GET /hello");
    assert_eq!((hello.generation, hello.since, hello.method.as_str()), (51, 1, "answer"));
    assert_eq!(hello.details, Some(json!("says hello")));
    // What is in every other build only has come with this one.
    assert_eq!(one(host, "route", "GET /old").since, 51);
}

#[test]
fn what_only_the_old_build_registered_has_gone_with_it_and_that_is_told() {
    let scene = Scene::with(&["registers_v1"]);
    assert_eq!(routes(&scene.host), ["greeter: GET /hello", "greeter: GET /old"]);
    assert!(changes(&scene).is_empty(), "a first build changes nothing");
    scene.install("registers_v2").published();
    assert_eq!(routes(&scene.host), ["greeter: GET /hello", "greeter: POST /new"]);
    let error = scene.host.dispatch("route", "GET /old", NAME).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no plugin that serves has registered route `GET /old`; there is: GET /hello, POST /new"
    );
    scene.eventually(|scene| !changes(scene).is_empty());
    let told = "generation 2 of greeter has registered otherwise, came: route `POST /new`, went: route `GET /old`; 4 stayed";
    assert_eq!(changes(&scene), [told]);
    scene.host.reload("greeter").unwrap();
    assert_eq!(changes(&scene), [told], "the same again is no change");
    assert_eq!(one(&scene.host, "route", "POST /new").since, 2);
    // And back.
    scene.host.roll_back("greeter").unwrap();
    assert_eq!(routes(&scene.host), ["greeter: GET /hello", "greeter: GET /old"]);
    assert_eq!(one(&scene.host, "route", "GET /hello").since, 1);
}

#[test]
fn code_that_registers_again_with_each_reload_has_registered_once() {
    let scene = Scene::with(&["registers_twice"]);
    for generation in 1..4 {
        let keys: Vec<_> = scene.host.registrations(None).into_iter().map(|one| one.key).collect();
        assert_eq!(keys, ["GET /hello", "news"], "generation {generation}");
        assert_eq!(scene.host.notify("news", r#"{"text":"x"}"#).len(), 1);
        assert_eq!(counter(&scene, "greeter", "told"), generation);
        scene.host.reload("greeter").unwrap();
    }
}

#[test]
fn a_build_that_is_refused_has_registered_nothing() {
    let scene = Scene::with(&["registers_v1", "registers_with_state"]);
    let before = scene.host.registrations(None);
    scene.install("registers_and_errors").refused().at(Step::Check, &["no use"]);
    scene.install("registers_and_errors_in_restore").refused().at(Step::Restore, &["not this state"]);
    scene.install("registers_nothing_there").refused().at(
        Step::Create,
        &["route `GET /hello` calls `vanished`, which this build does not export; there is: answer, greet, told"],
    );
    assert_eq!(scene.host.registrations(None), before);
    assert_eq!(hello(&scene.host).unwrap(), r#""v1 answers alice""#);
    let error = scene.host.dispatch("route", "GET /unfit", NAME).unwrap_err();
    assert!(matches!(error, DispatchError::NotRegistered { .. }), "{error}");
}

#[test]
fn a_route_that_another_plugin_has_is_refused_and_its_holder_is_named() {
    let scene = Scene::with(&["registers_v1"]);
    let words = [
        "route `GET /hello` is that of plugin `greeter`, generation 1, and only one plugin can have it",
        "register another key, or unload `greeter` before",
    ];
    scene.install("registers_the_same").refused().at(Step::Create, &words);
    scene.host.unload("greeter").unwrap();
    scene.host.load(&scene.trusted("librival.so")).unwrap();
    assert_eq!(hello(&scene.host).unwrap(), r#""rival answers alice""#);
    let error = scene.host.reload("greeter").unwrap_err().to_string();
    assert!(error.contains("is that of plugin `rival`"), "{error}");
    // Reloads of the holder have nothing to fear from itself.
    scene.host.reload("rival").unwrap();
}

#[test]
fn a_route_goes_from_one_plugin_to_another_when_both_change_at_one_moment() {
    let scene = Scene::with(&["registers_v1"]);
    let rival = scene.install("registers_the_same");
    rival.refused();
    let shelf = scene.path("shelf");
    put(&shelf.join("libgreeter.so"), &Build::of("registers_little"));
    // SAFETY: only tests write there, and only builds of our fixtures.
    let shelf = unsafe { TrustedDir::new(shelf) };
    let (little, rival) = (shelf.file("libgreeter.so").unwrap(), scene.trusted("librival.so"));
    assert_eq!(hello(&scene.host).unwrap(), r#""v1 answers alice""#);
    let outcomes = scene.host.reload_together_from(&[("greeter", &little), ("rival", &rival)]).unwrap();
    assert_eq!(outcomes.len(), 2);
    assert_eq!(hello(&scene.host).unwrap(), r#""rival answers alice""#);
    assert_eq!(routes(&scene.host), ["rival: GET /hello"]);
    // And not back alone.
    let error = scene.host.reload("greeter").unwrap_err().to_string();
    assert!(error.contains("is that of plugin `rival`"), "{error}");
}

#[test]
fn topics_and_kinds_of_an_embedder_are_shared_and_each_outcome_is_reported() {
    let scene = Scene::with(&["registers_v1", "registers_with_state"]);
    let host = &scene.host;
    let register = |kind: &str, key: &str| {
        host.call("keeper", "register", &json!({ "kind": kind, "key": key }).to_string())
    };
    assert_eq!(host.dispatch("menu", "file/open", NAME).unwrap(), r#""v1 answers alice""#);
    register("menu", "file/open").unwrap();
    let error = host.dispatch("menu", "file/open", NAME).unwrap_err().to_string();
    assert!(error.contains("menu `file/open` is registered by greeter, keeper"), "{error}");
    register("subscription", "news").unwrap();
    let told = host.notify("news", r#"{"text":"x"}"#);
    let outcomes: Vec<_> = told.iter().map(|one| (one.plugin.as_str(), one.outcome.is_ok())).collect();
    assert_eq!(outcomes, [("greeter", true), ("keeper", false)]);
    assert!(matches!(told[1].outcome, Err(CallError::BadArguments(_))), "{told:?}");
    assert!(host.notify("olds", "{}").is_empty());
    // What comes late is measured by the same.
    let error = register("route", "GET /hello").unwrap_err().to_string();
    assert!(error.contains("is that of plugin `greeter`, generation 1"), "{error}");
    for (kind, key) in
        [("Menu", "x"), ("route", "/hello"), ("command", "two words"), ("menu", ""), ("timer", "x")]
    {
        assert!(register(kind, key).is_err(), "{kind} {key}");
    }
}

#[test]
fn a_route_that_goes_to_and_fro_between_plugins_that_change_together_is_there_all_the_time() {
    let has = |plugin: &str| Build::of("registers_v1").named(plugin);
    let lacks = |plugin: &str| Build::of("registers_little").named(plugin);
    let scene = Scene::with(&[]);
    scene.install(has("greeter")).published();
    scene.install(lacks("another")).published();
    let callers = Callers::start(3, |_| {
        let host = scene.host.clone();
        move || host.dispatch("route", "GET /hello", NAME).map(drop).map_err(|error| error.to_string())
    });
    for round in 0..100 {
        let (to, from) = if round % 2 == 0 { ("another", "greeter") } else { ("greeter", "another") };
        change(&scene, [has(to), lacks(from)]).unwrap();
        callers.go_on(&scene, 20);
    }
    callers.finish();
}

#[test]
fn what_is_registered_in_a_call_is_there_at_once_and_goes_with_its_build() {
    let scene = Scene::with(&["registers_with_state"]);
    let host = &scene.host;
    let late = json!({ "kind": "route", "key": "GET /late" }).to_string();
    host.call("keeper", "register", &late).unwrap();
    assert_eq!(host.dispatch("route", "GET /late", NAME).unwrap(), r#""keeper answers alice""#);
    assert_eq!(host.call("keeper", "withdraw", &late).unwrap(), "true");
    assert_eq!(host.call("keeper", "withdraw", &late).unwrap(), "false");
    assert!(host.dispatch("route", "GET /late", NAME).is_err());
    host.call("keeper", "register", &late).unwrap();
    host.reload("keeper").unwrap();
    assert_eq!(routes(host), ["keeper: GET /kept"]);
}

#[test]
fn a_thread_of_a_replaced_build_that_registers_changes_nothing_that_counts() {
    let scene = Scene::with(&["registers_late"]);
    assert!(scene.host.registrations(None).is_empty());
    scene.install("registers_v1").published();
    scene.eventually(|scene| counter(scene, "greeter", "late") == 1);
    assert_eq!(routes(&scene.host), ["greeter: GET /hello", "greeter: GET /old"]);
    assert_eq!(one(&scene.host, "route", "GET /hello").method, "answer");
    assert_eq!(hello(&scene.host).unwrap(), r#""v1 answers alice""#);
    scene.unloaded("greeter", 1);
}

#[test]
fn what_is_unloaded_has_registered_nothing_any_more() {
    let scene = Scene::with(&["registers_v1"]);
    scene.host.unload("greeter").unwrap();
    assert!(scene.host.registrations(None).is_empty());
    let error = hello(&scene.host).unwrap_err().to_string();
    assert_eq!(error, "no plugin that serves has registered route `GET /hello`; there is none");
    scene.host.reload("greeter").unwrap();
    assert_eq!(one(&scene.host, "route", "GET /hello").since, 2, "it was interrupted");
    assert!(scene.host.shutdown(DEADLINE));
    assert_eq!(hello(&scene.host), Err(DispatchError::Closed));
}

#[test]
fn what_is_dispatched_during_a_handover_waits_and_is_answered_by_the_build_that_takes_over() {
    let scene = Scene::with(&["registers_with_state"]);
    let (host, hold) = (&scene.host, scene.hold());
    let until = json!({ "until": hold.until() }).to_string();
    std::thread::scope(|scope| {
        // Whatever fails here lets them go.
        let hold = hold;
        let inside = scope.spawn(|| host.call("keeper", "hold", &until));
        hold.entered();
        let reload = scope.spawn(|| host.reload("keeper").map_err(|error| error.to_string()));
        // Its gate is closed when nobody can be counted in it.
        scene.eventually(|scene| scene.status("keeper").in_flight.is_none());
        let waits = scope.spawn(|| host.dispatch("route", "GET /kept", NAME));
        scene.eventually(|scene| scene.status("keeper").waiting == 1);
        assert_eq!(one(host, "route", "GET /kept").generation, 1, "it is there all the time");
        let begun = Instant::now();
        assert!(host.dispatch("route", "GET /other", NAME).is_err());
        assert!(begun.elapsed() < Duration::from_secs(4), "who is asked for nothing is not waited for");
        hold.release();
        assert_eq!(inside.join().unwrap().unwrap(), r#""keeper""#);
        assert_eq!(waits.join().unwrap().unwrap(), r#""keeper answers alice""#);
        reload.join().unwrap().unwrap();
    });
    let kept = one(host, "route", "GET /kept");
    assert_eq!((kept.generation, kept.since), (2, 1));
}

/// A plugin with timers.
fn ticking(config: &Value, change: impl FnOnce(&mut Options)) -> Scene {
    Scene::with_options(&[], |options| {
        options.config.insert("ticks".into(), config.clone());
        change(options);
    })
}

#[test]
fn a_timer_goes_on_through_reloads_and_is_never_called_twice_for_one() {
    const EVERY: Duration = Duration::from_millis(500);
    let scene = ticking(&json!({ "every_ms": 500 }), |_| {});
    let begun = Instant::now();
    scene.install("ticks").published();
    let mut reloads = 0;
    // A reload takes a part of that time: a timer that each of them set anew would never be due.
    while counter(&scene, "ticks", "ticks") < 4 {
        scene.host.reload("ticks").unwrap();
        reloads += 1;
        assert!(begun.elapsed() < DEADLINE, "{reloads} reloads, {}", counter(&scene, "ticks", "ticks"));
    }
    let ticks = counter(&scene, "ticks", "ticks");
    let most = begun.elapsed().as_millis() / EVERY.as_millis();
    assert!(u128::from(ticks) <= most, "{ticks} ticks, at most {most} in {reloads} reloads");
    let timer = one(&scene.host, "timer", "tick");
    assert_eq!((timer.since, timer.every_ms), (1, Some(500.0)));
    assert!(scene.host.shutdown(DEADLINE));
}

#[test]
fn a_timer_whose_call_lasts_holds_up_no_other_and_is_not_called_beside_itself() {
    let hold = crate::scene::Hold::at(tempfile::tempdir().unwrap().keep().join("hold"));
    let scene = ticking(&json!({ "every_ms": 5, "hold": hold.until() }), |_| {});
    scene.install("ticks").published();
    hold.entered();
    let before = counter(&scene, "ticks", "ticks");
    scene.eventually(|scene| counter(scene, "ticks", "ticks") >= before + 20);
    assert_eq!((counter(&scene, "ticks", "begun"), counter(&scene, "ticks", "ended")), (1, 0));
    hold.release();
    scene.eventually(|scene| counter(scene, "ticks", "ended") >= 2);
    assert!(scene.host.shutdown(DEADLINE));
}

#[test]
fn a_timer_of_what_is_not_loaded_is_not_called_and_one_that_fails_is_told_of_once() {
    let scene = ticking(&json!({ "every_ms": 5, "fails": true }), |_| {});
    scene.install("ticks").published();
    scene.eventually(|scene| counter(scene, "ticks", "failures") >= 5);
    let trouble = |scene: &Scene| {
        let events = scene.events().into_iter();
        events
            .filter(|event| matches!(event, Event::Trouble { .. }))
            .map(|e| e.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(trouble(&scene), ["timer `fail` of ticks: it is not to be"]);
    scene.host.unload("ticks").unwrap();
    scene.unloaded("ticks", 1);
    let after = counter(&scene, "ticks", "ticks");
    // Others come and go meanwhile.
    scene.install("registers_v1").published();
    assert_eq!(counter(&scene, "ticks", "ticks"), after);
    scene.host.reload("ticks").unwrap();
    scene.eventually(|scene| counter(scene, "ticks", "ticks") > after);
}

#[test]
fn what_waits_for_its_first_call_has_registered_nothing_yet() {
    let scene = ticking(&json!({ "every_ms": 1 }), |options| {
        let own = PluginOptions { lazy: Some(true), ..PluginOptions::default() };
        options.plugins.insert("ticks".into(), own);
    });
    drop(scene.install("ticks"));
    scene.eventually(|scene| scene.host.status().plugins.iter().any(|plugin| plugin.name == "ticks"));
    scene.install("registers_v1").published();
    assert_eq!(scene.host.registrations(Some("timer")), []);
    scene.host.call("ticks", "tick", "{}").unwrap();
    assert_eq!(one(&scene.host, "timer", "tick").since, 1);
    scene.eventually(|scene| counter(scene, "ticks", "ticks") > 3);
}

#[test]
fn a_build_that_is_tried_may_register_and_what_it_could_not_is_found_out_there() {
    let scene = Scene::with_options(&["registers_v1"], |options| {
        options.probe = Some(Probe::with(program::path(), ["probe"]));
    });
    scene.install("registers_v2").published();
    assert_eq!(one(&scene.host, "route", "POST /new").since, 2);
    scene.install("registers_nothing_there").refused().at(Step::Probe, &["calls `vanished`"]);
}

#[test]
fn a_route_over_http_and_a_command_in_a_terminal_are_answered_by_whoever_has_registered_them() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    std::fs::create_dir(&plugins).expect("it can be written");
    let build = Build::of("registers_v1");
    std::fs::write(plugins.join(build.file_name()), build.bytes()).expect("it can be written");
    let running = Running::start(&plugins, &state, None);
    assert_eq!(running.get("/routes/hello?name=al%20ice", &[]).unwrap(), r#""v1 answers al ice""#);
    let missing = running.get("/routes/none", &[]).unwrap_err();
    assert!(missing.starts_with("404") && missing.contains("no-such-route"), "{missing}");
    assert!(missing.contains("there is: GET /hello, GET /old"), "{missing}");
    let wrong = running.post("/routes/hello", &json!({ "name": "alice" })).unwrap_err();
    assert!(wrong.starts_with("404") && wrong.contains("POST /hello"), "{wrong}");
    let stranger = ureq::get(format!("http://{}/routes/hello?name=x", running.authority())).call();
    assert!(matches!(stranger, Err(ureq::Error::StatusCode(401))), "{stranger:?}");

    assert_eq!(ok(&ask(&state, &["command", "greet", NAME])).trim(), r#""v1 answers alice""#);
    let unknown = ask(&state, &["command", "great"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("there is: greet"), "{}", text(&unknown.stderr));
    let listed = ok(&ask(&state, &["registrations"]));
    assert!(listed.contains("route         GET /hello  greeter  answer"), "{listed}");
    let listed = ok(&ask(&state, &["registrations", "--kind", "command", "--json"]));
    let listed: Value = serde_json::from_str(&listed).expect("it is JSON");
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["key"]), (Some(1), &json!("greet")));
    assert!(running.interrupt().success());
}
