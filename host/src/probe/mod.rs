//! A dress rehearsal in a helper process: what a build does when it is opened, created, restored, saved and closed is
//! seen there before it may do so here.
//!
//! The helper is any program that calls [`serve`]; `reseat probe` is one. The host writes one request for it (a line of
//! JSON, then the state) into an anonymous file that becomes its standard input; it writes one line of JSON for each
//! step that it comes to into another. Neither side ever waits for the other to read, and what a dead helper has said
//! last is still there.

mod helper;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

pub use helper::serve;

use crate::events::Step;
use crate::ffi::Exhibit;

/// How builds are tried before they are opened in this process.
///
/// # What is not promised
/// The helper is a process with this one's rights, and a limit on its memory; it is no sandbox. A plugin that binds a
/// port, takes a lock or sends mail when it is created does so in the helper, too: it can ask
/// [`Services::is_probe`](plugin_api::Services::is_probe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The program, which calls [`serve`].
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How long all of it may take, besides a second for each 64 MiB of state.
    pub deadline: Duration,
    /// How much memory it may take, in bytes of address space, besides three times the size of the state and twice that of
    /// its regions.
    pub memory: u64,
}

impl Probe {
    /// A helper program, called with these arguments; 2 s, and 1 GiB.
    pub fn with(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Probe {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            deadline: Duration::from_secs(2),
            memory: 1 << 30,
        }
    }
}

/// What the helper is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    library: PathBuf,
    plugin: String,
    manifest_hash: u64,
    config: String,
    /// Bytes of state behind this line; `None`: it starts empty.
    state: Option<u64>,
    /// What the plugin has of regions.
    regions: Vec<Exhibit>,
    /// How much memory it may take.
    memory: u64,
    /// How much processor time.
    seconds: u64,
    /// Whose helper it is.
    parent: u32,
}

/// What the helper says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    /// It comes to this step.
    At(Step),
    /// The step before refuses the build.
    Refused(String),
    /// All went well.
    Done,
}

/// A build on trial.
pub(crate) struct Candidate<'a> {
    pub(crate) library: &'a Path,
    pub(crate) plugin: &'a str,
    pub(crate) manifest_hash: u64,
    pub(crate) config: &'a str,
    pub(crate) state: Option<&'a [u8]>,
    pub(crate) regions: &'a [Exhibit],
}

/// How a probe ended, other than well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The build is to blame.
    #[error("{0}")]
    Build(ProbeFailure),
    /// It could not be tried.
    #[error("the helper {} cannot be used: {source}", program.display())]
    Helper { program: PathBuf, source: io::Error },
    /// Somebody wanted no more of it.
    #[error("cancelled")]
    Cancelled,
}

/// What a build has done in the helper process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("in a helper process, {}{}", how(.step, .end), quoted(.said))]
pub struct ProbeFailure {
    /// The last step that it came to.
    pub step: Step,
    /// How it ended.
    pub end: ProbeEnd,
    /// What it wrote to its standard error, if anything: the first and the last lines.
    pub said: String,
}

/// How a build has failed in the helper process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeEnd {
    /// It was refused, as it would have been here.
    Refused(String),
    /// It was ended by this signal.
    Signal(i32),
    /// It ended the process, with this exit code.
    Exit(i32),
    /// It was not done at the deadline.
    Deadline(Duration),
}

impl ProbeFailure {
    /// Whether the same bytes would fail again, as far as can be told. What a hook refuses may lie in the
    /// configuration, or in a copy of a state that was in use; what ends a helper from outside, elsewhere.
    pub(crate) fn is_lasting(&self) -> bool {
        const FROM_OUTSIDE: [i32; 5] =
            [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGKILL];
        match self.end {
            ProbeEnd::Refused(_) => self.step <= Step::Open,
            ProbeEnd::Signal(signal) => !FROM_OUTSIDE.contains(&signal),
            ProbeEnd::Exit(_) | ProbeEnd::Deadline(_) => true,
        }
    }
}

