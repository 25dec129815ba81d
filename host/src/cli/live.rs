//! Settings that change while a host runs: `reseat.toml` is followed as plugins are.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use reseat::file::{Progress, Settling};
use reseat::{Host, Options, Probe, TrustedDir};

use super::args::ServeArgs;
use super::keys;
use super::settings::{self, Settings};

/// How long a file of settings may be written to before it is left to the next event.
const PATIENCE: Duration = Duration::from_secs(10);
/// The file is looked at no more often than that if nobody says that it has changed.
const SOONEST: Duration = Duration::from_millis(100);

/// Where a host's options come from: the command line, and a file.
pub struct Origin {
    args: ServeArgs,
    watch: Vec<TrustedDir>,
    /// Held while a host is given what the file says, so that of two readings the later one holds.
    said: Mutex<Said>,
}

/// What is known of the file.
#[derive(Default)]
struct Said {
    /// What it said when it was understood last.
    text: Option<String>,
    /// Which file that was, or another one since that was not understood.
    file: Option<Mark>,
    /// Somebody wrote to it for so long that it was left alone.
    busy: bool,
}

/// Tells one content of a path from another without reading it. Of what is no file it says no more than which that is.
#[derive(PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    content: Option<[i64; 5]>,
}

impl Mark {
    /// Of what a path leads to, through however many links.
    fn of(path: &Path) -> Option<Mark> {
        std::fs::metadata(path).ok().map(|stat| Mark::from(&stat))
    }
}

impl From<&Metadata> for Mark {
    fn from(stat: &Metadata) -> Mark {
        let size = stat.size().cast_signed();
        let changes = [size, stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let content = stat.is_file().then_some(changes);
        Mark { file: (stat.dev(), stat.ino()), content }
    }
}

/// The file is followed until this is dropped.
pub struct Following(#[allow(dead_code)] RecommendedWatcher); // it is what follows

impl Origin {
    pub fn new(args: &ServeArgs, watch: Vec<TrustedDir>) -> Origin {
        Origin { args: args.clone(), watch, said: Mutex::default() }
    }

    /// The options to begin with.
    ///
    /// # Errors
    /// There is a file, or one was named, and it is not understood.
    pub fn options(&self) -> Result<Options> {
        // Before it is read: what changes later is read again.
        let file = Mark::of(settings::path(self.args.config.as_deref()));
        let text = settings::read(self.args.config.as_deref())?;
        let options = self.options_from(text.as_deref())?;
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Said { text, file, busy: false };
        Ok(options)
    }

    fn options_from(&self, text: Option<&str>) -> Result<Options> {
        let mut options = Options {
            watch: self.watch.clone(),
            state_dir: self.args.state.state_dir.clone(),
            // Whoever calls by name pays so much for each call that counting them makes no difference.
            measure_calls: true,
            // This program is a helper, too. Its inode, and not its name: it may be replaced while it runs.
            probe: Some(Probe::with("/proc/self/exe", ["probe"])),
            ..Options::default()
        };
        let path = settings::path(self.args.config.as_deref());
        let settings = Settings::parse(text.unwrap_or_default());
        settings.with_context(|| format!("{} is not understood", path.display()))?.apply(&mut options);
        options.follow &= !self.args.no_watch;
        options.start_fresh = self.args.fresh;
        Ok(options)
    }

    /// Reads the file again, and has the host go by it if it says something else than before. One that is not there says
    /// nothing: what it said before holds.
    pub fn reread(&self, host: &Host) {
        self.read_again(host, true);
    }

    /// If nobody has asked for it, a file that is still the same is not read.
    fn read_again(&self, host: &Host, asked: bool) {
        if let Err(error) = self.try_reread(host, asked) {
            tracing::warn!("{error:#}; what it said before holds");
        }
    }

    fn try_reread(&self, host: &Host, asked: bool) -> Result<()> {
        let path = settings::path(self.args.config.as_deref());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Mark::of(path);
        if !asked && !said.busy && now == said.file {
            return Ok(());
        }
        said.file = now;
        let was_busy = std::mem::take(&mut said.busy);
        let text = match settled(path)? {
            Content::Text(text, file) => {
                said.file = Some(file);
                text?
            }
            Content::Gone => return Ok(()),
            Content::Busy => {
                said.busy = true;
                anyhow::ensure!(was_busy && !asked, "{} is still being written to", path.display());
                return Ok(());
            }
        };
        if said.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let options = self.options_from(Some(&text))?;
        said.text = Some(text);
        if options.trusted_keys.is_empty() && !host.options().trusted_keys.is_empty() {
            let path = path.display();
            tracing::warn!("{path} names no trusted_keys any more: from now on libraries need no signature");
        }
        // What becomes of it is told as events.
        host.reconfigure(options);
        tell_of_nobodys_tables(host);
        Ok(())
    }

    /// Rereads the file whenever it changes, for as long as what this returns is kept. Where it is a link, to a link
    /// perhaps, as in a volume of Kubernetes, nobody tells of a change: so it is looked at as often as directories are.
    ///
    /// # Errors
    /// The system refuses.
    pub fn follow(self: Arc<Self>, host: &Arc<Host>) -> Result<Following> {
        let path = std::path::absolute(settings::path(self.args.config.as_deref()))?;
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} is no file", path.display());
        };
        let (changed, changes) = unbounded();
        let name = name.to_owned();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let ours = |path: &PathBuf| path.file_name() == Some(&name);
            if event.is_ok_and(|event| !event.kind.is_access() && event.paths.iter().any(ours)) {
                // Nobody listens any more when the host has ended.
                let _ = changed.send(());
            }
        })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        let pause = host.options().rescan_every.max(SOONEST);
        // Not kept by those who only wait.
        let host = Arc::downgrade(host);
        let reread = move |changes: Receiver<()>| {
            while changes.recv_timeout(pause) != Err(RecvTimeoutError::Disconnected) {
                while changes.try_recv().is_ok() {}
                let Some(host) = host.upgrade() else { return };
                self.read_again(&host, false);
            }
        };
        std::thread::Builder::new().name("reseat-settings".into()).spawn(move || reread(changes))?;
        Ok(Following(watcher))
    }
}

/// Settings may be there before their plugin is; they may as well be for one that never comes.
pub fn tell_of_nobodys_tables(host: &Host) {
    let (options, status) = (host.options(), host.status());
    let tables: Vec<_> = options.plugins.keys().map(String::as_str).collect();
    let plugins: Vec<_> = status.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    for told in keys::of_nobody(&tables, &plugins) {
        tracing::warn!("{told}");
    }
}

/// What there is at a path.
enum Content {
    /// Nobody writes to it.
    Text(Result<String>, Mark),
    Gone,
    /// Somebody goes on writing to it.
    Busy,
}

/// What is in a file when nobody writes to it.
fn settled(path: &Path) -> Result<Content> {
    let begun = Instant::now();
    let mut settling = Settling::start(path);
    loop {
        match settling.poll(Instant::now()) {
            Progress::Ready(file) => {
                let unreadable = || format!("{} cannot be read", path.display());
                let mark = Mark::from(&file.metadata().with_context(unreadable)?);
                return Ok(Content::Text(settings::text(file).with_context(unreadable), mark));
            }
            Progress::Gone => return Ok(Content::Gone),
            Progress::Wait(pause) if begun.elapsed() < PATIENCE => std::thread::sleep(pause),
            Progress::Wait(_) => return Ok(Content::Busy),
            Progress::Unreadable(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
            Progress::NotAFile(kind) => bail!("{} is {kind}", path.display()),
        }
    }
}
