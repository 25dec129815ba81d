//! A host as process 1, as in a container. Process 1 gets every orphan, and has to wait for it when it ends. A host must
//! not do that: it would take the ends of helpers and builds from whoever waits for them. So process 1 starts the host as
//! its child, hands signals on, waits for whatever ends, and ends as the host does.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// Whether this process is the one that gets orphans.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// Runs the command that this process was given in a child.
///
/// # Errors
/// It cannot be started.
pub fn stand_in() -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("process 1 cannot wait for signals")?;
    runtime.block_on(async {
        // Before there is a child, so that its end is not missed.
        let mut ended = signal(SignalKind::child())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let host = start().context("process 1 cannot start the host")?;
        loop {
            let wish = tokio::select! {
                _ = ended.recv() => {
                    if let Some(code) = reap(host) {
                        return Ok(code);
                    }
                    continue;
                }
                _ = interrupt.recv() => Signal::INT,
                _ = terminate.recv() => Signal::TERM,
                _ = hangup.recv() => Signal::HUP,
            };
            // It may have ended just now.
            let _ = kill_process(host, wish);
        }
    })
}

fn start() -> Result<Pid> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // A group of its own: what a terminal sends comes through this process, and once.
    let child = command.args(arguments).process_group(0).spawn()?;
    Ok(Pid::from_child(&child))
}

/// Waits for all that have ended. How the host has ended, if it is among them.
fn reap(host: Pid) -> Option<ExitCode> {
    while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
        if process == host {
            return Some(code_of(status));
        }
    }
    None
}

/// As a shell has it.
fn code_of(status: WaitStatus) -> ExitCode {
    let killed = || status.terminating_signal().map(|signal| signal + 128);
    let code = status.exit_status().or_else(killed).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
