//! Files that may yet be accepted: when they are looked at again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Desk, FIRST_PAUSE, GRACE, Waiting};
use crate::events::Event;
use crate::file::{Settling, StageError};
use crate::refusal::{Refusal, RefusalReason};

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
        if let RefusalReason::Vet(error) = &refusal.reason {
            let serves = self.core.all().iter().any(|plugin| plugin.record().file == path);
            if !serves && !error.claims_to_be_plugin() {
                return tracing::debug!("{} is not a plugin: {error}", path.display());
            }
        }
        if !refusal.reason.is_passing() {
            return self.core.report(refusal);
        }
        if let RefusalReason::Unmet { .. } = refusal.reason {
            return self.unmet(path, refusal, noticed, put_off, told);
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
        if self.begun.remove(&path).is_some_and(|loads| loads < self.loads) {
            return self.put_off(path, noticed, Duration::ZERO, 0, told);
        }
        let reason = refusal.reason.to_string();
        let is_news = put_off > 0 && told.as_ref() != Some(&reason);
        if is_news {
            let (plugin, file, reason) = (refusal.plugin.clone(), path.clone(), reason.clone());
            self.core.journal.record(Event::Unmet { plugin, file, reason });
        }
        let pause = FIRST_PAUSE * 2u32.pow(put_off.min(6));
        self.put_off(path, noticed, pause, put_off + 1, if is_news { Some(reason) } else { told });
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
        self.waiting.entry(path).or_insert(Waiting { settling, noticed, due, put_off, told });
    }
}
