use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread::Builder;
use std::time::Duration;

use reseat::{
    Change, DrainPolicy, Holders, Observer, Observers, Options, Phase, PluginOptions, ReloadMode, Step, Why,
};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::{Blocker, Misc};

use crate::cli::{ask, ok};
use crate::json::Fields;
use crate::program::Running;
use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, until};

/// What is said of a plugin, all of which is documented.
#[track_caller]
fn why(scene: &Scene, plugin: &str) -> Why {
    let why = scene.host.why(plugin).unwrap();
    let json = serde_json::to_value(&why).unwrap();
    Fields::of("reseat why").describe(&json, &mut BTreeSet::new());
    assert_eq!(why.to_string(), why.lines.join("\n"));
    why
}

/// What is said when it is so.
#[track_caller]
fn when(scene: &Scene, plugin: &str, is_so: impl Fn(&Why) -> bool) -> Why {
    let mut last = None;
    let found = until(DEADLINE, || {
        let now = why(scene, plugin);
        let found = is_so(&now);
        last = Some(now);
        found
    });
    let last = last.expect("it has been asked");
    assert!(found, "it has not become so: {last:#?}");
    last
}

/// A line with these words in it, in this order.
#[track_caller]
fn says(why: &Why, words: &[&str]) {
    let has = |line: &&String| {
        let mut rest = line.as_str();
        words.iter().all(|word| rest.split_once(word).map(|(_, behind)| rest = behind).is_some())
    };
    assert!(why.lines.iter().find(has).is_some(), "no line has {words:?}: {:#?}", why.lines);
}

/// The one thread that holds it.
#[track_caller]
fn one_thread(holders: &Holders) -> (&str, Option<&str>) {
    let [thread] = &holders.threads[..] else { panic!("{holders:?}") };
    assert!(
        thread.since_ms.is_some() && thread.guards == 1 && thread.tid != 0 && !thread.ended,
        "{thread:?}"
    );
    (&thread.thread, thread.method.as_deref())
}

#[test]
fn a_plugin_that_waits_for_nothing_says_so_and_one_that_is_not_there_is_named() {
    let scene = Scene::with(&["counter_v1"]);
    let events = scene.events().len();
    let said = why(&scene, "counter");
    assert_eq!(said.to_string(), "counter: generation 1 serves, and nothing is waited for");
    assert_eq!(scene.events().len(), events, "to ask is to change nothing");
    let error = scene.host.why("counted").unwrap_err().to_string();
    assert_eq!(error, "no plugin is called `counted`: loaded are counter");
    scene.host.unload("counter").unwrap();
    scene.unloaded("counter", 1);
    let said = when(&scene, "counter", |why| why.old.is_empty());
    assert_eq!(said.to_string(), "counter: nothing serves, and nothing is waited for");
}

#[test]
fn a_reload_that_waits_behind_a_closed_gate_names_whom_it_waits_for_and_who_waits_for_it() {
    let wait = Duration::from_secs(77);
    let scene = Scene::with_options(&["counter_v1"], |options| {
        (options.drain_policy, options.call_wait) = (DrainPolicy::Wait, wait);
    });
    let counter = scene.handle::<dyn Counter>("counter");
    let (hold, lease) = (scene.hold(), counter.lease().unwrap());
    std::thread::scope(|threads| {
        let patient = Builder::new().name("patient".into());
        let patient = patient.spawn_scoped(threads, || counter.enter().unwrap().hold(&hold.until()));
        hold.entered();
        let expecting = scene.install("counter_v2");
        let said = when(&scene, "counter", |why| {
            why.under_way.as_ref().is_some_and(|under_way| under_way.holders.is_some())
        });
        let under_way = said.under_way.as_ref().unwrap();
        let holders = under_way.holders.as_ref().unwrap();
        assert_eq!((under_way.step, under_way.cancelled, under_way.at_most_ms), (Step::Drain, false, None));
        assert_eq!((holders.guards, holders.leases), (1, 1));
        assert_eq!(one_thread(holders), ("patient", Some("hold")));
        says(
            &said,
            &[
                "counter: a transaction is at drain since ",
                "s: it waits for 1 guard, entered at least ",
                " ago by thread patient (last call: hold), and 1 lease",
            ],
        );
        let callers: Vec<_> = (0..2).map(|_| threads.spawn(|| counter.enter().unwrap().add(1))).collect();
        let said = when(&scene, "counter", |why| why.callers.as_ref().is_some_and(|it| it.waiting == 2));
        assert_eq!(said.callers.as_ref().unwrap().at_most_ms, wait.as_millis() as u64);
        says(&said, &["counter: 2 callers wait at its closed gate, for 77 s at most"]);
        drop(lease);
        hold.release();
        assert_eq!(expecting.published(), 2);
        callers.into_iter().for_each(|caller| assert!(caller.join().unwrap().is_ok()));
        assert_eq!(patient.unwrap().join().unwrap(), Ok(1));
    });
    when(&scene, "counter", |why| why.under_way.is_none() && why.callers.is_none());
}

