//! Steps 10 and 11: what is known and told of a generation that has just been published.

use super::{Published, Reload, millis};
use crate::events::{Event, Step};
use crate::probation;

impl Reload<'_> {
    /// Steps 10 and 11. Nothing can fail any more.
    pub(super) fn record(&self, number: u64, published: &mut Published) {
        let may_go_back = self.remember(number, published);
        self.core.lead_callers_to(self.plugin);
        // Before the turn ends, so that it is not loaded again in between.
        self.deny_what_is_left();
        if let Err(error) = self.core.pass(Step::Record) {
            // What it could not write is missing, and that is all.
            self.core.journal.record(Event::Trouble { what: error.to_string() });
        }
        let plugin = self.plugin.name.clone();
        let version = self.build.manifest.version.clone();
        let file = self.build.file.clone();
        let took_ms = millis(self.noticed.elapsed());
        let steps = self.progress.times();
        let closed_ms = millis(published.closed_for);
        let from = self.serving.as_ref().map(|serving| serving.number);
        let state_bytes = published.state.as_ref().map_or(0, |state| state.len());
        let event = match (from, &self.wish.back) {
            (Some(from), Some(back)) => Event::RolledBack {
                plugin: plugin.clone(),
                from,
                generation: number,
                version,
                reason: back.reason.clone(),
                state: published.fate,
                closed_ms,
                steps,
            },
            (Some(from), None) => Event::Reloaded {
                plugin: plugin.clone(),
                from,
                generation: number,
                version,
                file,
                took_ms,
                closed_ms,
                state_bytes,
                steps,
            },
            (None, _) => {
                self.core.reaper.watch_calls();
                Event::Loaded {
                    plugin: plugin.clone(),
                    generation: number,
                    version,
                    file,
                    took_ms,
                    state_bytes,
                    steps,
                }
            }
        };
        self.core.journal.record(event);
        self.core.note_registrations(&published.registrations);
        self.core.note_waits_no_more(&self.plugin.name);
        self.core.on_load.get().inspect(|tell| tell(&self.build.manifest, from.is_none()));
        if self.wish.back.is_none() {
            probation::begin(self.core, self.plugin, number, published.meter.clone(), may_go_back);
        }
    }
}
