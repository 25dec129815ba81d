//! Those who want to know what becomes of plugins: who may object before a build is opened, and are told when one serves
//! and when one goes.
//!
//! Invariants:
//! 1. None of it runs on the thread of a caller, of a plugin or of the reaper.
//! 2. Each is waited for within a limit, so that one that panics or hangs is named and keeps no other from being told.
//! 3. Up in the order in which they were added, down in the reverse.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plugin_api::Stopping;

use crate::deputy::{Deputy, Pending};
use crate::events::Event;
use crate::journal::Journal;
use crate::reload::text_of;
use crate::unit::{self, ScopeObserver};

/// What is about to change, or has changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The plugin.
    pub plugin: String,
    /// The generation that serves; `None` when none does: it is loaded for the first time, or again.
    pub from: Option<u64>,
    /// The number of the generation that is to follow it.
    pub to: u64,
    /// The version of its build.
    pub version: String,
    /// Where that came from.
    pub file: PathBuf,
    /// SHA-256 of that file, hexadecimal.
    pub hash: String,
}

/// A generation that serves no more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Retirement {
    /// The plugin.
    pub plugin: String,
    /// The generation that goes.
    pub generation: u64,
    /// The version of its build.
    pub version: String,
    /// Why it does.
    pub why: Stopping,
}

/// Somebody who is asked before a plugin is loaded or reloaded, and told afterwards. See
/// [`Options::observers`](crate::Options::observers).
///
/// Observers are asked one after another, each on a thread of the host's own that nobody else needs: no caller waits for
/// them. For one plugin this is the order, with that of the plugin's own hooks:
///
/// | | observers | the plugin |
/// | --- | --- | --- |
/// | a build comes | `before_reload` of each, in the order in which they were added | |
/// | it is opened | | `save` of the old one, `create` or `restore`, `started`, `self_check` |
/// | it serves | `after_load` or `after_reload`, then `prepare`, in that order | |
/// | nobody is in the old one any more | `before_unload`, in the reverse order | |
/// | | | `stopping`, then it is dropped |
/// | it is out of memory | `after_unload`, in the reverse order | |
///
/// The last three go on beside the two before them, and one plugin's beside another's, so an observer may be asked two
/// things at a time. On the way up each has [`Options::hook_deadline`](crate::Options::hook_deadline), on the way down all of
/// them together have, in equal shares. When it passes, that is told as [`Event::Trouble`], with the observer's name, and the
/// next one is asked; so is a panic. The transaction that an observer is told of is still under way: a reload of
/// that plugin, asked for by the observer, is refused as busy.
pub trait Observer: Send + Sync {
    /// What it is called where it has objected, panicked or hung. Asked once, when it is added.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// What follows from the plugins that serve is to be computed anew: once when the host has started and has loaded
    /// what is there, before [`Host::start`](crate::Host::start) returns, and again after each load or reload.
    fn prepare(&self) {}

    /// A build has been looked at and tried, and is about to be opened. The serving generation answers calls, also
    /// those of this observer. Nobody is asked about the way back from a bad build. When the reload is cancelled, or the
    /// host ends, no answer is waited for any more.
    ///
    /// # Errors
    /// The reload is refused, for this reason and in this observer's name. A panic or a hang is an objection, too.
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        let _ = change;
        Ok(())
    }

    /// A plugin that did not serve does.
    fn after_load(&self, change: &Change) {
        let _ = change;
    }

    /// A generation has taken over from another one.
    fn after_reload(&self, change: &Change) {
        let _ = change;
    }

    /// Nobody is in a generation any more that had served, nobody will be, and its last hooks are about to run. They
    /// wait for this.
    fn before_unload(&self, retirement: &Retirement) {
        let _ = retirement;
    }

    /// It is out of memory: that was asked, and is so. Not called for one that lingers, for as long as it does.
    fn after_unload(&self, retirement: &Retirement) {
        let _ = retirement;
    }
}

#[derive(Clone)]
struct Named {
    name: Arc<str>,
    observer: Arc<dyn Observer>,
}

/// The observers of a host, in the order in which they are asked.
#[derive(Clone, Default)]
pub struct Observers {
    told: Vec<Named>,
    around: Vec<unit::Named>,
}

impl Observers {
    /// None.
    pub fn none() -> Self {
        Observers::default()
    }

    /// With one more, which is asked last on the way up, and first on the way down.
    #[must_use]
    pub fn and(mut self, observer: impl Observer + 'static) -> Self {
        let name = observer.name().into();
        self.told.push(Named { name, observer: Arc::new(observer) });
        self
    }