#[test]
fn a_drain_with_a_deadline_says_it_and_what_was_refused_then_is_told() {
    let scene = Scene::with_options(&["counter_v1"], |options| {
        options.drain_deadline = Duration::from_millis(1500);
    });
    let lease = scene.handle::<dyn Counter>("counter").lease().unwrap();
    let expecting = scene.install("counter_v2");
    let said = when(&scene, "counter", |why| why.to_string().contains("it waits for 1 lease"));
    says(&said, &["a transaction is at drain since ", " (1.5 s at most): it waits for 1 lease"]);
    expecting.refused();
    let said = when(&scene, "counter", |why| why.under_way.is_none());
    says(&said, &["counter: the last build was refused at drain: it is still in use after", "1 lease"]);
    drop(lease);
    // Its number was used up by the one that was refused.
    when(&scene, "counter", |why| why.generation == Some(3) && why.last_refusal.is_none());
}

/// Answers when it is told to.
struct Undecided(std::sync::Mutex<mpsc::Receiver<()>>);

impl Observer for Undecided {
    fn before_reload(&self, _: &Change) -> Result<(), String> {
        let _ = self.0.lock().unwrap().recv();
        Ok(())
    }
}

#[test]
fn a_reload_that_was_cancelled_and_waits_for_an_observer_says_both() {
    let (decide, decided) = mpsc::channel();
    let observer = Undecided(std::sync::Mutex::new(decided));
    let scene = Scene::with_options(&[], |options| options.observers = Observers::none().and(observer));
    decide.send(()).unwrap();
    scene.install("echo_v1").published();
    let expecting = scene.install("echo_v2");
    let observed = |why: &Why| why.under_way.as_ref().is_some_and(|it| it.step == Step::Observe);
    let said = when(&scene, "echo", observed);
    says(&said, &["echo: a transaction is at observe since ", ": it waits for an observer"]);
    scene.host.cancel("echo").unwrap();
    let said = why(&scene, "echo");
    assert!(said.under_way.as_ref().unwrap().cancelled);
    says(&said, &["echo: a transaction is at observe since ", ", and is to stop: it waits for an observer"]);
    drop(decide);
    expecting.refused();
}

#[test]
fn a_hook_that_hangs_is_named_and_holds_up_nobody_who_asks() {
    let scene = Scene::with_options(&[], |options| {
        let until = options.state_dir.parent().unwrap().join("holds/0");
        options.config.insert("echo".into(), serde_json::json!({ "until": until }));
    });
    let hold = scene.hold();
    let expecting = scene.install("hangs_in_create");
    hold.entered();
    let said = why(&scene, "echo");
    says(
        &said,
        &["a transaction is at create since ", " (10 s at most): it waits for a hook of the new build"],
    );
    hold.release();
    assert_eq!(expecting.published(), 1);
}

