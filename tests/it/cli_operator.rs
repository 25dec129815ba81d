use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{ask, ok, path, text};
use crate::library::Build;
use crate::program::{Running, reseat};
use crate::waiting::{DEADLINE, until};

/// A host, and where its things are.
struct Served {
    dir: tempfile::TempDir,
    running: Running,
}

impl Served {
    fn begin(fixtures: &[&str], settings: &str) -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (plugins, config) = (dir.path().join("plugins"), dir.path().join("reseat.toml"));
        fs::create_dir(&plugins).expect("it can be written");
        fs::write(&config, settings).expect("it can be written");
        for fixture in fixtures {
            let build = Build::of(fixture).in_slot(fixture);
            fs::write(plugins.join(build.file_name()), build.bytes()).expect("it can be written");
        }
        let running = Running::start(&plugins, &dir.path().join("state"), Some(&config));
        Served { dir, running }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn ok(&self, args: &[&str]) -> String {
        ok(&ask(&self.state(), args))
    }
}

/// What `config --check` says of a text: its exit code and its words.
fn checked(dir: &Path, settings: &str) -> (Option<i32>, String) {
    let file = dir.join("some.toml");
    fs::write(&file, settings).expect("it can be written");
    let output = reseat().args(["config", "--check", path(&file)]).output().expect("it starts");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn the_settings_that_are_printed_are_understood_and_a_mistyped_one_is_refused_with_what_was_meant() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let printed = ok(&reseat().args(["config", "--print-default"]).output().expect("it starts"));
    assert!(printed.contains("\ndrain_deadline_ms = 5000\n"), "{printed}");
    let (code, said) = checked(dir.path(), &printed);
    assert!(code == Some(0) && said.ends_with("some.toml is understood\n"), "{said}");

    let (code, said) = checked(dir.path(), "drain_deadline = 1\n[plugins.limiter]\nprob = true\n");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("unknown key `drain_deadline`: did you mean `drain_deadline_ms`?"), "{said}");
    assert!(
        said.contains("line 3: unknown key `prob` of [plugins.limiter]: did you mean `probe`?"),
        "{said}"
    );

    // Without a file, it is the one that a host would read here.
    let here = || reseat().args(["config", "--check"]).current_dir(dir.path()).output().expect("it starts");
    assert_eq!(here().status.code(), Some(1));
    fs::write(dir.path().join("reseat.toml"), printed).expect("it can be written");
    assert_eq!(ok(&here()), "reseat.toml is understood\n");
    assert_eq!(reseat().arg("config").output().expect("it starts").status.code(), Some(2));
}

#[test]
fn events_have_their_local_time_and_can_be_asked_for_by_plugin_and_age() {
    let served = Served::begin(&["echo_v1", "counter_v1"], "");
    let both = served.ok(&["events"]);
    assert!(both.contains(" of echo serves") && both.contains(" of counter serves"), "{both}");
    let json = served.ok(&["events", "--json"]);
    for (line, json) in both.lines().zip(json.lines()) {
        let json: Value = serde_json::from_str(json).expect("each line is JSON");
        let at = json["at_ms"].as_u64().expect("it has a time");
        // Whatever the zone, its minutes are those of some quarter of an hour; its seconds are everywhere the same.
        let seconds = format!("{:02}.{:03}", at / 1000 % 60, at % 1000);
        let (time, _) = line.split_once(" generation ").unwrap_or_else(|| panic!("{line}"));
        assert!(time.ends_with(&seconds), "{line}: {json}");
        assert!(json["text"].is_null(), "{json}");
    }
    let of_echo = served.ok(&["events", "--plugin", "echo", "--since", "10m"]);
    assert!(of_echo.contains(" of echo serves") && !of_echo.contains("counter"), "{of_echo}");
    assert!(until(DEADLINE, || served.ok(&["events", "--since", "0s"]).is_empty()));
    let output = ask(&served.state(), &["events", "--since", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("as in 10m"), "{}", text(&output.stderr));

    let listed = served.ok(&["ps"]);
    let echo = listed.lines().find(|line| line.starts_with("echo")).unwrap_or_else(|| panic!("{listed}"));
    assert!(echo.contains("serving") && echo.contains(" s  "), "its age: {listed}");
    assert!(!listed.contains('\x1b'), "no colour where there is no terminal: {listed}");
}

#[test]
fn a_host_that_ends_with_something_still_in_use_says_so_with_its_exit_code() {
    let served = Served::begin(&["blocker"], "drain_deadline_ms = 100\n");
    let until_then = served.dir.path().join("never");
    let arguments = format!(r#"{{"until":"{}"}}"#, path(&until_then));
    let mut call = reseat();
    call.args(["call", "blocker", "hold", &arguments, "--state-dir"]).arg(served.state());
    let mut call = call.spawn().expect("it starts");
    let is_inside =
        || served.ok(&["ps", "--json"]).contains("serving") && until_then.with_extension("in").exists();
    assert!(until(DEADLINE, is_inside));
    assert_eq!(served.running.interrupt().code(), Some(4));
    // It has lost its host.
    let _ = call.wait();
}

#[test]
fn a_host_that_is_quiet_says_nothing_but_warnings() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    fs::create_dir(&plugins).expect("it can be written");
    for (name, bytes) in [("libecho.so", Build::of("echo_v1").bytes()), ("libbad.so", b"nothing")] {
        fs::write(plugins.join(name), bytes).expect("it can be written");
    }
    let said = dir.path().join("said");
    let file = fs::File::create(&said).expect("it can be written");
    let mut quiet = reseat();
    quiet.arg("run").arg(&plugins).args(["-q", "--no-http", "--state-dir"]).arg(&state);
    quiet.stdout(file.try_clone().expect("it can be shared")).stderr(file);
    let mut quiet = quiet.spawn().expect("it starts");
    let serves = || ask(&state, &["call", "echo", "say", r#"{"text":"hi"}"#]).status.success();
    assert!(until(DEADLINE, serves));
    quiet.kill().expect("it runs");
    quiet.wait().expect("it ends");
    let said = fs::read_to_string(&said).expect("it is text");
    assert!(said.lines().all(|line| line.contains("WARN")), "{said}");
    assert!(!said.contains("serves"), "{said}");
}

#[test]
fn a_shell_and_man_are_told_of_every_command() {
    for (args, words) in [
        (["completions", "bash"], "reload"),
        (["completions", "zsh"], "rollback"),
        (["completions", "fish"], "events"),
        (["man", "events"], "follow"),
    ] {
        let printed = ok(&reseat().args(args).output().expect("it starts"));
        assert!(printed.contains(words), "{args:?}: {printed}");
    }
    assert!(ok(&reseat().arg("man").output().expect("it starts")).starts_with(".ie"));
}

#[test]
fn without_a_terminal_nothing_is_drawn_and_the_other_commands_are_named() {
    let output = reseat().arg("top").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("draws on a terminal") && said.contains("`events --follow`"), "{said}");
    assert!(output.stdout.is_empty());
}
