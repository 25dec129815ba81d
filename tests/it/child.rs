use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::waiting::until;

/// In a child process this names the test that it is there for.
const CHILD: &str = "RESEAT_CHILD";
/// How long a child may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Printed by a child whose test has ended well. What stands behind `in_child` is for the parent alone.
const DONE: &str = "the child is done";

/// Runs `test` in a process of its own: this program again, with nothing but the test `name`, which is the path of
/// the calling test.
///
/// For what can end the process, leaks, or counts what the whole process has.
pub fn in_child(name: &str, test: impl FnOnce()) {
    in_child_with(name, &[], test);
}

/// The same, with additions to the environment.
#[track_caller]
pub fn in_child_with(name: &str, environment: &[(&str, &str)], test: impl FnOnce()) {
    in_child_within(LIMIT, name, environment, test);
}

/// The same, for what takes longer than tests do.
#[track_caller]
pub fn in_child_within(limit: Duration, name: &str, environment: &[(&str, &str)], test: impl FnOnce()) {
    let Ended { status, out, err } = run_in_child(limit, name, environment, test);
    let passed = status.is_some_and(|status| status.success()) && out.contains(DONE);
    assert!(passed, "the child for {name}: {}\n{out}\n{err}", said(status));
}

/// Runs `test`, which kills its process by this signal.
#[track_caller]
pub fn killed_in_child(name: &str, signal: i32, test: impl FnOnce()) {
    let Ended { status, out, err } = run_in_child(LIMIT, name, &[], test);
    let killed = status.and_then(|status| status.signal()) == Some(signal);
    assert!(killed, "the child for {name}: {}\n{out}\n{err}", said(status));
}

/// How a child ended.
struct Ended {
    /// `None`: it had to be killed.
    status: Option<ExitStatus>,
    out: String,
    err: String,
}

fn said(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "did not end in time".to_owned(), |status| status.to_string())
}

fn run_in_child(limit: Duration, name: &str, environment: &[(&str, &str)], test: impl FnOnce()) -> Ended {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        test();
        println!("{DONE}");
        std::process::exit(0);
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let mut status = None;
    let ended = until(limit, || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ended { status, out: out.join().expect("reads"), err: err.join().expect("reads") }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What has come before an error is still worth showing.
        let _ = stream.expect("piped").read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
