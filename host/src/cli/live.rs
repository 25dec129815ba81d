//! Settings that change while a host runs: `reseat.toml` is followed as plugins are.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, unbounded};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use reseat::file::{Progress, Settling};
use reseat::{Host, Options, Probe, TrustedDir};

use super::args::ServeArgs;
use super::settings::{self, Settings};

/// How long a file of settings may be written to before it is left to the next event.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a host's options come from: the command line, and a file.
pub struct Origin {
    args: ServeArgs,
    watch: Vec<TrustedDir>,
    /// What the file said when it was read last. Held while a host is given what it says, so that of two readings the
    /// later one holds.
    said: Mutex<Option<String>>,
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
        let text = settings::read(self.args.config.as_deref())?;
        let options = self.options_from(text.as_deref())?;
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = text;
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
        if let Err(error) = self.try_reread(host) {
            tracing::warn!("{error:#}; what it said before holds");
        }
    }

    fn try_reread(&self, host: &Host) -> Result<()> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(text) = settled(settings::path(self.args.config.as_deref()))? else { return Ok(()) };
        if said.as_ref() == Some(&text) {
            return Ok(());
        }
        let options = self.options_from(Some(&text))?;
        *said = Some(text);
        // What becomes of it is told as events.
        host.reconfigure(options);
        Ok(())
    }

    /// Rereads the file whenever it changes, for as long as what this returns is kept.
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
        // Not kept by those who only wait.
        let host = Arc::downgrade(host);
        let reread = move |changes: Receiver<()>| {
            while changes.recv().is_ok() {
                while changes.try_recv().is_ok() {}
                let Some(host) = host.upgrade() else { return };
                self.reread(&host);
            }
        };
        std::thread::Builder::new().name("reseat-settings".into()).spawn(move || reread(changes))?;
        Ok(Following(watcher))
    }
}

/// What is in a file when nobody writes to it; `None`: it is not there.
fn settled(path: &Path) -> Result<Option<String>> {
    let begun = Instant::now();
    let mut settling = Settling::start(path);
    loop {
        match settling.poll(Instant::now()) {
            Progress::Ready(file) => {
                let text = std::io::read_to_string(file);
                return Ok(Some(text.with_context(|| format!("{} cannot be read", path.display()))?));
            }
            Progress::Gone => return Ok(None),
            Progress::Wait(pause) if begun.elapsed() < PATIENCE => std::thread::sleep(pause),
            Progress::Wait(_) => bail!("{} is still being written to", path.display()),
            Progress::Unreadable(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
            Progress::NotAFile(kind) => bail!("{} is {kind}", path.display()),
        }
    }
}
