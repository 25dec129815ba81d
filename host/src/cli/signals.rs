//! What a host is told by signals: SIGINT and SIGTERM to stop, SIGHUP to look at its directories again.
//!
//! SIGHUP is also what a terminal says when it goes away: a host that was started from one stops then.

use std::io::{self, IsTerminal};
use std::path::Path;

use reseat::{Host, ReloadError, TrustedDir};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody wants by a signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Stop,
    Reread,
}

/// Signals, none of which is lost from the beginning on.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    from_terminal: bool,
}

impl Signals {
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            from_terminal: io::stdin().is_terminal(),
        })
    }

    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            // What was a terminal and is none is one that has gone.
            _ = self.hangup.recv() => match self.from_terminal && !io::stdin().is_terminal() {
                true => Wish::Stop,
                false => Wish::Reread,
            },
        }
    }

    pub async fn stop(&mut self) {
        while self.next().await != Wish::Stop {}
    }
}

/// Reads the directories now. A host that follows changes looks by itself, and only earlier. One that does not
/// (`unfollowed` are its directories) loads what is new or has changed, as if each had been asked for.
pub fn reread(host: &Host, unfollowed: &[TrustedDir]) {
    host.rescan();
    for directory in unfollowed {
        if let Err(error) = load_all(host, directory) {
            tracing::warn!("{} cannot be read: {error}", directory.path().display());
        }
    }
}

fn load_all(host: &Host, directory: &TrustedDir) -> io::Result<()> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory.path())?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names.iter().filter(|name| may_be_plugin(Path::new(name))) {
        let Some(file) = directory.file(name) else { continue };
        if let Err(error) = reseat::inspect(file.path()) {
            tracing::info!("{error}");
            continue;
        }
        match host.load(&file) {
            // Told already, as an event.
            Ok(_) | Err(ReloadError::Refused(_)) => {}
            Err(error) => tracing::warn!("{}: {error}", file.path().display()),
        }
    }
    Ok(())
}

fn may_be_plugin(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "so")
        && !name.as_os_str().as_encoded_bytes().starts_with(b".")
}
