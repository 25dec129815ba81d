//! Events, as a person reads them: one sentence each.

use std::fmt;
use std::time::Duration;

use crate::beside::told;
use crate::events::{Event, RolledBackState};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Loaded { plugin, generation, version, file, took_ms, state_bytes, .. } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} from {} ({took_ms:.1} ms",
                    file.display()
                )?;
                if *state_bytes > 0 {
                    write!(f, ", with the {state_bytes} B of state that were kept")?;
                }
                write!(f, ")")
            }
            Event::Snapshotted { plugin, generation, bytes, took_ms } => {
                write!(
                    f,
                    "the state of {plugin} is kept: {bytes} B of generation {generation} ({took_ms:.1} ms)"
                )
            }
            Event::Reloaded {
                plugin, from, generation, version, took_ms, closed_ms, state_bytes, ..
            } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} took over from generation {from} ({took_ms:.1} ms"
                )?;
                if *state_bytes > 0 {
                    write!(f, ", gate closed for {closed_ms:.1} ms, {state_bytes} B of state carried")?;
                }
                write!(f, ")")
            }
            Event::Registrations { plugin, generation, came, went, stayed } => {
                write!(f, "generation {generation} of {plugin} has registered otherwise")?;
                for (what, names) in [("came", came), ("went", went)] {
                    if !names.is_empty() {
                        write!(f, ", {what}: {}", names.join(", "))?;
                    }
                }
                write!(f, "; {stayed} stayed")
            }
            Event::Proved { plugin, generation, calls, errors, panics, p99_us } => {
                let p99 = Duration::from_nanos((p99_us * 1e3) as u64);
                write!(
                    f,
                    "generation {generation} of {plugin} has proved itself: {calls} calls, {errors} failed, {panics} panicked, 99 of 100 within {p99:.1?}"
                )
            }
            Event::RolledBack { plugin, from, generation, version, reason, state, .. } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} is back after generation {from}: {reason}"
                )?;
                match state {
                    RolledBackState::None => Ok(()),
                    RolledBackState::Carried => f.write_str("; the state was carried back"),
                    RolledBackState::Earlier => {
                        f.write_str("; the state is the one from before, and what had changed since is lost")
                    }
                }
            }
            Event::Candidate { .. }
            | Event::Promoted { .. }
            | Event::Discarded { .. }
            | Event::Kept { .. }
            | Event::Released { .. } => told::of_those_beside(self, f),
            Event::Refused { plugin, file, step, reason, serving, .. } => {
                match plugin {
                    Some(plugin) => {
                        write!(f, "{} for {plugin} is refused at {step}: {reason}", file.display())?
                    }
                    None => write!(f, "{} is refused at {step}: {reason}", file.display())?,
                }
                match serving {
                    Some(generation) => write!(f, " (generation {generation} serves on)"),
                    None => Ok(()),
                }
            }
            Event::Waiting { plugin, version, file, until } => {
                write!(f, "version {version} of {plugin} in {} waits until {until}", file.display())
            }
            Event::Unmet { plugin, file, reason } => {
                let plugin = plugin.as_deref().unwrap_or("a plugin");
                write!(f, "{plugin} in {} waits: {reason}", file.display())
            }
            Event::Built { package, took_ms, .. } => {
                write!(f, "{package} was built in {:.1} s", took_ms / 1e3)
            }
            Event::BuildFailed { package, what, .. } => {
                write!(f, "the build of {package} has failed: {what}")
            }
            Event::Draining { plugin, generation, holders, since_ms } => {
                let since = Duration::from_millis(*since_ms);
                write!(f, "generation {generation} of {plugin} has been draining for {since:.1?}: {holders}")
            }
            Event::Unloaded { plugin, generation, left } => {
                write!(f, "generation {generation} of {plugin} is unloaded")?;
                left.map_or(Ok(()), |left| write!(f, "; it left {left}"))
            }
            Event::Lingering { plugin, generation, reason, bytes } => {
                write!(f, "generation {generation} of {plugin} is lingering: {reason} ({} KiB)", bytes / 1024)
            }
            Event::Leaked { plugin, generation, bytes } => {
                write!(
                    f,
                    "generation {generation} of {plugin} stays in memory as asked ({} KiB): the host is tainted",
                    bytes / 1024
                )
            }
            Event::Removed { plugin, generation } => {
                write!(f, "plugin {plugin} is removed: generation {generation} serves no more")
            }
            Event::Reconfigured { in_the_next_host } if in_the_next_host.is_empty() => {
                f.write_str("other options hold from now on")
            }
            Event::Reconfigured { in_the_next_host } => {
                write!(
                    f,
                    "other options hold from now on, except for {}: that takes a restart",
                    in_the_next_host.join(", ")
                )
            }
            Event::FileGone { plugin, file } => {
                write!(f, "the file of {plugin} is gone: {}; the plugin serves on", file.display())
            }
            Event::Trouble { what } => f.write_str(what),
            Event::Missed { count } => write!(f, "{count} events were missed: the subscriber was too slow"),
        }
    }
}
