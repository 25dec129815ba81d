//! Commands that ask a running host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::Failure;
use super::args::{
    CallArgs, CheckArgs, DenyArgs, OutcomeArgs, PluginArgs, ReloadArgs, StateArgs, StateDir, WhyArgs,
};
use super::progress::Busy;
use super::run::held;
use super::time::now_ms;
use super::{output, sign};
use crate::serve::claim::SocketPath;
use crate::serve::protocol::{REQUEST_LIMIT, Request, Response, SOCKET};

/// `reseat call`
pub fn call(args: &CallArgs) -> Result<(), Failure> {
    let arguments = arguments(&args.arguments)?;
    let (plugin, method) = (args.plugin.clone(), args.method.clone());
    let request = Request::Call { plugin, method, arguments, generation: args.generation };
    print(&ask(&args.state, &request)?.to_string())
}

/// The arguments of a call, as they were given.
pub fn arguments(given: &str) -> anyhow::Result<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
    Ok(text)
}

/// `reseat reload`
pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    // The host has a working directory of its own.
    let absolute = |file: &PathBuf| std::path::absolute(file).context("there is no working directory");
    let file = args.file.as_ref().map(absolute).transpose()?;
    let plugin = match &args.plugins[..] {
        [plugin] => plugin,
        plugins => return reload_together(args, plugins),
    };
    let (leak_old, dry_run) = (args.leak_old, args.dry_run);
    let shown = transaction(&args.state, plugin, "reload");
    let (keep, canary) = (args.keep.unwrap_or(0), args.canary);
    let request = Request::Reload { plugin: plugin.clone(), file, leak_old, dry_run, keep, canary };
    let outcome = ask(&args.state, &request)?;
    drop(shown);
    if args.json {
        return print(&pretty(&outcome));
    }
    if args.dry_run {
        let version = outcome["version"].as_str().unwrap_or("?");
        return print(&format!("version {version} of {plugin} would be accepted"));
    }
    let generation = &outcome["generation"];
    if outcome["outcome"] == "candidate" {
        let percent = &outcome["percent"];
        return print(&format!("generation {generation} of {plugin} gets {percent} of 100 scopes"));
    }
    print(&format!("generation {generation} of {plugin} serves"))
}

fn reload_together(args: &ReloadArgs, plugins: &[String]) -> Result<(), Failure> {
    if args.file.is_some() || args.dry_run || args.leak_old || args.keep.is_some() || args.canary.is_some() {
        let what = "the options are for one plugin: several are reloaded from where they came from, all at one moment";
        return Err(Failure::Usage(anyhow!(what)));
    }
    let shown = transaction(&args.state, &plugins[0], "reload");
    let outcomes = ask(&args.state, &Request::ReloadTogether { plugins: plugins.to_vec() })?;
    drop(shown);
    if args.json {
        return print(&pretty(&outcomes));
    }
    let lines = outcomes.as_array().into_iter().flatten().map(|outcome| {
        let (generation, plugin) = (&outcome["generation"], outcome["plugin"].as_str().unwrap_or("?"));
        format!("generation {generation} of {plugin} serves")
    });
    print(&lines.collect::<Vec<_>>().join("\n"))
}

/// `reseat rollback`
pub fn rollback(args: &OutcomeArgs) -> Result<(), Failure> {
    let shown = transaction(&args.state, &args.plugin, "rollback");
    let outcome = ask(&args.state, &Request::Rollback { plugin: args.plugin.clone() })?;
    drop(shown);
    if args.json {
        return print(&pretty(&outcome));
    }
    let (generation, from) = (&outcome["generation"], &outcome["from"]);
    print(&format!(
        "generation {generation} of {} serves: the build before, after generation {from}",
        args.plugin
    ))
}

/// `reseat cancel`
pub fn cancel(args: &PluginArgs) -> Result<(), Failure> {
    let step = ask(&args.state, &Request::Cancel { plugin: args.plugin.clone() })?;
    print(&format!("the reload of {} was at {}", args.plugin, step.as_str().unwrap_or("?")))
}

