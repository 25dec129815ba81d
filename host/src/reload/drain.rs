//! Step 6: the wait for calls in flight, behind a closed gate.

use std::time::{Duration, Instant};

use super::{Reload, Stop, stop};
use crate::events::{Event, Step};
use crate::gate::{Paused, Stragglers};
use crate::options::DrainPolicy;
use crate::plugin::Loaded;
use crate::reaper::NAME_HOLDERS_AFTER;
use crate::refusal::RefusalReason;

/// How soon a cancellation is noticed.
const LOOK: Duration = Duration::from_millis(20);

/// How long a handover that overlaps waits all the same: for calls that are as good as over.
const GRACE: Duration = Duration::from_millis(20);

impl Reload<'_> {
    /// Waits until nobody is in the old generation, as long as its policy allows. Those who are still there at half
    /// time are asked to leave.
    pub(super) fn drain(&self, pause: &mut Paused<'_, Loaded>) -> Result<(), Stop> {
        let options = self.core.options();
        let policy = options.drain_policy_of(&self.plugin.name);
        let deadline = options.drain_deadline_of(&self.plugin.name);
        let limit = match policy {
            DrainPolicy::Refuse => deadline,
            DrainPolicy::Wait => Duration::MAX,
            DrainPolicy::Overlap => GRACE.min(deadline),
        };
        let drained = self.wait_for_calls(pause, limit, deadline / 2);
        match drained {
            Ok(()) => Ok(()),
            // It drains beside the new one, as that of a stateless plugin does.
            Err(Left::InUse(_)) if policy == DrainPolicy::Overlap => {
                pause.value().instance.image().ask_to_leave(true);
                Ok(())
            }
            Err(left) => {
                let reason = match left {
                    Left::Cancelled => RefusalReason::Cancelled,
                    Left::InUse(stragglers) if stragglers.self_deadlock => RefusalReason::SelfDeadlock,
                    Left::InUse(stragglers) => {
                        RefusalReason::Held { limit, holders: pause.value().holders(&stragglers) }
                    }
                };
                Err(stop(Step::Drain, reason))
            }
        }
    }

    fn wait_for_calls(
        &self,
        pause: &mut Paused<'_, Loaded>,
        limit: Duration,
        ask_at: Duration,
    ) -> Result<(), Left> {
        let begun = Instant::now();
        let (mut named, mut asked) = (false, false);
        loop {
            let waited = begun.elapsed();
            let stragglers = match pause.drain(LOOK.min(limit.saturating_sub(waited))) {
                Ok(()) => return Ok(()),
                Err(stragglers) => stragglers,
            };
            let waited = begun.elapsed();
            if stragglers.self_deadlock || waited >= limit {
                return Err(Left::InUse(stragglers));
            }
            if self.turn.is_cancelled() {
                return Err(Left::Cancelled);
            }
            if waited >= NAME_HOLDERS_AFTER && !named {
                named = true;
                self.name_holders(pause.value(), &stragglers, waited);
            }
            if waited >= ask_at && !asked {
                asked = true;
                pause.value().instance.image().ask_to_leave(true);
            }
        }
    }

    fn name_holders(&self, old: &Loaded, stragglers: &Stragglers, waited: Duration) {
        self.core.journal.record(Event::Draining {
            plugin: self.plugin.name.clone(),
            generation: old.number,
            holders: old.holders(stragglers),
            since_ms: waited.as_millis() as u64,
        });
    }
}

/// Why the wait was given up.
enum Left {
    InUse(Stragglers),
    Cancelled,
}