fn how(step: &Step, end: &ProbeEnd) -> String {
    let doing = match step {
        Step::Open => "its constructors",
        Step::Create => "create",
        Step::Restore => "restore",
        Step::Check => "self_check",
        Step::Save => "save",
        Step::Retire => "its destructors",
        _ => "the helper",
    };
    match end {
        ProbeEnd::Refused(reason) => reason.clone(),
        ProbeEnd::Signal(signal) => format!("{doing} died of {}", signal_name(*signal)),
        ProbeEnd::Exit(code) => format!("{doing} ended the process with exit code {code}"),
        ProbeEnd::Deadline(limit) => format!("{doing} had not returned after {limit:?}"),
    }
}

fn signal_name(signal: i32) -> String {
    let known = [
        (libc::SIGSEGV, "SIGSEGV (it used memory that is not there)"),
        (libc::SIGBUS, "SIGBUS (it used memory that is not there)"),
        (libc::SIGABRT, "SIGABRT (it called abort)"),
        (libc::SIGILL, "SIGILL (an instruction that this processor does not have)"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGXCPU, "SIGXCPU (it used up its processor time)"),
        (libc::SIGXFSZ, "SIGXFSZ (it wrote too large a file)"),
        (libc::SIGKILL, "SIGKILL (perhaps for the memory it used)"),
    ];
    let name = known.iter().find(|(number, _)| *number == signal);
    name.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

fn quoted(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!("; it said: {}", said.replace('\n', " | ")),
    }
}

impl Probe {
    /// Tries a build. `cancelled` is asked every now and then.
    pub(crate) fn run(&self, candidate: &Candidate<'_>, cancelled: impl Fn() -> bool) -> Result<(), Failed> {
        let unusable = |source| Failed::Helper { program: self.program.clone(), source };
        let (report, said) = (anonymous("report").map_err(unusable)?, anonymous("said").map_err(unusable)?);
        let request = self.request(candidate).map_err(unusable)?;
        let started = Instant::now();
        let mut helper = self.start(request, &report, &said).map_err(unusable)?;
        let limit = self.limit(candidate);
        let status = helper.wait(limit, cancelled);
        let (last, reports) = reports(report).map_err(unusable)?;
        let said = excerpt(said).unwrap_or_default();
        let failed = |end| Err(Failed::Build(ProbeFailure { step: last, end, said: said.clone() }));
        match (reports.last(), status.map_err(unusable)?) {
            // What it does afterwards, on its way out, is of no interest.
            (Some(Report::Done), _) => {
                tracing::debug!("probe of {}: {:.1?}", candidate.plugin, started.elapsed());
                Ok(())
            }
            (Some(Report::Refused(reason)), _) => failed(ProbeEnd::Refused(reason.clone())),
            (_, Waited::Cancelled) => Err(Failed::Cancelled),
            (None, Waited::TooLong) => {
                Err(unusable(io::Error::other(format!("it has said nothing within {limit:?}"))))
            }
            (_, Waited::TooLong) => failed(ProbeEnd::Deadline(limit)),
            // It never got to the build.
            (None, Waited::Ended(status)) => {
                Err(unusable(io::Error::other(format!("it ended at once: {status}{}", quoted(&said)))))
            }
            (Some(Report::At(_)), Waited::Ended(status)) => failed(match status.signal() {
                Some(signal) => ProbeEnd::Signal(signal),
                None => ProbeEnd::Exit(status.code().unwrap_or(-1)),
            }),
        }
    }

    fn limit(&self, candidate: &Candidate<'_>) -> Duration {
        let bytes = candidate.state.map_or(0, |state| state.len() as u64);
        self.deadline + Duration::from_millis(bytes * 1000 / (64 << 20))
    }

