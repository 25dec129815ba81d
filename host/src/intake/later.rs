//! Files that may yet be accepted: when they are looked at again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Desk, FIRST_PAUSE, GRACE, Waiting};
use crate::events::Event;
use crate::file::{Settling, StageError};
use crate::refusal::{Refusal, RefusalReason};

/// For how long each that waits puts off the next try of one that lacks an interface.
const EACH: Duration = Duration::from_millis(20);
/// What waits for another file is not looked at by the clock.
const FOR_LONG: Duration = Duration::from_secs(24 * 3600);

/// An interface that nobody implements: nobody at all, or not the plugin that is to do it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Lack {
    interface: String,
    of: Option<String>,
}

/// Which change of another file is worth another try of one that waits.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Rouse {
    /// None.
    None,
    /// Any: it waits for somebody with whom it fits.
    Any,
    /// That of the plugin's that was refused when it was to change together with it.
    Of(String),
}

impl Desk {
    pub(super) fn refused(
        &mut self,
        path: PathBuf,
        refusal: &Refusal,
        noticed: Instant,
        put_off: u32,
        told: Option<String>,
    ) {
        let incomplete = match &refusal.reason {
            RefusalReason::Vet(error) => error.may_be_incomplete(),
            RefusalReason::Stage(error) => matches!(error, StageError::ChangedWhileCopied),
            RefusalReason::NotSigned(error) => error.may_be_incomplete(),
            _ => false,
        };
        if incomplete && noticed.elapsed() < GRACE {
            return self.put_off(path, noticed, Duration::from_millis(50), 0, told);
        }
        if refusal.reason.is_gone() {
            // It was moved away while it was looked at: where it is now it is looked at as well.
            return tracing::debug!("{} is gone: {}", path.display(), refusal.reason);
        }
        if let RefusalReason::Vet(error) = &refusal.reason {
            let serves = self.core.all().iter().any(|plugin| plugin.record().file == path);
            if !serves && !error.claims_to_be_plugin() {
                return tracing::debug!("{} is not a plugin: {error}", path.display());
            }
        }
        if let RefusalReason::NameTaken { .. } = &refusal.reason {
            self.taken.insert(path.clone());
        }
        if let RefusalReason::Partner { plugin, is_passing: false, .. } = &refusal.reason {
            // It may be all right, but not before the other is.
            self.core.report(refusal);
            self.put_off(path.clone(), noticed, FOR_LONG, 1, None);
            return self.roused_by(&path, Rouse::Of(plugin.clone()));
        }
        if !refusal.reason.is_passing() {
            return self.core.report(refusal);
        }
        if let RefusalReason::Unmet { .. } | RefusalReason::Alone { .. } = refusal.reason {
            self.unmet(path.clone(), refusal, noticed, put_off, told);
            // What does not serve yet is not taken in together with others: it is told of when they serve.
            return self.roused_by(&path, if refusal.serving.is_some() { Rouse::Any } else { Rouse::None });
        }
        // Told once; then tried again quietly, less and less often.
        let kind = format!("{} {}", refusal.step, refusal.reason.kind());
        if told.as_ref() != Some(&kind) {
            self.core.report(refusal);
        }
        let pause = FIRST_PAUSE * 2u32.pow(put_off.min(6));
        self.put_off(path, noticed, pause, put_off + 1, Some(kind));
    }