#[test]
fn an_old_generation_that_drains_is_told_with_those_who_are_in_it_as_they_come_to_leave() {
    let scene = Scene::with(&["blocker"]);
    let blocker = scene.handle::<dyn Blocker>("blocker");
    let (hold, lease) = (scene.hold(), blocker.lease().unwrap());
    std::thread::scope(|threads| {
        let typist = Builder::new().name("typist".into());
        let typist = typist.spawn_scoped(threads, || blocker.enter().unwrap().hold(&hold.until()));
        hold.entered();
        scene.install(Build::of("blocker").stamped(2)).published();
        let said = when(&scene, "blocker", |why| why.old.iter().any(|old| old.holders.is_some()));
        let [old] = &said.old[..] else { panic!("{said:#?}") };
        assert_eq!((old.generation, old.phase, said.generation), (1, Phase::Draining, Some(2)));
        assert_eq!(one_thread(old.holders.as_ref().unwrap()), ("typist", Some("hold")));
        says(
            &said,
            &[
                "blocker: generation 1 is draining since ",
                ": 1 guard, entered at least ",
                " ago by thread typist (last call: hold), and 1 lease",
            ],
        );
        hold.release();
        typist.unwrap().join().unwrap().unwrap();
        // Not what was told when it began, but as it is now.
        let said = when(&scene, "blocker", |why| {
            why.old[0].holders.as_ref().is_some_and(|holders| holders.threads.is_empty())
        });
        says(&said, &["blocker: generation 1 is draining since ", ": 1 lease"]);
        drop(lease);
    });
    let said = when(&scene, "blocker", |why| why.old.is_empty());
    assert_eq!(said.to_string(), "blocker: generation 2 serves, and nothing is waited for");
}

#[test]
fn a_generation_that_lingers_is_told_with_what_keeps_it() {
    let scene = Scene::with(&["stray_thread"]);
    let (misc, hold) = (scene.handle::<dyn Misc>("stray_thread"), scene.hold());
    misc.enter().unwrap().call(&hold.until()).unwrap();
    scene.host.reload("stray_thread").unwrap();
    scene.lingers("stray_thread", 1, &["thread \"stray\""]);
    let said = when(&scene, "stray_thread", |why| why.old.iter().any(|old| old.phase == Phase::Lingering));
    assert!(said.old[0].since_ms.is_some());
    says(&said, &["stray_thread: generation 1 is lingering since ", "thread \"stray\""]);
    hold.release();
    // What it has left on this thread as well.
    when(&scene, "stray_thread", |why| {
        reseat::quiesce();
        why.old.is_empty()
    });
}

fn in_mode(mode: ReloadMode) -> impl FnOnce(&mut Options) {
    move |options| options.mode = mode
}

#[test]
fn a_build_that_waits_says_for_what_as_long_as_it_does() {
    for (mode, kind, until) in [
        (ReloadMode::OnDemand, "on-demand", "somebody asks for it: `echo` is reloaded on demand"),
        (ReloadMode::Never, "never", "the next host: `echo` is never reloaded"),
    ] {
        let scene = Scene::with_options(&["echo_v1"], in_mode(mode));
        let file = scene.install("echo_v2").file.clone();
        let said = when(&scene, "echo", |why| why.build.is_some());
        assert_eq!(said.build.as_ref().unwrap().kind, kind);
        says(&said, &["echo: the build in ", file.to_str().unwrap(), " waits until ", until]);
        if mode == ReloadMode::OnDemand {
            scene.host.reload("echo").unwrap();
            when(&scene, "echo", |why| why.build.is_none());
        }
    }
    let scene = Scene::with_options(&["echo_v1"], |options| options.cooldown = Duration::from_secs(3600));
    scene.install("echo_v2").published();
    drop(scene.install("echo_v1"));
    let said = when(&scene, "echo", |why| why.build.is_some());
    says(&said, &["waits until 3600s have passed since the last reload of it: 3", " s more"]);
    let scene = Scene::with_options(&[], |options| options.lazy = true);
    drop(scene.install("echo_v1"));
    scene.eventually(|scene| !scene.host.status().plugins.is_empty());
    let said = when(&scene, "echo", |why| why.build.is_some());
    says(&said, &["waits until somebody calls it: `echo` is opened then"]);
    scene.handle::<dyn Echo>("echo").enter().unwrap();
    when(&scene, "echo", |why| why.build.is_none() && why.generation == Some(1));
}