    /// With one more who is told of units of work: last when one begins, first when one is complete. If there is none,
    /// a scope costs what it costs.
    #[must_use]
    pub fn around_scopes(mut self, observer: impl ScopeObserver + 'static) -> Self {
        self.around.push((observer.name().into(), Arc::new(observer)));
        self
    }

    pub(crate) fn of_scopes(&self) -> &[unit::Named] {
        &self.around
    }

    /// Nobody is to be told of what comes and goes.
    pub(crate) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Asks all of them, until one objects, or nobody wants to know any more.
    ///
    /// # Errors
    /// Who has, and why.
    pub(crate) fn before_reload(
        &self,
        change: &Change,
        limit: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<(), String> {
        self.told.iter().try_for_each(|named| {
            let change = change.clone();
            let answer = named.ask(limit, &give_up, move |observer| observer.before_reload(&change))?;
            answer.map_err(|reason| format!("the observer `{}` objects: {reason}", named.name))
        })
    }

    /// Tells all of them, one after another, and returns when they were.
    pub(crate) fn tell(&self, moment: &Moment, limit: Duration, journal: &Journal) {
        let tell = |named: &Named, limit| {
            let told = moment.clone();
            if let Err(why) = named.ask(limit, || false, move |observer| told.tell(observer)) {
                journal.record(Event::Trouble { what: format!("{moment}: {why}") });
            }
        };
        if moment.is_on_the_way_down() {
            let share = limit / u32::try_from(self.told.len().max(1)).unwrap_or(u32::MAX);
            self.told.iter().rev().for_each(|named| tell(named, share));
        } else {
            self.told.iter().for_each(|named| tell(named, limit));
        }
    }

    /// The same, for somebody who may not wait: `told` is called when they were. `None`: there is nobody to be told.
    pub(crate) fn begin_telling(
        &self,
        moment: Moment,
        limit: Duration,
        journal: &Arc<Journal>,
        told: impl FnOnce() + Send + 'static,
    ) -> Option<Pending<()>> {
        if self.is_empty() {
            return None;
        }
        let (observers, to) = (self.clone(), journal.clone());
        match Deputy::start("observers") {
            Ok(thread) => {
                let telling = thread.begin("observers", told, move || observers.tell(&moment, limit, &to));
                thread.end_afterwards();
                Some(telling)
            }
            Err(error) => {
                let what = format!("{moment}: no thread for the observers: {error}");
                journal.record(Event::Trouble { what });
                None
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} observers", self.told.len() + self.around.len())
    }
}

impl Named {
    /// On a thread of its own, so that one that hangs holds up nobody for longer than this.
    fn ask<R: Send + 'static>(
        &self,
        limit: Duration,
        give_up: impl Fn() -> bool,
        question: impl FnOnce(&dyn Observer) -> R + Send + 'static,
    ) -> Result<R, String> {
        let (name, observer) = (&self.name, self.observer.clone());
        let thread = Deputy::start("observer")
            .map_err(|error| format!("no thread for the observer `{name}`: {error}"))?;
        let ask = move || {
            catch_unwind(AssertUnwindSafe(|| question(&*observer))).map_err(|payload| text_of(&*payload))
        };
        let answer = thread.begin("an observer", || {}, ask).wait(limit, give_up);
        // At once, or when it has answered after all.
        thread.end_afterwards();
        match answer {
            Ok(answer) => answer.map_err(|text| format!("the observer `{name}` panicked: {text}")),
            Err(_) => Err(format!("the observer `{name}` has not answered within {limit:?}")),
        }
    }
}

/// What observers are told.
#[derive(Clone)]
pub(crate) enum Moment {
    Prepare,
    AfterLoad(Change),
    AfterReload(Change),
    BeforeUnload(Retirement),
    AfterUnload(Retirement),
}

impl Moment {
    fn tell(&self, observer: &dyn Observer) {
        match self {
            Moment::Prepare => observer.prepare(),
            Moment::AfterLoad(change) => observer.after_load(change),
            Moment::AfterReload(change) => observer.after_reload(change),
            Moment::BeforeUnload(retirement) => observer.before_unload(retirement),
            Moment::AfterUnload(retirement) => observer.after_unload(retirement),
        }
    }

    fn is_on_the_way_down(&self) -> bool {
        matches!(self, Moment::BeforeUnload(_) | Moment::AfterUnload(_))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hook, generation, plugin) = match self {
            Moment::Prepare => return f.write_str("prepare"),
            Moment::AfterLoad(change) => ("after_load", change.to, &change.plugin),
            Moment::AfterReload(change) => ("after_reload", change.to, &change.plugin),
            Moment::BeforeUnload(left) => ("before_unload", left.generation, &left.plugin),
            Moment::AfterUnload(left) => ("after_unload", left.generation, &left.plugin),
        };
        write!(f, "{hook} of generation {generation} of {plugin}")
    }
}
