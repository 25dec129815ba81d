use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{ask, ok, path, text};
use crate::library::Build;
use crate::program::{Running, reseat};

/// A counter that `reseat run` serves, which is at 5.
struct Served {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl Served {
    fn begin() -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("it can be written");
        fs::write(plugins.join("libcounter.so"), Build::of("counter_v2").bytes()).expect("it can be written");
        let mut served = Served { dir, running: None };
        served.start(&[]);
        served.ok(&["call", "counter", "add", r#"{"n":5}"#]);
        served
    }

    fn start(&mut self, more: &[&str]) {
        let mut command = reseat();
        command.arg("run").arg(self.dir.path().join("plugins")).arg("--state-dir").arg(self.state());
        command.args(["--http", "127.0.0.1:0"]).args(more);
        self.running = Some(Running::spawn(command));
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ok(&self, args: &[&str]) -> String {
        ok(&ask(&self.state(), args)).trim().to_owned()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = ask(&self.state(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        text(&output.stderr)
    }

    fn total(&self) -> String {
        self.ok(&["call", "counter", "get"])
    }

    fn history(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["state", "counter", "--history", "--json"])).expect("it is JSON")
    }
}

fn read(path: &Path) -> plugin_api::Saved {
    plugin_api::Saved::from_frame(&fs::read(path).expect("it is there")).expect("it is whole")
}

#[test]
fn a_state_is_shown_written_to_a_file_and_put_back() {
    let served = Served::begin();
    let shown: Value = serde_json::from_str(&served.ok(&["state", "counter"])).expect("it is JSON");
    assert_eq!(shown, json!({ "total": 5 }));
    let before = served.file("before.state");
    let said = served.ok(&["state", "counter", "--save", path(&before)]);
    assert!(said.ends_with(&format!("bytes of state are in {}", before.display())), "{said}");
    assert_eq!(read(&before).to_json().expect("it can be shown"), shown);

    served.ok(&["call", "counter", "add", r#"{"n":9}"#]);
    let said = served.ok(&["state", "counter", "--load", path(&before)]);
    assert!(said.contains("generation 2 of counter serves, with the state in"), "{said}");
    assert_eq!(served.total(), "5");

    let damaged = served.file("damaged.state");
    let mut bytes = fs::read(&before).expect("it is there");
    bytes[15] ^= 1;
    fs::write(&damaged, bytes).expect("it can be written");
    let said = served.refused(&["state", "counter", "--load", path(&damaged)]);
    assert!(said.contains("saved state is damaged: checksum"), "{said}");
    let said = served.refused(&["state", "counter", "--load", path(&served.file("none"))]);
    assert!(said.contains("none cannot be read: No such file"), "{said}");
    let said = served.refused(&["state", "counter", "--save", "/proc/none/state"]);
    assert!(said.contains("/proc/none/state cannot be written"), "{said}");
    assert_eq!(served.total(), "5");
    assert!(served.refused(&["state", "none"]).contains("no plugin is called `none`: loaded are counter"));
    let output = ask(&served.state(), &["state", "counter", "--keep", "--history"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_is_kept_is_listed_and_survives_a_kill() {
    let mut served = Served::begin();
    assert!(served.ok(&["state", "counter", "--keep"]).ends_with("bytes of state are kept"));
    let history = served.history();
    let kept = history[0]["state"]["path"].as_str().expect("it is on disk");
    assert_eq!(read(Path::new(kept)).to_json().expect("it can be shown"), json!({ "total": 5 }));
    let said = served.ok(&["state", "counter", "--history"]);
    assert!(said.starts_with("serves: build 0.1.0 ") && said.contains("state version 2, "), "{said}");
    assert_eq!(served.ok(&["state", "none", "--history"]), "nothing is kept of none");

    served.ok(&["call", "counter", "add", r#"{"n":1}"#]);
    // Dropped, it is killed.
    served.running = None;
    served.start(&[]);
    assert_eq!(served.total(), "5");
    assert!(served.ok(&["events"]).contains("of state that were kept"), "{}", served.ok(&["events"]));
    // Interrupted, it keeps what is.
    served.ok(&["call", "counter", "add", r#"{"n":2}"#]);
    assert!(served.running.take().expect("it runs").interrupt().success());
    served.start(&[]);
    assert_eq!(served.total(), "7");
    served.running = None;
    served.start(&["--fresh"]);
    assert_eq!(served.total(), "0");
}
