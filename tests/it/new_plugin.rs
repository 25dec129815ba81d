use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::cli::{ask, ok, text};
use crate::program::{Running, reseat};
use crate::workshop::{cargo, project};

/// A crate that `reseat new` has written.
struct New {
    dir: tempfile::TempDir,
    name: &'static str,
}

impl New {
    /// Each has a name of its own: cargo tells packages in a shared build directory apart by their path within the
    /// workspace.
    fn write(name: &'static str, args: &[&str]) -> New {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let new = New { dir, name };
        let said = ok(&new.again(args));
        assert!(said.contains(&format!("cd {name} && cargo test && cargo build")), "{said}");
        // The versions that this project was tested with, so that nothing has to be looked up.
        fs::copy(project().join("Cargo.lock"), new.home().join("Cargo.lock")).expect("there is a lock file");
        new
    }

    fn again(&self, args: &[&str]) -> Output {
        let mut command = reseat();
        command.args(["new", self.name]).args(args).current_dir(self.dir.path());
        command.output().expect("the program can be started")
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join(self.name)
    }

    fn cargo(&self, args: &[&str]) -> String {
        let output = cargo().arg("--offline").args(args).current_dir(self.home()).output();
        let output = output.expect("cargo can be started");
        ok(&output) + &text(&output.stderr)
    }

    /// Passes its tests, and builds without a warning; also one of clippy, where that is installed.
    fn build(&self, tests: usize) {
        let tested = self.cargo(&["test"]);
        assert!(tested.contains(&format!("{tests} passed")), "{tested}");
        let built = self.cargo(&["build"]);
        assert!(!(tested + &built).contains("warning"), "{built}");
        if cargo().args(["clippy", "--version"]).output().is_ok_and(|output| output.status.success()) {
            self.cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]);
        }
    }

    /// Serves it, and answers what a call gives.
    fn call(&self, method: &str, arguments: &str) -> String {
        let state = self.dir.path().join("state");
        let running = Running::start(&self.home().join("target/debug"), &state, None);
        let answer = ok(&ask(&state, &["call", self.name, method, arguments])).trim().to_owned();
        assert!(running.interrupt().success());
        answer
    }
}

#[test]
fn a_new_plugin_builds_passes_its_tests_and_serves() {
    let new = New::write("greeter", &[]);
    let again = new.again(&[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("not empty"), "{}", text(&again.stderr));
    new.build(2);
    assert_eq!(new.call("greet", r#"{"name":"alice"}"#), "\"Hello, alice!\"");
}

#[test]
fn so_does_one_without_a_state() {
    let new = New::write("shouter", &["--template", "stateless"]);
    new.build(1);
    assert_eq!(new.call("shout", r#"{"text":"hello"}"#), "\"HELLO!\"");
}

#[test]
fn so_does_one_with_a_crate_for_its_interface_on_which_hosts_can_depend() {
    let new = New::write("well-wisher", &["--template", "own-interface"]);
    new.build(1);
    assert_eq!(new.call("greet", r#"{"name":"alice"}"#), r#"{"text":"Hello, alice!","times":1}"#);
    let readme = fs::read_to_string(new.home().join("README.md")).expect("there is one");
    for path in readme.split('"').filter(|quoted| Path::new(quoted).is_absolute()) {
        assert!(Path::new(path).join("Cargo.toml").exists(), "{path}: {readme}");
    }
}
