use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reseat::{Event, Phase, Step};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::Misc;
use serde_json::json;

use crate::child::in_child;
use crate::scene::{Build, Scene};

/// Times, paths and sizes differ from run to run; what is left is what an event says.
fn plain(scene: &Scene, event: &Event) -> String {
    let text = event.to_string().replace(scene.plugins().to_str().unwrap(), "…");
    let mut plain = String::new();
    for word in text.split(' ') {
        let is_number = word.trim_start_matches('(').parse::<f64>().is_ok();
        plain.push_str(if is_number && word.contains('.') { "N" } else { word });
        plain.push(' ');
    }
    plain.trim_end().to_owned()
}

fn told(scene: &Scene) -> Vec<String> {
    scene.events().iter().map(|event| plain(scene, event)).collect()
}

#[test]
fn a_reload_tells_what_it_did_in_the_order_in_which_it_did_it() {
    let scene = Scene::with(&["counter_v1"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    scene.install("counter_v2").published();
    scene.unloaded("counter", 1);
    scene.install("counter_v1").refused();
    scene.install("errors_in_self_check").refused();
    scene.host.unload("counter").unwrap();
    scene.unloaded("counter", 2);
    assert_eq!(
        told(&scene),
        [
            "generation 1 of counter serves: version 0.1.0 from …/libcounter.so N ms)",
            "generation 2 of counter serves: version 0.1.0 took over from generation 1 N ms, gate closed for N ms, 44 B of state carried)",
            "generation 1 of counter is unloaded",
            "…/libcounter.so for counter is refused at vet: the serving generation writes state version 2, this build reads 1..=1: build one that reads it, or unload the plugin first if the state may go (generation 2 serves on)",
            "…/libcounter.so for counter is refused at check: self_check failed: two and two are five (generation 2 serves on)",
            "plugin counter is removed: generation 2 serves no more",
            "generation 2 of counter is unloaded",
        ]
    );
    let sequences: Vec<u64> = scene.host.recent_events().iter().map(|recorded| recorded.sequence).collect();
    assert_eq!(sequences, (1..=7).collect::<Vec<_>>());
}

#[test]
fn a_reload_of_a_stateless_plugin_keeps_nobody_waiting_and_says_nothing_of_a_gate() {
    let scene = Scene::with(&["echo_v1"]);
    scene.install("echo_v2").published();
    scene.unloaded("echo", 1);
    assert_eq!(
        told(&scene),
        [
            "generation 1 of echo serves: version 0.1.0 from …/libecho.so N ms)",
            "generation 2 of echo serves: version 0.1.0 took over from generation 1 N ms)",
            "generation 1 of echo is unloaded",
        ]
    );
}

#[test]
fn events_are_told_to_whoever_subscribes_until_the_host_ends() {
    let scene = Scene::with(&["echo_v1"]);
    let (mut first, mut second) = (scene.host.events(), scene.host.events());
    scene.install("echo_v2").published();
    for events in [&mut first, &mut second] {
        let recorded = events.next_recorded().unwrap();
        assert!(matches!(recorded.event, Event::Reloaded { generation: 2, .. }), "{recorded:?}");
        assert!(recorded.sequence > 1 && recorded.at_ms > 1_600_000_000_000);
    }
    drop(second);
    assert!(scene.host.shutdown(Duration::from_secs(10)));
    let rest: Vec<Event> = first.collect();
    let unloaded = |n| {
        rest.iter().filter(|e| matches!(e, Event::Unloaded { generation, .. } if *generation == n)).count()
    };
    assert_eq!((unloaded(1), unloaded(2)), (1, 1), "{rest:?}");
}

#[test]
fn a_subscriber_that_lags_behind_is_told_how_many_events_it_missed() {
    let scene = Scene::with(&["echo_v1"]);
    let mut slow = scene.host.events();
    let refuse = || drop(scene.host.load(&scene.trusted("libmissing.so")).unwrap_err());
    for _ in 0..1500 {
        refuse();
    }
    let mut seen: u64 = 0;
    while slow.next_within(Duration::ZERO).is_some() {
        seen += 1;
    }
    // Told with the next event that it has room for.
    refuse();
    let Some(Event::Missed { count }) = slow.next_within(Duration::from_secs(10)) else {
        panic!("it missed some")
    };
    assert_eq!(seen + count, 1500);
    assert_eq!(Event::Missed { count: 7 }.to_string(), "7 events were missed: the subscriber was too slow");
    assert!(matches!(
        slow.next_within(Duration::from_secs(10)),
        Some(Event::Refused { step: Step::Settle, .. })
    ));
    // The host itself remembers the last ones.
    assert_eq!(scene.host.recent_events().last().unwrap().sequence, 1502);
}

#[test]
fn the_status_is_what_a_program_can_read() {
    let scene = Scene::with_options(&["counter_v2"], |options| {
        options.config.insert("counter".into(), json!({ "unused": true }));
    });
    let counter = scene.handle::<dyn Counter>("counter");
    let lease = counter.lease().unwrap();
    let status = serde_json::to_value(scene.host.status()).unwrap();
    assert_eq!(
        keys(&status),
        ["capture", "failed_builds", "gate", "plugins", "state_dir", "tainted", "watching"]
    );
    assert_eq!(status["capture"], "works");
    assert!(["membarrier", "fence"].contains(&status["gate"].as_str().unwrap()));
    assert_eq!(status["tainted"], json!([]));
    assert_eq!(status["watching"], json!([scene.plugins()]));
    assert_eq!(status["state_dir"], json!(scene.state()));

    let plugin = &status["plugins"][0];
    let known = [
        "busy",
        "counters",
        "file",
        "generation",
        "generations",
        "hash",
        "in_flight",
        "interfaces",
        "last_refusal",
        "name",
        "previous",
        "probation",
        "profile",
        "state_bytes",
        "state_version",
        "version",
        "waiting",
    ];
    assert_eq!(keys(plugin), known);
    assert_eq!(plugin["name"], "counter");
    assert_eq!(plugin["generation"], 1);
    assert_eq!(plugin["state_version"], 2);
    assert_eq!(plugin["file"], json!(scene.plugins().join("libcounter.so")));
    assert_eq!(plugin["hash"].as_str().unwrap().len(), 64);
    assert_eq!(plugin["busy"], json!(null));
    assert_eq!(plugin["previous"], json!(null), "it is the first build");
    assert_eq!(plugin["interfaces"][0]["name"], "Counter");
    let add = &plugin["interfaces"][0]["methods"][0];
    assert_eq!((&add["name"], &add["signature"]), (&json!("add"), &json!("add(n: u64) -> u64")));
    assert!(add["example"]["n"].is_u64(), "{add}");
    let serving = &plugin["generations"][0];
    assert_eq!(keys(serving), ["bytes", "generation", "percent", "phase", "reason", "version"]);
    assert_eq!((&serving["generation"], &serving["phase"]), (&json!(1), &json!("serving")));
    assert!(serving["bytes"].as_u64().is_some_and(|bytes| bytes > 4096), "{serving}");
    assert_eq!((&plugin["in_flight"], &plugin["waiting"]), (&json!(1), &json!(0)), "the lease");
    assert_eq!(plugin["state_bytes"], json!(null), "it was never written");
    drop(lease);
    let bytes = scene.host.state("counter").unwrap().len() as u64;
    assert_eq!(
        (scene.status("counter").state_bytes, scene.status("counter").in_flight),
        (Some(bytes), Some(0))
    );
}

#[test]
fn the_status_says_what_an_old_generation_is_waiting_for() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let lease = echo.lease().unwrap();
    scene.install("echo_v2").published();
    scene.eventually(|s| s.status("echo").generations.iter().any(|g| g.reason.is_some()));
    let generations = scene.status("echo").generations;
    assert_eq!(generations.len(), 2);
    assert_eq!((generations[0].generation, generations[0].phase), (1, Phase::Draining));
    assert_eq!(generations[0].reason.as_deref(), Some("1 lease"));
    assert_eq!((generations[1].generation, generations[1].phase), (2, Phase::Serving));
    assert_eq!(scene.status("echo").previous.as_deref(), Some("0.1.0"));
    drop(lease);
    scene.settled();
    assert_eq!(scene.status("echo").generations.len(), 1);
    // There is one step back, and no second one.
    scene.host.roll_back("echo").unwrap();
    assert_eq!(scene.status("echo").previous, None);
}

#[test]
fn an_example_in_the_status_is_a_valid_call() {
    let scene = Scene::with(&["echo_v1", "counter_v1", "panics_in_call"]);
    let mut called = BTreeSet::new();
    for plugin in scene.host.status().plugins {
        for method in plugin.interfaces.iter().flat_map(|interface| &interface.methods) {
            // `hold` would wait for its file.
            if method.name != "hold" {
                let answer = scene.host.call(&plugin.name, &method.name, &method.example.to_string());
                assert!(answer.is_ok(), "{} {}: {answer:?}", method.name, method.example);
                called.insert(method.name.clone());
            }
        }
    }
    assert_eq!(called.into_iter().collect::<Vec<_>>(), ["add", "build", "call", "get", "measure", "say"]);
}

#[test]
fn counters_belong_to_the_plugin_and_not_to_a_build_of_it() {
    let scene = Scene::with(&["counters_and_log"]);
    let misc = scene.handle::<dyn Misc>("counters_and_log");
    assert_eq!(misc.enter().unwrap().call("one").unwrap(), "1");
    scene.host.reload("counters_and_log").unwrap();
    assert_eq!(misc.enter().unwrap().call("two").unwrap(), "2");
    scene.host.unload("counters_and_log").unwrap();
    assert_eq!(scene.status("counters_and_log").counters, [("calls".to_owned(), 2)]);
    scene.host.load(&scene.trusted("libcounters_and_log.so")).unwrap();
    assert_eq!(misc.enter().unwrap().call("three").unwrap(), "3");
}

#[test]
fn a_configuration_reaches_its_plugin() {
    let scene = Scene::with_options(&["config"], |options| {
        options.config.insert("config".into(), json!({ "greeting": "hello", "times": 3 }));
    });
    let misc = scene.handle::<dyn Misc>("config");
    assert_eq!(misc.enter().unwrap().call("world").unwrap(), "hello world 3");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_with_plugin_and_field() {
    let cases = [
        (json!({ "greeting": "hello", "times": "three" }), "invalid type: string \"three\", expected u32"),
        (json!({ "times": 3 }), "missing field `greeting`"),
    ];
    for (config, words) in cases {
        let scene = Scene::with_options(&[], |options| {
            options.config.insert("config".into(), config.clone());
        });
        let words = ["create failed: the configuration of plugin `config` does not fit: ", words];
        scene.install("config").refused().at(Step::Create, &words);
    }
    let scene = Scene::with(&[]);
    scene.install("config").refused().at(Step::Create, &["missing field `greeting`"]);
}

#[test]
fn the_last_refusal_is_remembered_until_a_build_is_accepted() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    assert_eq!(scene.status("echo").last_refusal, None);
    scene.install("echo_changed_layout").refused();
    let refusal = scene.status("echo").last_refusal.unwrap();
    assert!(refusal.starts_with("vet: echo 0.1.0 does not fit interface Echo 1.0"), "{refusal}");
    scene.install("panics_in_create").refused();
    assert!(scene.status("echo").last_refusal.unwrap().starts_with("create: create failed"));
    scene.install(Build::of("echo_stamped").stamped(3)).published();
    assert_eq!(scene.status("echo").last_refusal, None);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_plugin_logs_is_in_the_log_of_its_host() {
    in_child("status_and_events::what_a_plugin_logs_is_in_the_log_of_its_host", || {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        let scene = Scene::with(&["counters_and_log"]);
        let misc = scene.handle::<dyn Misc>("counters_and_log");
        misc.enter().unwrap().call("sing").unwrap();
        scene.host.reload("counters_and_log").unwrap();
        misc.enter().unwrap().call("dance").unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let line = |words: &str| {
            text.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {text}"))
        };
        for (words, generation) in [("told: sing", "generation=1"), ("told: dance", "generation=2")] {
            let line = line(words);
            assert!(line.contains("INFO") && line.contains(generation), "{line}");
            assert!(
                line.contains("plugin=counters_and_log") && line.contains("module=counters_and_log"),
                "{line}"
            );
        }
        // What happens in the host is there as well.
        line("generation 2 of counters_and_log serves");
    });
}

#[test]
fn what_a_plugin_logs_is_inside_of_the_spans_that_it_is_called_from() {
    in_child("status_and_events::what_a_plugin_logs_is_inside_of_the_spans_that_it_is_called_from", || {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        subscriber.with_writer(move || writer.clone()).init();
        let scene = Scene::with(&["counters_and_log"]);
        let misc = scene.handle::<dyn Misc>("counters_and_log");
        tracing::info_span!("request", id = 7).in_scope(|| misc.enter().unwrap().call("sing").unwrap());
        scene.host.call("counters_and_log", "call", r#"{"what":"dance"}"#).unwrap();
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let inside = |words: &str, span: &str| {
            let line =
                text.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {text}"));
            assert!(line.contains(span), "{line}");
        };
        // A hook runs on another thread than what it is run for.
        inside(": created", "reload{plugin=counters_and_log}: ");
        inside("told: sing", "request{id=7}: ");
        inside("told: dance", r#"call{plugin=counters_and_log method="call"}: "#);
    });
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
