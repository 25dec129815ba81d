use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::waiting::{DEADLINE, until};

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

/// A process that is to be killed at a time of somebody's choosing. Dropped, it is.
pub struct Mortal {
    child: Child,
    /// What it prints, line by line.
    pub lines: Receiver<String>,
}

impl Mortal {
    /// Runs `test` in a process of its own, which does not end by itself.
    pub fn begin(name: &str, environment: &[(&str, &str)], test: impl FnOnce()) -> Mortal {
        if is_child(name) {
            test();
            unreachable!("it is to be killed");
        }
        let mut child =
            command(name, environment).stderr(Stdio::inherit()).spawn().expect("it can be started");
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Mortal { child, lines }
    }

    /// The next line with these words, from behind them. The name of the test may stand before them.
    #[track_caller]
    pub fn hear(&self, words: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("it says so in time");
            if let Some((_, rest)) = line.split_once(words) {
                return rest.to_owned();
            }
        }
    }

    /// Kills it with SIGKILL, and gives what it has said last.
    pub fn kill(mut self) -> Vec<String> {
        self.end();
        self.lines.iter().collect()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait().expect("it is our child");
        assert!(
            std::thread::panicking() || status.signal() == Some(libc::SIGKILL),
            "it had ended before: {status}"
        );
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.end();
        }
    }
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
    if is_child(name) {
        test();
        println!("{DONE}");
        std::process::exit(0);
    }
    let mut child =
        command(name, environment).stderr(Stdio::piped()).spawn().expect("this program can be started");
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

fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

fn command(name: &str, environment: &[(&str, &str)]) -> Command {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, name).envs(environment.iter().copied()).stdout(Stdio::piped());
    command
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What has come before an error is still worth showing.
        let _ = stream.expect("piped").read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