#[test]
fn builds_and_reloads_that_wait_for_scopes_say_how_many() {
    let scene = Scene::with_options(&["counter_v1"], in_mode(ReloadMode::BetweenScopes));
    let counter = scene.handle::<dyn Counter>("counter");
    let owned = scene.host.owned_scope();
    owned.enter(&counter).unwrap();
    let expecting = scene.install("counter_v2");
    let said = when(&scene, "counter", |why| why.build.is_some());
    assert_eq!(said.build.as_ref().unwrap().kind, "scopes");
    says(&said, &["waits until no scope holds it: 1 scope does"]);
    std::thread::scope(|threads| {
        let asked = threads.spawn(|| scene.host.reload("counter").unwrap());
        let scopes = |why: &Why| why.under_way.as_ref().and_then(|under_way| under_way.scopes);
        let said = when(&scene, "counter", |why| scopes(why) == Some(1));
        says(&said, &["a transaction is at drain since ", ": it waits for 1 scope"]);
        drop(owned);
        asked.join().unwrap();
    });
    drop(expecting);
    when(&scene, "counter", |why| why.build.is_none() && why.under_way.is_none());
}

#[test]
fn what_is_missing_is_told_from_one_plugin_to_the_next() {
    let scene = Scene::with(&[]);
    drop((scene.install("calls_counter"), scene.install("counts_with_echo")));
    scene.eventually(|scene| scene.host.why("caller").is_ok_and(|why| why.missing.len() == 2));
    let said = why(&scene, "caller");
    assert_eq!(
        (said.missing[0].waiting.as_slice(), said.circle.len()),
        (["counts_with_echo".into()].as_slice(), 0)
    );
    says(
        &said,
        &["caller: it waits for Counter ≥ 1.0, which counts_with_echo implements, that waits itself"],
    );
    says(&said, &["counts_with_echo: it waits for Echo ≥ 1.0, which nobody implements that serves"]);
    // The last link first.
    scene.install("echo_v1").published();
    let serves = |why: &Why| why.generation == Some(1) && why.missing.is_empty() && why.under_way.is_none();
    let said = when(&scene, "caller", serves);
    assert_eq!(said.lines[0], "caller: generation 1 serves, and nothing is waited for");
    let said = why(&scene, "counts_with_echo");
    assert_eq!(said.required_by, ["caller"]);
    says(&said, &["counts_with_echo: it cannot be unloaded before what requires it: caller"]);
}

#[test]
fn what_does_not_fit_and_what_there_is_too_much_of_is_told() {
    let scene = Scene::with(&["counter_changed_signature"]);
    drop(scene.install("calls_counter"));
    scene.eventually(|scene| scene.host.why("caller").is_ok_and(|why| !why.missing.is_empty()));
    let said = why(&scene, "caller");
    says(
        &said,
        &[
            "caller: it waits for Counter ≥ 1.0, which nobody implements that serves (",
            "method `add` differs",
        ],
    );

    let scene = Scene::with(&["counter_v2", "counts_too"]);
    scene.install("calls_counter").refused();
    let said = why(&scene, "caller");
    assert_eq!(said.missing[0].several, ["counter", "counts_too"]);
    says(
        &said,
        &["caller: it waits for Counter ≥ 1.0, which counter, counts_too all implement: say which one it is"],
    );
    let mut options = scene.host.options();
    let bind = [("Counter".to_owned(), "nobody".to_owned())].into();
    options.plugins.insert("caller".into(), PluginOptions { bind, ..PluginOptions::default() });
    scene.host.reconfigure(options);
    says(&why(&scene, "caller"), &["caller: it waits for Counter ≥ 1.0 of nobody, which nobody implements"]);
}

