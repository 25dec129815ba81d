//! The command line: arguments in, exit codes out.

mod args;
mod build;
mod client;
mod config;
mod create;
mod dev;
#[cfg(test)]
mod docs;
mod events;
mod follow;
mod generations;
mod init;
mod keys;
mod listing;
mod live;
mod manual;
mod notify;
mod output;
mod plan;
mod plugin_args;
mod progress;
mod registered;
mod run;
mod settings;
mod sign;
mod signals;
mod time;
mod top;
mod words;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// How a command ended, other than by doing what was asked.
#[derive(Debug)]
pub enum Failure {
    /// Refused or failed: exit code 1.
    Refused(anyhow::Error),
    /// Asked for where it cannot be had: exit code 2.
    Usage(anyhow::Error),
    /// No host could be reached: exit code 3.
    Unreachable(anyhow::Error),
    /// Whoever read what it prints has gone away, as in `| head`: no error of ours, and nothing left to do.
    Unread,
    /// The host has ended, and something in it was still in use at the deadline, which has been said: exit code 4.
    Unclean,
    /// Asked to hurry: exit code 130.
    Hurried,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Refused(error.into())
    }
}

/// Runs the command that was given. Usage errors end in clap, with exit code 2.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if init::is_first() && matches!(cli.command, Command::Run(_) | Command::Dev(_)) {
        return init::stand_in().unwrap_or_else(|error| complain(&error, 1));
    }
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::New(args) => create::create(&args),
        Command::Check(args) => client::check(&args),
        Command::Sign(args) => sign::sign(&args),
        Command::Call(args) => client::call(&args),
        Command::Do(args) => registered::command(&args),
        Command::Ps(args) => listing::ps(&args),
        Command::Registrations(args) => registered::registrations(&args),
        Command::Top(args) => top::top(&args),
        Command::Reload(args) => client::reload(&args),
        Command::Rollback(args) => client::rollback(&args),
        Command::Promote(args) => generations::promote(&args),
        Command::Discard(args) => generations::discard(&args),
        Command::Release(args) => generations::release(&args),
        Command::Cancel(args) => client::cancel(&args),
        Command::Why(args) => client::why(&args),
        Command::Unload(args) => client::unload(&args),
        Command::State(args) => client::state(&args),
        Command::Deny(args) => client::deny(&args),
        Command::Config(args) => config::config(&args),
        Command::Probe => return reseat::probe::serve(),
        Command::Events(args) => events::events(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    };
    match outcome {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Refused(error)) => complain(&error, 1),
        Err(Failure::Usage(error)) => complain(&error, 2),
        Err(Failure::Unreachable(error)) => complain(&error, 3),
        Err(Failure::Unclean) => ExitCode::from(4),
        Err(Failure::Hurried) => ExitCode::from(130),
    }
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("reseat: {}", sentence(error));
    ExitCode::from(code)
}

/// The error with its causes on one line. A cause that has been told already is left out: the library's errors are
/// whole sentences.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no space");
        let error = Err::<(), _>(cause()).context("x cannot be written: no space").unwrap_err();
        assert_eq!(super::sentence(&error), "x cannot be written: no space");
        let error = Err::<(), _>(cause()).context("x cannot be written").unwrap_err();
        assert_eq!(super::sentence(&error), "x cannot be written: no space");
    }
}
