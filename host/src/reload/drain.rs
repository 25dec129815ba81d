//! Step 6: the wait for calls in flight, behind a closed gate.

use std::time::{Duration, Instant};

use super::{Reload, Stop, stop};
use crate::events::{Event, Step};
use crate::gate::{PauseError, Paused, Stragglers};
use crate::mode::ReloadMode;
use crate::options::DrainPolicy;
use crate::plugin::Loaded;
use crate::reaper::{LEAVE_AFTER, NAME_HOLDERS_AFTER};
use crate::refusal::RefusalReason;

/// How soon a cancellation is noticed.
const LOOK: Duration = Duration::from_millis(20);

/// How long a handover that overlaps waits all the same: for calls that are as good as over.
const GRACE: Duration = Duration::from_millis(20);

/// How long a handover that is to come between scopes waits behind a closed gate before it looks for one.
const BRIEF: Duration = Duration::from_millis(1);

impl Reload<'_> {
    /// Step 6: closes the gate, and waits until nobody is in the old generation. Since when it is closed.
    pub(super) fn close(&self) -> Result<(Paused<'_, Loaded>, Instant), Stop> {
        loop {
            let gate = |error: PauseError| stop(Step::Drain, RefusalReason::Gate(error.to_string()));
            let (mut pause, closed) = (self.plugin.slot.pause().map_err(gate)?, Instant::now());
            let drained = self.drain(&mut pause);
            if let Ok(true) = drained {
                return Ok((pause, closed));
            }
            // The gate opens: a scope has begun just before it was closed, or it was all in vain. In either case nobody in
            // the old generation need leave any more.
            pause.value().let_stay();
            drained?;
            drop(pause);
            self.wait_for_scopes()?;
        }
    }

    /// In mode `BetweenScopes`: waits until no scope holds the plugin, with the gate open.
    pub(super) fn wait_for_scopes(&self) -> Result<(), Stop> {
        while self.keeps_out_of_scopes() && self.plugin.scopes.holding() > 0 {
            if self.turn.is_cancelled() {
                return Err(stop(Step::Drain, RefusalReason::Cancelled));
            }
            std::thread::sleep(BRIEF);
        }
        Ok(())
    }

    /// Whether this reload still waits for a moment between scopes.
    fn keeps_out_of_scopes(&self) -> bool {
        let options = self.core.options();
        let is_asked_to = options.mode_of(&self.plugin.name) == ReloadMode::BetweenScopes;
        is_asked_to && self.serving.is_some() && self.noticed.elapsed() < options.scope_wait
    }

    /// Waits until nobody is in the old generation, as long as its policy allows. The plugin is told of those who are in
    /// it after a moment; those who are still there at half time are asked to leave. `false`: it was to come between
    /// scopes, and has come into one.
    fn drain(&self, pause: &mut Paused<'_, Loaded>) -> Result<bool, Stop> {
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
            Ok(()) => Ok(true),
            Err(Left::Scope) => Ok(false),
            // It drains beside the new one, as that of a stateless plugin does.
            Err(Left::InUse(_)) if policy == DrainPolicy::Overlap => {
                pause.value().instance.image().ask_to_leave(true);
                Ok(true)
            }
            Err(Left::Cancelled) => Err(stop(Step::Drain, RefusalReason::Cancelled)),
            Err(Left::InUse(stragglers)) if stragglers.self_deadlock => {
                Err(stop(Step::Drain, RefusalReason::SelfDeadlock))
            }
            Err(Left::InUse(stragglers)) => {
                let holders = pause.value().holders(&stragglers);
                Err(stop(Step::Drain, RefusalReason::Held { limit, holders }))
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
        let (mut is_told, mut named, mut asked) = (false, false, false);
        loop {
            let waited = begun.elapsed();
            let look = match is_told {
                false => LEAVE_AFTER,
                true if self.keeps_out_of_scopes() => BRIEF,
                true => LOOK,
            };
            let stragglers = match pause.drain(look.min(limit.saturating_sub(waited))) {
                Ok(()) => return Ok(()),
                Err(stragglers) => stragglers,
            };
            if !stragglers.self_deadlock && self.keeps_out_of_scopes() && self.plugin.scopes.holding() > 0 {
                return Err(Left::Scope);
            }
            let waited = begun.elapsed();
            if stragglers.self_deadlock || waited >= limit {
                return Err(Left::InUse(stragglers));
            }
            if self.turn.is_cancelled() {
                return Err(Left::Cancelled);
            }
            is_told = true;
            self.plugin.note_holders(pause.value(), &stragglers);
            pause.value().leave_now(&self.plugin.name, &self.core.journal);
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
    Scope,
}
