//! The command by itself, without a host: exit codes and what it says.

use std::process::{Command, Output};

fn reseat(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reseat")).args(args).output().expect("the program can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_command_that_does_not_exist_is_a_usage_error() {
    let output = reseat(&["fly"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("unrecognized subcommand 'fly'"), "{}", said(&output));
}

#[test]
fn without_a_host_the_exit_code_is_3_and_the_next_step_is_named() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    for command in [&["ps"][..], &["call", "limiter", "check"], &["reload", "limiter"], &["events"]] {
        let output = reseat(&[command, &["--state-dir", state]].concat());
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains("no host answers at"), "{}", said(&output));
        assert!(said(&output).contains("run DIR"), "{}", said(&output));
    }
}

#[test]
fn a_file_that_is_not_there_is_refused_by_name() {
    let output = reseat(&["check", "no/such/libx.so"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no/such/libx.so"), "{}", said(&output));
}

#[test]
fn a_crate_that_makes_no_plugin_is_refused_before_anything_is_built() {
    let output = reseat(&["dev", concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-api/macros")]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("crate-type = [\"cdylib\"]"), "{}", said(&output));
}

#[test]
fn settings_that_are_not_understood_keep_a_host_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("reseat.toml");
    std::fs::write(&file, "drain_dedline_ms = 3\n").unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let output = reseat(&[
        "run",
        &text(dir.path()),
        "--config",
        &text(&file),
        "--state-dir",
        &text(&dir.path().join("state")),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("unknown key `drain_dedline_ms`") && said.contains("drain_deadline_ms"), "{said}");
}