/// `reseat why`
pub fn why(args: &WhyArgs) -> Result<(), Failure> {
    let why = ask(&args.state, &Request::Why { plugin: args.plugin.clone() })?;
    if args.json {
        return print(&pretty(&why));
    }
    let lines = why["lines"].as_array().context("the answer is not understood")?;
    let lines: Vec<_> = lines.iter().filter_map(Value::as_str).collect();
    print(&lines.join("\n"))
}

/// `reseat deny`
pub fn deny(args: &DenyArgs) -> Result<(), Failure> {
    let allow = if args.clear_all { Some(String::new()) } else { args.clear.clone() };
    let cleared = allow.is_some();
    let denials = ask(&args.state, &Request::Denied { allow })?;
    match denials.as_array() {
        Some(denials) if denials.is_empty() && args.clear.is_some() => {
            Err(anyhow!("no denied build has a hash that begins like this").into())
        }
        _ if args.json => print(&pretty(&denials)),
        _ => print(output::denials(&denials, cleared).trim_end()),
    }
}

/// `reseat state`
pub fn state(args: &StateArgs) -> Result<(), Failure> {
    let plugin = args.plugin.clone();
    if let Some(file) = &args.save {
        let bytes = save(&args.state, plugin, file)?;
        return print(&format!("{bytes} bytes of state are in {}", file.display()));
    }
    if let Some(file) = &args.load {
        let file = std::path::absolute(file).context("there is no working directory")?;
        let shown = transaction(&args.state, &plugin, "loading the state");
        let outcome = ask(&args.state, &Request::LoadState { plugin, file: file.clone() })?;
        drop(shown);
        let generation = &outcome["generation"];
        return print(&format!(
            "generation {generation} of {} serves, with the state in {}",
            args.plugin,
            file.display()
        ));
    }
    if args.keep {
        let shown = transaction(&args.state, &plugin, "keeping the state");
        let bytes = ask(&args.state, &Request::Snapshot { plugin })?;
        drop(shown);
        return print(&format!("{bytes} bytes of state are kept"));
    }
    if args.history {
        let history = ask(&args.state, &Request::History { plugin })?;
        return match args.json {
            true => print(&pretty(&history)),
            false => print(output::history(&args.plugin, &history).trim_end()),
        };
    }
    print(&pretty(&ask(&args.state, &Request::State { plugin })?))
}

/// Writes a state to a file, which is there when all of it is.
fn save(state: &StateDir, plugin: String, file: &Path) -> Result<u64, Failure> {
    let shown = transaction(state, &plugin, "saving the state");
    let mut answer_from = BufReader::new(send(state, &Request::SaveState { plugin })?);
    let bytes = one_answer(&mut answer_from)?.as_u64().context("the answer is not understood")?;
    drop(shown);
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = || format!("{} cannot be written", file.display());
    let mut unfinished = tempfile::NamedTempFile::new_in(parent).with_context(written)?;
    let (written_bytes, shown) = received(bytes, file);
    let mut counted = Counted { from: answer_from.take(bytes), bytes: written_bytes };
    let copied = std::io::copy(&mut counted, &mut unfinished).with_context(written)?;
    drop(shown);
    if copied != bytes {
        return Err(anyhow!("the host went away after {copied} of {bytes} bytes; there is no file").into());
    }
    unfinished.as_file().sync_all().with_context(written)?;
    unfinished.persist(file).with_context(written)?;
    Ok(bytes)
}

