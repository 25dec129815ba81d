use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::cli::{ask, ok};
use crate::library::Build;
use crate::program::{Running, reseat};
use crate::scene::put;
use crate::waiting::{DEADLINE, until};

/// A directory with a counter, and a socket of a service manager.
struct Unit {
    dir: tempfile::TempDir,
    manager: UnixDatagram,
}

impl Unit {
    fn begin() -> Unit {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(dir.path().join("plugins")).expect("it can be written");
        let manager = UnixDatagram::bind(dir.path().join("notify")).expect("it can be written");
        manager.set_read_timeout(Some(DEADLINE)).expect("not zero");
        let unit = Unit { dir, manager };
        unit.put("counter_v2", 0);
        unit
    }

    fn put(&self, fixture: &str, stamp: u32) {
        let build = Build::of(fixture);
        let build = if stamp == 0 { build } else { build.stamped(stamp) };
        let shelved = self.dir.path().join("shelved");
        put(&shelved, &build);
        fs::rename(shelved, self.dir.path().join("plugins").join(build.file_name()))
            .expect("one file system");
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self) -> Command {
        self.wrapped(reseat())
    }

    fn wrapped(&self, mut command: Command) -> Command {
        command.arg("run").arg(self.dir.path().join("plugins")).arg("--state-dir").arg(self.state());
        command.args(["--http", "127.0.0.1:0"]).env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command
    }

    /// The next that the manager is told.
    #[track_caller]
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.manager.recv(&mut bytes).expect("it is told in time");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    fn ok(&self, args: &[&str]) -> String {
        ok(&ask(&self.state(), args)).trim().to_owned()
    }
}

#[test]
fn a_service_manager_is_told_when_the_host_answers_and_when_it_stops() {
    let unit = Unit::begin();
    let running = Running::spawn(unit.command());
    assert!(unit.told().starts_with("READY=1\n"));
    unit.ok(&["call", "counter", "add", r#"{"n":5}"#]);
    running.signal(libc::SIGTERM);
    assert!(unit.told().starts_with("STOPPING=1\n"));
    assert!(running.end().success());
    // What was asked to end has kept what it had.
    let running = Running::spawn(unit.command());
    assert_eq!(unit.ok(&["call", "counter", "get"]), "5");
    assert!(running.interrupt().success());
}

#[test]
fn a_hangup_makes_a_host_that_does_not_follow_load_what_is_new_or_has_changed() {
    let unit = Unit::begin();
    let mut command = unit.command();
    command.arg("--no-watch");
    let running = Running::spawn(command);
    unit.told();
    unit.put("counter_stamped", 7);
    unit.put("echo_v1", 0);
    fs::write(unit.dir.path().join("plugins/libnone.so"), "no plugin").expect("it can be written");
    assert!(!unit.ok(&["ps"]).contains("echo"));

    running.signal(libc::SIGHUP);
    let said = unit.told();
    let since: u64 =
        said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both").parse().expect("a number");
    assert!(since > 0);
    assert!(unit.told().starts_with("READY=1\n"));
    let listing = unit.ok(&["ps"]);
    assert!(listing.contains("echo"), "{listing}");
    assert_eq!(unit.ok(&["call", "counter", "build"]), "7");

    // Once more, and nothing has changed.
    running.signal(libc::SIGHUP);
    assert!(unit.told().starts_with("RELOADING=1\n") && unit.told().starts_with("READY=1\n"));
    assert_eq!(unit.ok(&["ps"]), listing);
    assert!(running.interrupt().success());
}

#[test]
fn a_second_signal_hurries_a_host_that_waits_for_calls() {
    let unit = Unit::begin();
    unit.put("blocker", 0);
    let running = Running::spawn(unit.command());
    unit.told();
    let gate = unit.dir.path().join("go");
    let mut held = reseat();
    held.args(["call", "blocker", "hold", &serde_json::json!({ "until": gate }).to_string()]);
    held.arg("--state-dir").arg(unit.state()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut held = held.spawn().expect("the program can be started");
    assert!(until(DEADLINE, || unit.dir.path().join("go.in").exists()), "{}", running.output());
    running.signal(libc::SIGTERM);
    assert!(unit.told().starts_with("STOPPING=1\n"));
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().code(), Some(130));
    assert!(!unit.state().join("http.token").exists(), "it is removed even so");
    held.wait().expect("it is our child");
}

/// The processes that this one has to wait for.
fn children(of: i32) -> Vec<i32> {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let names = fs::read_dir("/proc").expect("/proc is mounted").flatten().map(|entry| entry.file_name());
    let pids = names.filter_map(|name| name.to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

#[test]
fn as_process_1_a_host_waits_for_orphans_and_hands_signals_on() {
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    if !apart.arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: there is no `unshare`, or it may not make a namespace");
        return;
    }
    let unit = Unit::begin();
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(crate::program::path());
    let running = Running::spawn(unit.wrapped(apart));
    assert!(unit.told().starts_with("READY=1\n"));
    let [first] = children(running.pid())[..] else { panic!("process 1 is its only child") };
    assert_eq!(children(first).len(), 1, "the host");

    let pipe = unit.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    let mut orphan = Command::new("nsenter");
    orphan.args([
        "--pid",
        "--mount",
        "--target",
        &first.to_string(),
        "sh",
        "-c",
        "cat \"$0\" >/dev/null 2>&1 &",
    ]);
    assert!(orphan.arg(&pipe).status().expect("nsenter comes with unshare").success());
    assert!(until(DEADLINE, || children(first).len() == 2), "{:?}", children(first));
    drop(fs::OpenOptions::new().write(true).open(&pipe).expect("somebody reads"));
    assert!(until(DEADLINE, || children(first).len() == 1), "{:?}", children(first));

    unit.ok(&["call", "counter", "add", r#"{"n":5}"#]);
    // SAFETY: sends a signal to a child of our child, which has not ended.
    assert_eq!(unsafe { libc::kill(first, libc::SIGTERM) }, 0);
    assert!(unit.told().starts_with("STOPPING=1\n"));
    assert!(running.end().success());
}