#[test]
fn a_circle_of_plugins_that_wait_for_one_another_is_named() {
    let scene = Scene::with(&[]);
    drop((scene.install("calls_counter"), scene.install("circle_counts")));
    scene.eventually(|scene| scene.host.why("caller").is_ok_and(|why| !why.circle.is_empty()));
    let said = why(&scene, "caller");
    assert_eq!(said.circle, ["caller", "circle"]);
    says(&said, &["caller: it waits for Counter ≥ 1.0, which circle implements, that waits itself"]);
    says(&said, &["circle: it waits for Misc ≥ 1.0, which caller implements, that waits itself"]);
    says(&said, &["caller, circle wait in a circle: one of them has to do without the next (`optional`)"]);
    assert_eq!(why(&scene, "circle").circle, ["circle", "caller"]);
}

#[test]
fn what_holds_up_the_end_of_a_host_is_told_while_it_ends() {
    let scene = Scene::with(&["echo_v1"]);
    let lease = scene.handle::<dyn Echo>("echo").lease().unwrap();
    std::thread::scope(|threads| {
        let end = threads.spawn(|| scene.host.shutdown(DEADLINE));
        let said = when(&scene, "echo", |why| why.old.iter().any(|old| old.holders.is_some()));
        says(&said, &["echo: generation 1 is draining since ", ": 1 lease"]);
        drop(lease);
        assert!(end.join().unwrap());
    });
    assert_eq!(why(&scene, "echo").to_string(), "echo: nothing serves, and nothing is waited for");
}

#[test]
fn the_command_and_http_say_what_the_library_says() {
    let dir = tempfile::tempdir().unwrap();
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    std::fs::create_dir(&plugins).unwrap();
    let put = |fixture: &str| {
        let (shelved, build) = (dir.path().join("shelved"), Build::of(fixture));
        std::fs::write(&shelved, build.bytes()).unwrap();
        std::fs::rename(&shelved, plugins.join(build.file_name())).unwrap();
    };
    put("counter_v1");
    let running = Running::start(&plugins, &state, None);
    assert_eq!(
        ok(&ask(&state, &["why", "counter"])),
        "counter: generation 1 serves, and nothing is waited for\n"
    );
    let unknown = ask(&state, &["why", "counted"]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("no plugin is called `counted`: loaded are counter"), "{said}");
    let error = running.get("/plugins/counted/why", &[]).unwrap_err();
    assert!(error.starts_with("404") && error.contains("no-such-plugin"), "{error}");
    // Somebody holds it.
    let hold = crate::scene::Hold::at(dir.path().join("hold"));
    let arguments = serde_json::json!({ "until": hold.until() });
    std::thread::scope(|threads| {
        let call = threads.spawn(|| running.post("/call/counter/hold", &arguments));
        hold.entered();
        put("counter_v2");
        let mut said = String::new();
        let names = until(DEADLINE, || {
            said = ok(&ask(&state, &["why", "counter"]));
            said.contains("it waits for 1 guard") && said.contains("(last call: hold)")
        });
        assert!(names, "{said}");
        let fields = Fields::of("reseat why");
        for json in [
            ok(&ask(&state, &["why", "counter", "--json"])),
            running.get("/plugins/counter/why", &[]).unwrap(),
        ] {
            let json = serde_json::from_str(&json).unwrap();
            fields.describe(&json, &mut BTreeSet::new());
            assert_eq!((&json["plugin"], &json["under_way"]["step"]), (&"counter".into(), &"drain".into()));
        }
        hold.release();
        call.join().unwrap().unwrap();
    });
    let done = || {
        ok(&ask(&state, &["why", "counter"])) == "counter: generation 2 serves, and nothing is waited for\n"
    };
    assert!(until(DEADLINE, done));
    assert!(running.interrupt().success());
}
