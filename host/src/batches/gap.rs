//! What is done in a gap: builds that wait are taken in, and those who are to know are called.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Shared, State};
use crate::error::ReloadError;
use crate::file::ContentHash;
use crate::lock::lock;
use crate::mode::ON_DEMAND;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::refusal::{Refusal, RefusalReason};
use crate::registry::Core;
use crate::reload::text_of;

/// How soon a build is tried again that was refused because of those who use the plugin; then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// A build that is not tried before every batch.
pub(super) struct Refused {
    hash: ContentHash,
    /// When it is tried again; `None`: when somebody asks for that.
    again: Option<Instant>,
    pause: Duration,
    /// What was told, in a word.
    told: Option<&'static str>,
}

/// A build that waits for a gap.
pub(super) struct Due {
    pub(super) plugin: String,
    file: PathBuf,
    hash: ContentHash,
}

impl Shared {
    /// The builds for which a gap is wanted now.
    pub(super) fn due(&self, state: &State) -> Vec<Due> {
        let stands_in_the_way = state.under_way.keys().next().is_some_and(|oldest| *oldest < state.given_up);
        let core = self.core.upgrade().filter(|core| !stands_in_the_way && !core.is_closed());
        let Some(core) = core else { return Vec::new() };
        let waits = |name: &String| {
            let plugin = core.find(name)?;
            let record = plugin.record();
            let awaiting = record.awaiting.as_ref().filter(|awaiting| awaiting.what == ON_DEMAND)?;
            let is_news = record.serving.as_ref()?.build.hash != awaiting.hash;
            let may = is_news && state.may_try(name, awaiting.hash);
            may.then(|| Due { plugin: name.clone(), file: awaiting.file.clone(), hash: awaiting.hash })
        };
        self.plugins.iter().filter_map(waits).collect()
    }

    /// While the way is shut.
    pub(super) fn reload(&self, due: Vec<Due>) {
        let Some(core) = self.core.upgrade() else { return };
        let mut reloads = Vec::new();
        let files: Vec<_> = due.iter().map(|due| TrustedFile::watched(due.file.clone())).collect();
        for (due, result) in due.into_iter().zip(core.take_all(&files)) {
            match result {
                Ok(outcome) => {
                    lock(&self.state).refused.remove(&due.plugin);
                    let is_news = matches!(outcome, Outcome::Loaded { .. } | Outcome::Reloaded { .. });
                    reloads.extend(is_news.then_some(outcome));
                }
                Err(error) => self.note_refusal(&core, due, &error),
            }
        }
        if !reloads.is_empty() {
            self.call_back(&reloads);
        }
    }

    fn call_back(&self, reloads: &[Outcome]) {
        let callbacks = lock(&self.between).clone();
        for callback in callbacks {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| callback(reloads))) {
                self.tell(format!("what is called between batches panicked: {}", text_of(&*payload)));
            }
        }
    }

    fn note_refusal(&self, core: &Core, due: Due, error: &ReloadError) {
        let (is_passing, kind) = match error {
            ReloadError::Refused(Refusal { reason, .. }) => {
                // Another consumer may not be inside of it.
                let of_this_thread = matches!(reason, RefusalReason::SelfDeadlock | RefusalReason::Gate(_));
                (of_this_thread || reason.is_passing(), Some(reason.kind()))
            }
            error => (matches!(error, ReloadError::Busy { .. }), None),
        };
        let before = lock(&self.state).refused.remove(&due.plugin).filter(|before| before.hash == due.hash);
        let pause = before.as_ref().map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LONGEST_PAUSE));
        let told = before.and_then(|before| before.told);
        if let (ReloadError::Refused(refusal), true) = (error, kind != told) {
            core.report(refusal);
        }
        let again = is_passing.then(|| Instant::now() + pause);
        let refused = Refused { hash: due.hash, again, pause, told: kind.or(told) };
        lock(&self.state).refused.insert(due.plugin, refused);
    }
}

impl State {
    fn may_try(&self, plugin: &str, hash: ContentHash) -> bool {
        let refused = self.refused.get(plugin).filter(|refused| refused.hash == hash);
        refused.is_none_or(|refused| refused.again.is_some_and(|again| again <= Instant::now()))
    }
}
