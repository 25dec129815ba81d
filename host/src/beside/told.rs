//! What is told of generations beside the serving one, as lines.

use std::fmt;

use crate::events::Event;

/// One of those events.
pub(crate) fn of_those_beside(event: &Event, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match event {
        Event::Candidate { plugin, generation, version, serving, percent, .. } => {
            write!(
                f,
                "generation {generation} of {plugin}, version {version}, gets {percent} of 100 scopes"
            )?;
            serving.map_or(Ok(()), |serving| write!(f, " (generation {serving} serves on)"))
        }
        Event::Promoted { plugin, generation, proved, calls, errors, panics, .. } => {
            let why = if *proved { "has proved itself" } else { "is asked for" };
            write!(
                f,
                "generation {generation} of {plugin} {why} and takes over: {calls} calls, {errors} failed, {panics} panicked"
            )
        }
        Event::Discarded { plugin, generation, version, reason, denied, serving } => {
            let denied = if *denied { ", and is denied" } else { "" };
            write!(
                f,
                "generation {generation} of {plugin}, version {version}, is discarded{denied}: {reason}"
            )?;
            serving.map_or(Ok(()), |serving| write!(f, " (generation {serving} serves on)"))
        }
        Event::Kept { plugin, generation } => {
            write!(f, "generation {generation} of {plugin} is kept, for those who ask for it")
        }
        Event::Released { plugin, generation } => {
            write!(f, "generation {generation} of {plugin} is kept no longer")
        }
        _ => Ok(()),
    }
}
