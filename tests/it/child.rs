use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::waiting::until;

/// In a child process this names the test that it is there for.
const CHILD: &str = "RESEAT_CHILD";
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
    let ended = until(Duration::from_secs(120), || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, err) = (out.join().expect("reads"), err.join().expect("reads"));
    let passed = status.is_some_and(|status| status.success()) && out.contains(DONE);
    let status = status.map_or_else(|| "did not end in time".to_owned(), |status| status.to_string());
    assert!(passed, "the child for {name}: {status}\n{out}\n{err}");
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What has come before an error is still worth showing.
        let _ = stream.expect("piped").read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