/// A source of bytes that are counted.
struct Counted<R> {
    from: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.from.read(into)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Shows how much of so many bytes has been counted.
fn received(all: u64, file: &Path) -> (Arc<AtomicU64>, Busy) {
    let counter = Arc::new(AtomicU64::new(0));
    let (counted, what) = (counter.clone(), format!("writing {}", file.display()));
    let more = move || Some(format!("{} of {all} bytes", counted.load(Ordering::Relaxed)));
    (counter, Busy::with(what, more))
}

/// Shows what a host is at with a plugin, while it is asked for something that may take long.
pub fn transaction(state: &StateDir, plugin: &str, what: &str) -> Busy {
    let (state, plugin, begun) = (state.clone(), plugin.to_owned(), now_ms());
    Busy::with(format!("{what} of {plugin}"), move || {
        let status = ask(&state, &Request::Status).ok()?;
        let busy = status["plugins"].as_array()?.iter().find(|one| one["name"] == *plugin)?["busy"].clone();
        let events = past(&state).ok()?;
        let own = |event: &&Value| {
            event["event"] == "draining"
                && event["plugin"] == *plugin
                && event["at_ms"].as_u64() >= Some(begun)
        };
        let holders = events.iter().rev().find(own).and_then(|event| event["holders"].as_str());
        Some(held(busy.as_str()?, holders))
    })
}

/// `reseat unload`
pub fn unload(args: &PluginArgs) -> Result<(), Failure> {
    ask(&args.state, &Request::Unload { plugin: args.plugin.clone() })?;
    print(&format!("{} serves no more", args.plugin))
}

/// `reseat check`
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let mut inspection = match (&args.live, &args.against) {
        (Some(plugin), _) => {
            // The host has a working directory of its own.
            let file = std::path::absolute(&args.file).context("there is no working directory")?;
            ask(&args.state, &Request::Check { file, plugin: plugin.clone() })?
        }
        (None, Some(against)) => serde_json::to_value(reseat::compare(&args.file, against)?)?,
        (None, None) => serde_json::to_value(reseat::inspect(&args.file)?)?,
    };
    if args.live.is_none() {
        let trusted = sign::trusted(&args.trusted_key)?;
        if !trusted.is_empty() {
            let key = reseat::signer(&args.file, &trusted)?;
            inspection["signature"] = json!({ "key": key.to_string(), "is_trusted": true });
        }
    }
    if args.json {
        return print(&pretty(&inspection));
    }
    print(output::inspection(&inspection).trim_end())?;
    match (&args.live, &args.against) {
        (Some(plugin), _) => print(&format!("fits: it would be accepted as the next generation of {plugin}")),
        (None, Some(against)) => {
            print(&format!("fits: it would be accepted where {} serves", against.display()))
        }
        (None, None) => Ok(()),
    }
}

/// One request, one answer.
pub fn ask(state: &StateDir, request: &Request) -> Result<Value, Failure> {
    one_answer(&mut BufReader::new(send(state, request)?))
}

fn one_answer(from: &mut impl BufRead) -> Result<Value, Failure> {
    let mut line = String::new();
    from.read_line(&mut line).context("the host has gone")?;
    if line.is_empty() {
        return Err(Failure::Unreachable(anyhow!("the host went away before it answered")));
    }
    answer(&line)
}

/// The last events of a host, oldest first.
pub fn past(state: &StateDir) -> Result<Vec<Value>, Failure> {
    let stream = BufReader::new(send(state, &Request::Events { follow: false })?);
    stream.lines().map(|line| answer(&line.context("the host has gone")?)).collect()
}

/// One line of what a host says.
pub fn answer(line: &str) -> Result<Value, Failure> {
    let response = serde_json::from_str(line)
        .context("the answer is not understood: are command and host of the same version?")?;
    match response {
        Response::Ok(value) => Ok(value),
        Response::Error(text) => Err(Failure::Refused(anyhow!(text))),
    }
}

/// Sends a request to a host; its answers are read from what is returned.
pub fn send(state: &StateDir, request: &Request) -> Result<UnixStream, Failure> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    if line.len() as u64 > REQUEST_LIMIT {
        return Err(anyhow!("this is too long to be sent: {} MiB is the most", REQUEST_LIMIT >> 20).into());
    }
    let connected = SocketPath::of(&state.state_dir).and_then(|path| UnixStream::connect(path.as_path()));
    let mut stream = connected.map_err(|error| {
        Failure::Unreachable(anyhow!(
            "no host answers at {} ({error}): start one with `{} run DIR`, or name its --state-dir",
            show(&state.state_dir.join(SOCKET)),
            output::program()
        ))
    })?;
    match stream.write_all(&line) {
        // It has refused us before it heard us: what it said is still to be read.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("the host does not listen")?,
    }
    Ok(stream)
}

fn show(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// JSON for people.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

/// Prints a line.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Unread),
        other => Ok(other?),
    }
}
