//! One `cargo build`, of crates of one workspace, that can be given up.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cargo_metadata::diagnostic::{Diagnostic, DiagnosticLevel};
use cargo_metadata::{Message, PackageId, TargetKind};
use rustix::process::{Pid, Signal, kill_process_group};

use super::args::CargoArgs;
use super::plan::{Plan, cargo};
use super::{progress, sign};

/// How long the last words of a cargo that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a build has come to.
pub struct Built {
    /// The libraries, by package.
    artifacts: BTreeMap<PackageId, PathBuf>,
    errors: Vec<CompileError>,
    /// What cargo said itself, for errors that no compiler has made.
    cargo: String,
}

/// Something that keeps a package from being built.
struct CompileError {
    package: PackageId,
    /// In one line.
    what: String,
    rendered: String,
}

impl Built {
    /// The library of a package, if it was built.
    pub fn artifact(&self, package: &PackageId) -> Option<&Path> {
        self.artifacts.get(package).map(PathBuf::as_path)
    }

    /// Why a package was not built: its own errors, or else those of what it depends on, or what cargo says.
    pub fn failure(&self, package: &PackageId) -> reseat::BuildFailure {
        let own = self.errors.iter().filter(|error| error.package == *package);
        let errors: Vec<_> = match own.clone().next() {
            Some(_) => own.collect(),
            None => self.errors.iter().collect(),
        };
        let Some(first) = errors.first() else {
            let error = self.cargo.lines().find(|line| line.starts_with("error"));
            let what = error.map_or("cargo does not say why", |line| line.trim_start_matches("error: "));
            let what = what.to_owned();
            return reseat::BuildFailure { what, diagnostics: self.cargo.clone() };
        };
        let more = match errors.len() {
            1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let diagnostics = errors.iter().map(|error| error.rendered.as_str()).collect();
        reseat::BuildFailure { what: format!("{}{more}", first.what), diagnostics }
    }
}

/// A build under way. Dropped, it is given up.
pub struct Build {
    child: Child,
    messages: Option<JoinHandle<Built>>,
    said: Arc<Mutex<String>>,
    text: Option<JoinHandle<()>>,
}

impl Build {
    /// Starts one of these crates, which are of one workspace. `others`: those that are built another time.
    pub fn start(plans: &[&Plan], others: &[&str], args: &CargoArgs, quiet: bool) -> Result<Build> {
        let mut command = command(plans, others, args, quiet);
        let mut child = command.spawn().context("cargo cannot be started: is it in PATH?")?;
        let (output, errors) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let said = Arc::new(Mutex::new(String::new()));
        let thread = || std::thread::Builder::new().name("reseat-cargo".into());
        let text = {
            let said = said.clone();
            thread().spawn(move || pass_on(errors, &said)).context("no thread for what cargo says")
        };
        let messages = thread().spawn(move || read(output)).context("no thread for cargo's messages");
        let mut build = Build { child, messages: None, said, text: None };
        (build.text, build.messages) = (Some(text?), Some(messages?));
        Ok(build)
    }

    /// What it has come to, once cargo has ended. `None`: it goes on.
    pub fn poll(&mut self, limit: Duration) -> Result<Option<Built>> {
        // The child's output ends with it, so its reader tells of the end without a signal handler.
        let reader = self.messages.as_ref().expect("polled until it has ended");
        let deadline = Instant::now() + limit;
        while !reader.is_finished() {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let messages = self.messages.take().and_then(|reader| reader.join().ok());
        self.child.wait().context("cargo cannot be waited for")?;
        if let Some(text) = self.text.take() {
            // Something that was begun by the build and outlives it may keep its end open.
            let deadline = Instant::now() + LAST_WORDS;
            while !text.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let mut built = messages.context("cargo's messages are not understood")?;
        built.cargo = std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Some(built))
    }

    /// What cargo said last.
    pub fn last_words(&self) -> impl FnMut() -> Option<String> + Send + use<> {
        let said = self.said.clone();
        move || {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.lines().last().map(|line| line.trim().to_owned())
        }
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.messages.is_some()
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::TERM);
        }
        // If it has ended, it was waited for.
        let _ = self.child.wait();
    }
}

fn command(plans: &[&Plan], others: &[&str], args: &CargoArgs, quiet: bool) -> Command {
    let mut command = Command::new(cargo());
    let is_seen = std::io::stderr().is_terminal();
    let format = if is_seen { "json-diagnostic-rendered-ansi" } else { "json" };
    command.args(["build", "--lib", &format!("--message-format={format}"), "--manifest-path"]);
    command.arg(&plans[0].manifest);
    if plans.len() > 1 {
        // What is good of several is loaded.
        command.arg("--keep-going");
        for plan in plans {
            command.args(["-p", &plan.package.repr]);
        }
    }
    if quiet {
        command.arg("--quiet");
    }
    if is_seen {
        command.args(["--color", "always"]);
    }
    command.args(args.words_without(others));
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_for_us(name)) {
        command.env_remove(name);
    }
    // Nor is this meant for whatever build scripts there are.
    command.env_remove(sign::PASSWORD);
    // A group of its own, so that it can be given up with its compilers.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command
}

/// Whether `cargo run` has told this to the program that it runs: it is not meant for a cargo that the program
/// runs in turn.
fn is_for_us(name: &std::ffi::OsStr) -> bool {
    const OURS: [&str; 6] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "CARGO_CFG_"];
    OURS.iter().any(|ours| name.to_string_lossy().starts_with(ours))
}

/// Shows what cargo says, and takes it down.
fn pass_on(errors: impl Read, said: &Mutex<String>) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        progress::line(&line);
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_str(&console::strip_ansi_codes(&line));
        said.push('\n');
    }
}

/// Shows what compilers say, and takes down what they have made.
fn read(output: impl Read) -> Built {
    let mut built = Built { artifacts: BTreeMap::new(), errors: Vec::new(), cargo: String::new() };
    // Read to the end: cargo must not find its pipe closed.
    for message in Message::parse_stream(BufReader::new(output)).map_while(Result::ok) {
        match message {
            Message::CompilerArtifact(artifact) if artifact.target.kind.contains(&TargetKind::CDyLib) => {
                let library = artifact.filenames.into_iter().find(|file| file.extension() == Some("so"));
                built.artifacts.extend(library.map(|file| (artifact.package_id, file.into())));
            }
            Message::CompilerMessage(said) => {
                let rendered = said.message.rendered.as_deref().unwrap_or_default();
                // It ends in an empty line, as a rule.
                progress::line(rendered.strip_suffix('\n').unwrap_or(rendered));
                built.errors.extend(error(said.package_id, &said.message));
            }
            _ => {}
        }
    }
    built
}

/// What a compiler says, if it is an error at a place: others only say that there were some.
fn error(package: PackageId, said: &Diagnostic) -> Option<CompileError> {
    if !matches!(said.level, DiagnosticLevel::Error | DiagnosticLevel::Ice) {
        return None;
    }
    let place = said.spans.iter().find(|span| span.is_primary);
    if place.is_none() && said.message.starts_with("aborting due to") {
        return None;
    }
    let place = place.map(|at| format!("{}:{}:{}: ", at.file_name, at.line_start, at.column_start));
    let first = said.message.lines().next().unwrap_or_default();
    let what = format!("{}{first}", place.unwrap_or_default());
    let rendered = said.rendered.as_deref().unwrap_or(&said.message);
    Some(CompileError { package, what, rendered: console::strip_ansi_codes(rendered).into_owned() })
}
