//! Those who want to know of a reload before it happens, and may object.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::deputy::Deputy;
use crate::reload::text_of;

/// What is about to change, or has changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The plugin.
    pub plugin: String,
    /// The generation that serves; `None` when it is loaded for the first time.
    pub from: Option<u64>,
    /// The version of the build that is to follow it.
    pub version: String,
    /// Where that came from.
    pub file: PathBuf,
    /// SHA-256 of that file, hexadecimal.
    pub hash: String,
}

/// Somebody who is asked before a plugin is loaded or reloaded, and told afterwards. See
/// [`Options::observers`](crate::Options::observers).
///
/// Both run on a thread of the host, one reload at a time for each plugin, within
/// [`Options::hook_deadline`](crate::Options::hook_deadline). A panic counts as an objection.
pub trait Observer: Send + Sync {
    /// A build has been looked at and tried, and is about to be opened. The serving generation answers calls, also
    /// those of this observer.
    ///
    /// # Errors
    /// The reload is refused, for this reason.
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        let _ = change;
        Ok(())
    }

    /// The build serves.
    fn after_reload(&self, change: &Change) {
        let _ = change;
    }
}

/// The observers of a host, in the order in which they are asked.
#[derive(Clone, Default)]
pub struct Observers(Vec<Arc<dyn Observer>>);

impl Observers {
    /// None.
    pub fn none() -> Self {
        Observers::default()
    }

    /// With one more, which is asked and told last.
    #[must_use]
    pub fn and(mut self, observer: impl Observer + 'static) -> Self {
        self.0.push(Arc::new(observer));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} observers", self.0.len())
    }
}

/// Asks all of them, until one objects.
pub(crate) fn before_reload(observers: &Observers, change: &Change, limit: Duration) -> Result<(), String> {
    observers.0.iter().try_for_each(|observer| {
        let (observer, change) = (observer.clone(), change.clone());
        ask(limit, move || observer.before_reload(&change)).and_then(|answer| answer)
    })
}

/// Tells all of them. What went wrong.
pub(crate) fn after_reload(observers: &Observers, change: &Change, limit: Duration) -> Vec<String> {
    let told = observers.0.iter().map(|observer| {
        let (observer, change) = (observer.clone(), change.clone());
        ask(limit, move || observer.after_reload(&change))
    });
    told.filter_map(Result::err).map(|why| format!("after a reload of {}: {why}", change.plugin)).collect()
}

/// On a thread of its own, so that one that hangs holds up nobody for longer than this.
fn ask<R: Send + 'static>(
    limit: Duration,
    question: impl FnOnce() -> R + Send + 'static,
) -> Result<R, String> {
    let thread = Deputy::start("observer").map_err(|e| format!("no thread for an observer: {e}"))?;
    let answer = thread.run("an observer", limit, || {
        catch_unwind(AssertUnwindSafe(question)).map_err(|payload| text_of(&*payload))
    });
    match answer {
        Ok(answer) => {
            thread.end();
            answer.map_err(|text| format!("an observer panicked: {text}"))
        }
        Err(_) => Err(format!("an observer has not answered within {limit:?}")),
    }
}
