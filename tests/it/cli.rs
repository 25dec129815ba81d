use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use reseat_tests::fault::{Kind, Point, Process, stamp};
use serde_json::{Value, json};

use crate::library::Build;
use crate::program::{Running, reseat};
use crate::waiting::{DEADLINE, until};
use crate::workshop::Workshop;

pub fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Asks the host that has this state directory.
pub fn ask(state: &Path, args: &[&str]) -> Output {
    reseat().args(args).arg("--state-dir").arg(state).output().expect("the program can be started")
}

pub fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What `check` says of a file that it refuses: one sentence with the file's name in it, and exit code 1.
fn refused(args: &[&str]) -> String {
    let canary = tempfile::tempdir().expect("a temporary directory can be made");
    let sign = canary.path().join("ran");
    let output = reseat()
        .arg("check")
        .args(args)
        .env("RESEAT_CANARY", &sign)
        .output()
        .expect("the program can be started");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert!(
        said.contains(Path::new(args[0]).file_name().expect("it has a name").to_str().expect("text")),
        "{said}"
    );
    assert!(!sign.exists(), "{args:?}: code of the file has run");
    said
}

#[test]
fn check_says_of_each_kind_of_file_what_it_is_and_runs_none_of_its_code() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("it can be written");
        path
    };
    // One that is good, and whose constructor would leave a sign.
    let good = Build::of("canary_constructor");
    let good_file = file("libgood.so", good.bytes());
    let sign = dir.path().join("ran");
    let output =
        reseat().arg("check").arg(&good_file).env("RESEAT_CANARY", &sign).output().expect("it starts");
    let said = ok(&output);
    assert!(said.starts_with("plugin "), "{said}");
    assert!(!sign.exists(), "code of the file has run");

    let half = good.bytes().len() / 2;
    let truncated = file("libcut.so", &good.bytes()[..half]);
    assert!(refused(&[path(&truncated)]).contains("cut short"));
    let said = refused(&[path(&file("libtext.so", b"#!/bin/sh\necho hello\n"))]);
    assert!(said.contains("not a shared library"), "{said}");
    assert!(refused(&[path(&file("libempty.so", b""))]).contains("is empty"));
    assert!(refused(&[path(dir.path())]).contains("directory"));
    let fifo = dir.path().join("libfifo.so");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
    assert!(refused(&[path(&fifo)]).contains("FIFO"));
    let said = refused(&[path(&c_library(dir.path()))]);
    assert!(said.contains("no reseat manifest"), "{said}");
    let foreign =
        good.clone().changed(|bytes| bytes[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 });
    let said = refused(&[path(&file("libforeign.so", foreign.bytes()))]);
    assert!(said.contains("aarch64") && said.contains("x86_64"), "{said}");

    let old = file("libold.so", Build::of("echo_v1").bytes());
    let changed = file("libchanged.so", Build::of("echo_changed_layout").bytes());
    let said = refused(&[path(&changed), "--against", path(&old)]);
    assert!(said.contains("differs") && said.contains("host:") && said.contains("plugin:"), "{said}");
    let appended = file("libappended.so", Build::of("echo_appended").bytes());
    for (new, old) in [(&appended, &old), (&old, &appended)] {
        let output = reseat().args(["check", path(new), "--against", path(old)]).output().expect("it starts");
        assert!(ok(&output).contains("fits"), "{}", text(&output.stdout));
    }
}

fn c_library(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("plain.c"), dir.join("libplain.so"));
    fs::write(&source, "int answer(void) { return 42; }\n").expect("it can be written");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(status.expect("Rust needs a C compiler to link, so there is one").success());
    library
}