    /// Whoever is missing may be about to be loaded, so it is told only when it is still missing a moment later.
    fn unmet(
        &mut self,
        path: PathBuf,
        refusal: &Refusal,
        noticed: Instant,
        put_off: u32,
        told: Option<String>,
    ) {
        let lacks = match &refusal.reason {
            RefusalReason::Unmet { interface, plugin, .. } => {
                Some(Lack { interface: interface.clone(), of: plugin.clone() })
            }
            _ => None,
        };
        let came = lacks.as_ref().map_or(self.loads, |lacks| self.came.get(lacks).copied().unwrap_or(0));
        if self.begun.remove(&path).is_some_and(|loads| loads < came) {
            self.put_off(path.clone(), noticed, Duration::ZERO, 0, told);
            return self.waits_for(&path, |waiting| waiting.is_change = false);
        }
        let reason = refusal.reason.to_string();
        let is_news = put_off > 0 && told.as_ref() != Some(&reason);
        if is_news {
            let (plugin, file, reason) = (refusal.plugin.clone(), path.clone(), reason.clone());
            self.core.journal.record(Event::Unmet { plugin, file, reason });
        }
        // Many would be tried again before the first of them are through. Whoever comes meanwhile is told of at once.
        let for_all = EACH * u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let pause = FIRST_PAUSE.max(for_all) * 2u32.pow(put_off.min(6));
        self.put_off(path.clone(), noticed, pause, put_off + 1, if is_news { Some(reason) } else { told });
        self.waits_for(&path, |waiting| waiting.lacks = lacks);
    }

    /// Looks at the path again later, unless something newer has come.
    pub(super) fn put_off(
        &mut self,
        path: PathBuf,
        noticed: Instant,
        pause: Duration,
        put_off: u32,
        told: Option<String>,
    ) {
        self.settled.remove(&path);
        let settling = Settling::start(&path);
        let due = Instant::now() + pause;
        let (roused_by, is_change) = (Rouse::None, put_off == 0);
        let waiting = Waiting { settling, noticed, due, put_off, told, roused_by, lacks: None, is_change };
        self.waiting.entry(path).or_insert(waiting);
    }

    /// Whatever waits for one of these, or for something that nobody can name, is looked at now.
    pub(super) fn loaded(&mut self, plugin: &str, interfaces: Vec<String>, is_first: bool) {
        self.loads += 1;
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.put_off > 0) {
            let is_it = |lack: &Lack| {
                lack.of.as_ref().is_none_or(|of| of == plugin) && interfaces.contains(&lack.interface)
            };
            if waiting.lacks.as_ref().map_or(is_first, is_it) {
                (waiting.due, waiting.put_off) = (Instant::now(), 0);
            }
        }
        let loads = self.loads;
        for interface in interfaces {
            let named = Lack { interface: interface.clone(), of: Some(plugin.to_owned()) };
            self.came.extend([(named, loads), (Lack { interface, of: None }, loads)]);
        }
    }

    /// A file has changed, or is only tried again: what waits for that, to take over together, is looked at now.
    pub(super) fn rouse(&mut self, path: &Path, is_change: bool) {
        if is_change {
            // They may have been looked at without it.
            self.overtaken.extend(self.running.iter().filter(|other| *other != path).cloned());
        }
        if self.waiting.values().all(|waiting| waiting.roused_by == Rouse::None) {
            return;
        }
        let mut plugins = self.core.all().into_iter();
        let changed = plugins.find(|plugin| plugin.record().is_followed_at(path));
        for (_, waiting) in self.waiting.iter_mut().filter(|(other, _)| *other != path) {
            let is_worth_it = match &waiting.roused_by {
                Rouse::None => false,
                // What comes for the first time is told of when it serves.
                Rouse::Any => waiting.lacks.is_none() || changed.as_ref().is_some_and(|it| it.is_loaded()),
                // Whose it is that nobody knows yet may be seen when it is looked at.
                Rouse::Of(name) => changed.as_ref().is_none_or(|plugin| plugin.name == *name),
            };
            if is_worth_it {
                waiting.due = Instant::now();
            }
        }
    }

    fn roused_by(&mut self, path: &Path, rouse: Rouse) {
        let has_come = self.overtaken.remove(path) && rouse != Rouse::None;
        self.waits_for(path, |waiting| {
            waiting.roused_by = rouse;
            if has_come {
                waiting.due = Instant::now();
            }
        });
    }

    fn waits_for(&mut self, path: &Path, what: impl FnOnce(&mut Waiting)) {
        self.waiting.get_mut(path).map(what);
    }
}
