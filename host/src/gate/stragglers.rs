//! Who is still in a generation, in words for a log.

use super::thread::ThreadRef;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Why a generation is not drained.
///
/// Prints as `2 guards, oldest entered at least 4.1 s ago by thread http-2`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stragglers {
    /// The threads with a call of this generation on their stack.
    pub threads: Vec<Straggler>,
    /// Leases, and guards that were entered inside a call of a lease.
    pub leases: usize,
    /// The thread that asks is one of them, so waiting would not end.
    pub self_deadlock: bool,
}

/// A thread that is in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Straggler {
    /// The thread.
    pub thread: ThreadRef,
    /// The kernel's number for it.
    pub os_tid: u32,
    /// Its name now, or, if it has ended, when it first came to the gate.
    pub name: Option<String>,
    /// The guards that it holds, outermost first.
    pub guards: Vec<Held>,
    /// It has ended and left a guard behind: this generation will never be drained.
    pub orphaned: bool,
}

/// One guard of a straggler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// It, or the call tree that it is nested in, was entered at least so long ago: since before the generation was retired, or its gate closed, and
    /// before the sampler first saw it there. The call path does not look at a clock, so what is missing is at
    /// most the time between two samples, see [`sample_ages`](super::sample_ages). `None` if the thread was
    /// only about to enter and has not found out yet that it came too late.
    pub since: Option<Duration>,
    /// What was noted last in [`Guard::note`](super::Guard::note), by this guard or by one of the same thread that
    /// was in its place before.
    pub note: Option<NonZeroUsize>,
}

impl Straggler {
    /// When the oldest of its guards was entered, at least.
    pub fn since(&self) -> Option<Duration> {
        self.guards.iter().filter_map(|held| held.since).max()
    }
}

impl Stragglers {
    /// Whether nobody was found.
    pub fn is_empty(&self) -> bool {
        self.threads.is_empty() && self.leases == 0
    }

    /// How many guards hold the generation up, leases not counted.
    pub fn guards(&self) -> usize {
        self.threads.iter().map(|straggler| straggler.guards.len()).sum()
    }
}

impl fmt::Display for Stragglers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, &|_| None)
    }
}

type Explain<'a> = &'a dyn Fn(NonZeroUsize) -> Option<String>;

impl Stragglers {
    /// The same with what the holders have noted last, in the words of `explain`: `… by thread http-2 (last call:
    /// check)`.
    pub fn explained(&self, explain: Explain<'_>) -> String {
        std::fmt::from_fn(|f| self.print(f, explain)).to_string()
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, explain: Explain<'_>) -> fmt::Result {
        match (self.guards(), self.leases) {
            (0, 0) => f.write_str("nobody")?,
            (0, leases) => counted(f, leases, "lease")?,
            (guards, leases) => {
                counted(f, guards, "guard")?;
                self.entered(f, guards, explain)?;
                if leases != 0 {
                    f.write_str(", and ")?;
                    counted(f, leases, "lease")?;
                }
            }
        }
        if self.self_deadlock { f.write_str("; the draining thread itself is inside") } else { Ok(()) }
    }
}

impl Stragglers {
    fn entered(&self, f: &mut fmt::Formatter<'_>, guards: usize, explain: Explain<'_>) -> fmt::Result {
        const NAMED: usize = 4;
        let oldest = self.threads.iter().filter_map(Straggler::since).max();
        f.write_str(if guards > 1 { ", oldest entered" } else { ", entered" })?;
        if let Some(since) = oldest {
            f.write_str(" at least ")?;
            rounded(f, since)?;
            f.write_str(" ago")?;
        }
        f.write_str(if self.threads.len() > 1 { " by threads " } else { " by thread " })?;
        let mut threads: Vec<_> = self.threads.iter().collect();
        threads.sort_by_key(|straggler| std::cmp::Reverse(straggler.since()));
        for (i, straggler) in threads.into_iter().take(NAMED).enumerate() {
            write!(f, "{}{straggler}", if i == 0 { "" } else { ", " })?;
            let explained = straggler.guards.iter().rev().find_map(|held| explain(held.note?));
            if let Some(what) = explained {
                write!(f, " (last call: {what})")?;
            }
        }
        match self.threads.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl fmt::Display for Straggler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.os_tid)?,
        }
        if self.orphaned { f.write_str(" (ended without leaving)") } else { Ok(()) }
    }
}

fn counted(f: &mut fmt::Formatter<'_>, number: usize, noun: &str) -> fmt::Result {
    write!(f, "{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn rounded(f: &mut fmt::Formatter<'_>, time: Duration) -> fmt::Result {
    match time.as_micros() {
        1_000_000.. => write!(f, "{:.1} s", time.as_secs_f64()),
        1_000.. => write!(f, "{} ms", time.as_millis()),
        micros => write!(f, "{micros} µs"),
    }
}