#[test]
fn a_running_host_is_asked_steered_and_stopped_by_the_command() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    fs::create_dir(&plugins).expect("it can be written");
    let build = Build::of("echo_v1");
    fs::write(plugins.join(build.file_name()), build.bytes()).expect("it can be written");
    let running = Running::start(&plugins, &state, None);

    let socket = fs::metadata(state.join("control.sock")).expect("there is a socket");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&socket) & 0o777, 0o600);
    let listing = ok(&ask(&state, &["ps"]));
    assert!(listing.contains("echo") && listing.contains("serving"), "{listing}");
    let status: Value = serde_json::from_str(&ok(&ask(&state, &["ps", "--json"]))).expect("it is JSON");
    assert_eq!(status["plugins"][0]["generation"], 1);

    let answer = ok(&ask(&state, &["call", "echo", "say", r#"{"text":"hi"}"#]));
    assert!(answer.contains("hi"), "{answer}");
    let output = ask(&state, &["call", "echo", "say", r#"{"txet":"hi"}"#]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`txet`"), "{}", text(&output.stderr));
    let output = ask(&state, &["call", "ecko", "say"]);
    assert!(
        text(&output.stderr).contains("no plugin is called `ecko`; there is: echo"),
        "{}",
        text(&output.stderr)
    );

    assert!(ok(&ask(&state, &["reload", "echo"])).contains("generation 2 of echo serves"));
    let events = ok(&ask(&state, &["events", "--json"]));
    let kinds: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON")["event"].clone())
        .collect();
    assert!(kinds.contains(&json!("loaded")) && kinds.contains(&json!("reloaded")), "{events}");

    let changed = dir.path().join("libchanged.so");
    fs::write(&changed, Build::of("echo_changed_layout").bytes()).expect("it can be written");
    let output = ask(&state, &["check", path(&changed), "--live", "echo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does not fit interface"), "{}", text(&output.stderr));

    // A second host in the same directory would take the first one's clients.
    let second = reseat().arg("run").arg(&plugins).arg("--no-http").arg("--state-dir").arg(&state).output();
    let second = second.expect("the program can be started");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("already runs"), "{}", text(&second.stderr));

    ok(&ask(&state, &["unload", "echo"]));
    let output = ask(&state, &["call", "echo", "say", r#"{"text":"hi"}"#]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not loaded"), "{}", text(&output.stderr));
    assert!(running.interrupt().success());
    assert!(!state.join("control.sock").exists(), "the socket is removed");
    assert_eq!(ask(&state, &["ps"]).status.code(), Some(3));
}

#[test]
fn a_bad_build_is_refused_denied_allowed_gone_back_from_and_tried_by_the_command() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    fs::create_dir(&plugins).expect("it can be written");
    let put = |file: &Path, number: u32| {
        let shelved = dir.path().join("shelved");
        fs::write(&shelved, Build::of("faulty").stamped(number).bytes()).expect("it can be written");
        fs::rename(&shelved, file).expect("one file system");
    };
    let (served, elsewhere) = (plugins.join("libcounter.so"), dir.path().join("elsewhere.so"));
    put(&served, 1);
    let mut command = reseat();
    command.arg("run").arg(&plugins).arg("--state-dir").arg(&state);
    let running = Running::spawn({
        command.args(["--http", "127.0.0.1:0", "--no-watch"]);
        command
    });
    let build = || ok(&ask(&state, &["call", "counter", "build"])).trim().to_owned();
    let no = |args: &[&str]| {
        let output = ask(&state, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        text(&output.stderr)
    };
    assert_eq!((build().as_str(), ok(&ask(&state, &["deny"])).trim()), ("1", "no build is denied"));
    ok(&ask(&state, &["call", "counter", "add", r#"{"n":5}"#]));

    // Nothing is loaded that nobody has asked for.
    put(&served, 2);
    let said = ok(&ask(&state, &["reload", "counter", "--dry-run"]));
    assert!(said.contains("version 0.1.0 of counter would be accepted"), "{said}");
    assert_eq!(build(), "1");
    ok(&ask(&state, &["reload", "counter"]));
    assert_eq!(build(), "2");

    put(&elsewhere, stamp(Point::Restore, Kind::Fault, Process::Any));
    let said = no(&["reload", "counter", "--file", path(&elsewhere)]);
    assert!(said.contains("in a helper process, restore died of SIGSEGV"), "{said}");
    let denied = ok(&ask(&state, &["deny"]));
    assert!(denied.contains(" counter 0.1.0 is denied: in a helper process, restore died"), "{denied}");
    let hash = denied.split(' ').next().expect("a line begins with the hash");
    let said = ok(&ask(&state, &["deny", "--clear", hash]));
    assert!(said.contains("is allowed again"), "{said}");
    assert!(no(&["deny", "--clear", "0000"]).contains("no denied build has a hash that begins like this"));

    let said = ok(&ask(&state, &["rollback", "counter"]));
    assert!(said.contains("the build before, after generation 2"), "{said}");
    assert_eq!((build().as_str(), ok(&ask(&state, &["call", "counter", "get"])).trim()), ("1", "5"));
    assert!(no(&["rollback", "counter"]).contains("there is no build to go back to"));
    assert!(no(&["cancel", "counter"]).contains("no reload of counter is under way"));
    assert!(ok(&ask(&state, &["deny", "--json"])).contains("it was sent back: it was asked for"));
    assert!(running.interrupt().success());
}

#[test]
fn http_answers_with_the_kind_of_every_failure_and_refuses_strangers() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).expect("it can be written");
    for fixture in ["echo_v1", "panics_in_call"] {
        let build = Build::of(fixture).in_slot(fixture);
        fs::write(plugins.join(build.file_name()), build.bytes()).expect("it can be written");
    }
    let running = Running::start(&plugins, &dir.path().join("state"), None);
    assert!(running.post("/call/echo/say", &json!({ "text": "hi" })).is_ok());
    for (path, body, status) in [
        ("/call/nobody/say", json!({}), "404"),
        ("/call/echo/shout", json!({}), "404"),
        ("/call/echo/say", json!({ "text": 3 }), "400"),
        ("/call/echo/say", json!([]), "400"),
    ] {
        let failure = running.post(path, &body).expect_err("it is refused");
        assert!(failure.starts_with(status) && failure.contains("\"error\""), "{path}: {failure}");
    }
    let plugins = running.get("/plugins", &[]).expect("it answers");
    assert!(plugins.contains("\"echo\""), "{plugins}");
    for (name, value) in [("Host", "rebound.example.org"), ("Origin", "https://example.org")] {
        let failure = running.get("/plugins", &[(name, value)]).expect_err("strangers are refused");
        assert!(failure.starts_with("403") || failure.starts_with("421"), "{name}: {failure}");
    }
}

#[test]
fn dev_builds_serves_follows_an_edit_shows_an_error_and_recovers() {
    let workshop = Workshop::open("followed");
    // Nothing flows back, so that levels can be compared.
    workshop.set("REFILL_PER_SECOND", "1e-9");
    let state = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = reseat();
    command.arg("dev").arg(workshop.plugin()).args(["--http", "127.0.0.1:0"]);
    command.arg("--state-dir").arg(state.path().join("state")).env("CARGO_NET_OFFLINE", "true");
    command.env("CARGO_BUILD_BUILD_DIR", crate::workshop::build_dir());
    let running = Running::spawn(command);
    let level = |key: &str| running.tokens_left(key);
    assert!(running.output().contains("call it: "), "{}", running.output());
    assert_eq!(level("fresh"), Some(10));
    running.post("/call/limiter/check", &json!({ "key": "alice", "cost": 7 })).expect("it answers");

    workshop.set("BURST", "20");
    assert!(until(DEADLINE * 6, || level("fresh") == Some(20)), "{}", running.output());
    assert_eq!(level("alice"), Some(3), "the bucket keeps its tokens");

    workshop.set("BURST", "twenty");
    assert!(
        until(DEADLINE * 6, || running.output().contains("serves on; waiting for an edit")),
        "{}",
        running.output()
    );
    assert!(
        running.output().contains("cannot find value `twenty`"),
        "cargo's own words: {}",
        running.output()
    );
    assert_eq!(level("fresh"), Some(20));

    workshop.set("BURST", "30");
    assert!(until(DEADLINE * 6, || level("fresh") == Some(30)), "{}", running.output());
    assert!(running.interrupt().success());
}
