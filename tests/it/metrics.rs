use std::fs;

use serde_json::json;

use crate::library::Build;
use crate::program::Running;
use crate::waiting::{DEADLINE, until};

/// The value of a line of the text format, if it is there.
fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok())
}

#[test]
fn what_a_host_does_can_be_scraped() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).expect("it can be written");
    let (file, config) = (plugins.join("libcounter.so"), dir.path().join("reseat.toml"));
    fs::write(&file, Build::of("counter_v1").bytes()).expect("it can be written");
    fs::write(&config, "measure_calls = true\n").expect("it can be written");
    let running = Running::start(&plugins, &dir.path().join("state"), Some(&config));
    let metrics = || running.get("/metrics", &[]).expect("it answers");
    for _ in 0..5 {
        running.post("/call/counter/add", &json!({ "n": 1 })).expect("it counts");
    }
    let text = metrics();
    assert_eq!(value(&text, r#"reseat_loads_total{plugin="counter"}"#), Some(1.0), "{text}");
    assert_eq!(value(&text, r#"reseat_generation{plugin="counter"}"#), Some(1.0));
    let calls =
        |generation: u32| format!(r#"reseat_calls_total{{plugin="counter",generation="{generation}"}}"#);
    assert_eq!(value(&text, &calls(1)), Some(5.0));
    // Its bounds are ordered by what they are, its labels by where they come from.
    let within = r#"reseat_call_duration_seconds_bucket{le="1.0",plugin="counter",generation="1"}"#;
    assert_eq!(value(&text, within), Some(5.0), "{text}");
    for (gauge, expected) in [("in_flight", 0.0), ("waiting", 0.0), ("lingering_bytes", 0.0)] {
        let line = format!(r#"reseat_{gauge}{{plugin="counter"}}"#);
        assert_eq!(value(&text, &line), Some(expected), "{gauge}: {text}");
    }

    let put = |build: &str| {
        let unfinished = dir.path().join("new.so");
        fs::write(&unfinished, Build::of(build).bytes()).expect("it can be written");
        fs::rename(unfinished, &file).expect("one file system");
    };
    put("counter_v2");
    let reloads = r#"reseat_reloads_total{plugin="counter"}"#;
    assert!(until(DEADLINE, || value(&metrics(), reloads) == Some(1.0)), "{}", metrics());
    put("counter_v1");
    let refusals = r#"reseat_refusals_total{plugin="counter",step="vet",reason="state-version"}"#;
    assert!(until(DEADLINE, || value(&metrics(), refusals) == Some(1.0)), "{}", metrics());
    let text = metrics();
    let state = r#"reseat_state_bytes{plugin="counter"}"#;
    assert!(value(&text, state).is_some_and(|bytes| bytes > 0.0), "it was handed over: {text}");
    for step in ["settle", "stage", "vet", "probe", "open", "drain", "save", "restore", "check", "publish"] {
        let counted = format!(r#"reseat_reload_step_seconds_count{{plugin="counter",step="{step}"}}"#);
        assert!(value(&text, &counted).is_some_and(|count| count >= 1.0), "{step}: {text}");
    }
    assert_eq!(value(&text, r#"reseat_gate_closed_seconds_count{plugin="counter"}"#), Some(1.0));
    assert_eq!(value(&text, &calls(1)), None, "it serves no more");
    assert!(text.ends_with("# EOF\n"));
}