    fn request(&self, candidate: &Candidate<'_>) -> io::Result<File> {
        let size = candidate.state.map(|state| state.len() as u64);
        let regions: u64 = candidate.regions.iter().map(Exhibit::bytes).sum();
        let besides = size.unwrap_or(0).saturating_mul(3).saturating_add(regions.saturating_mul(2));
        let request = Request {
            library: candidate.library.to_owned(),
            plugin: candidate.plugin.to_owned(),
            manifest_hash: candidate.manifest_hash,
            config: candidate.config.to_owned(),
            state: size,
            regions: candidate.regions.to_vec(),
            memory: self.memory.saturating_add(besides),
            // Whatever it does, it does not go on for ever, even if nobody is left to end it.
            seconds: self.limit(candidate).as_secs() + 2,
            parent: std::process::id(),
        };
        let mut file = anonymous("request")?;
        serde_json::to_writer(&mut file, &request)?;
        file.write_all(b"\n")?;
        file.write_all(candidate.state.unwrap_or_default())?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    fn start(&self, request: File, report: &File, said: &File) -> io::Result<Helper> {
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env(plugin_api::PROBE_VARIABLE, "1")
            // What it says is to be read in a sentence.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::from(request))
            .stdout(Stdio::from(report.try_clone()?))
            .stderr(Stdio::from(said.try_clone()?))
            // So that what it has started goes with it.
            .process_group(0)
            .spawn()?;
        Ok(Helper { child, ended: false })
    }
}

/// A running helper. Dropped, it is ended with all it has started, and nothing is left of it.
struct Helper {
    child: Child,
    /// It has been waited for, so its number may be somebody else's.
    ended: bool,
}

enum Waited {
    Ended(ExitStatus),
    TooLong,
    Cancelled,
}

impl Helper {
    fn wait(&mut self, limit: Duration, cancelled: impl Fn() -> bool) -> io::Result<Waited> {
        /// How soon a cancellation is noticed.
        const LOOK: Duration = Duration::from_millis(20);
        let process = Pid::from_child(&self.child);
        let handle = rustix::process::pidfd_open(process, PidfdFlags::empty());
        let started = Instant::now();
        loop {
            // It stays what it is until `end`, so that its number stays its own.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if rustix::process::waitid(WaitId::Pid(process), look)?.is_some() {
                return self.end().map(Waited::Ended);
            }
            if cancelled() {
                return Ok(Waited::Cancelled);
            }
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Waited::TooLong);
            }
            match &handle {
                Ok(handle) => {
                    let limit = left.min(LOOK).try_into().map_err(io::Error::other)?;
                    match rustix::event::poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&limit)) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // A kernel older than 5.3.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Helper {
    /// Ends it, and what it has started.
    fn end(&mut self) -> io::Result<ExitStatus> {
        // Nobody is left, perhaps.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        self.ended = true;
        self.child.wait()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end();
        }
    }
}

/// A file that is nowhere, and gone when nobody has it open.
fn anonymous(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?))
}

/// The last step that was come to, and all reports.
fn reports(mut file: File) -> io::Result<(Step, Vec<Report>)> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    // A line that was not finished when it died is none.
    let lines = text.lines().map(serde_json::from_str::<Report>);
    let reports: Vec<_> = lines.map_while(Result::ok).collect();
    let last = reports.iter().rev().find_map(|report| match report {
        Report::At(step) => Some(*step),
        _ => None,
    });
    Ok((last.unwrap_or(Step::Probe), reports))
}

/// The first and the last lines, of a limited length.
fn excerpt(mut file: File) -> io::Result<String> {
    const BYTES: u64 = 1024;
    const LINES: usize = 4;
    let length = file.seek(SeekFrom::End(0))?;
    let mut read = |from: u64, bytes: u64| {
        let mut some = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        (&file).take(bytes).read_to_end(&mut some)?;
        let text = String::from_utf8_lossy(&some).replace(|c: char| c.is_control() && c != '\n', " ");
        let lines = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty());
        Ok::<_, io::Error>(lines.collect::<Vec<_>>())
    };
    let (first, last) = match length <= 2 * BYTES {
        true => (read(0, length)?, Vec::new()),
        false => (read(0, BYTES)?, read(length - BYTES, BYTES)?),
    };
    let lines = [first, last].concat();
    if lines.len() <= 2 * LINES {
        return Ok(lines.join("\n"));
    }
    let (first, last) = (&lines[..LINES], &lines[lines.len() - LINES..]);
    Ok([first, &["...".to_owned()], last].concat().join("\n"))
}
