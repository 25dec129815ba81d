//! Step 6: the wait for calls in flight, behind a closed gate.

use std::time::{Duration, Instant};

use super::set::{Set, Stopped, let_stay};
use super::{Reload, Stop, stop};
use crate::events::{Event, Step};
use crate::gate::{PauseError, PausedSet, Stragglers};
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

impl Set<'_> {
    /// Step 6: closes the gates, and waits until nobody is in any of the old generations. Since when they are closed.
    pub(super) fn close(&self) -> Result<(PausedSet<'_, Loaded>, Instant), Stopped> {
        loop {
            let gate =
                |error: PauseError| self.first(stop(Step::Drain, RefusalReason::Gate(error.to_string())));
            let (mut pause, closed) = (PausedSet::close(self.slots()).map_err(gate)?, Instant::now());
            let drained = self.drain(&mut pause);
            if let Ok(true) = drained {
                return Ok((pause, closed));
            }
            // The gates open: a scope has begun just before they were closed, or it was all in vain. In either case nobody in
            // the old generations need leave any more.
            let_stay(&pause);
            drained?;
            drop(pause);
            self.wait_for_scopes()?;
        }
    }

    /// In mode `BetweenScopes`: waits until no scope holds the plugins, with the gates open.
    pub(super) fn wait_for_scopes(&self) -> Result<(), Stopped> {
        while self.is_in_a_scope() {
            if self.is_cancelled() {
                return Err(self.first(stop(Step::Drain, RefusalReason::Cancelled)));
            }
            std::thread::sleep(BRIEF);
        }
        Ok(())
    }

    fn is_in_a_scope(&self) -> bool {
        self.members().iter().any(|one| one.keeps_out_of_scopes() && one.plugin.scopes.holding() > 0)
    }

    fn keeps_out_of_scopes(&self) -> bool {
        self.members().iter().any(Reload::keeps_out_of_scopes)
    }

    /// Waits until nobody is in the old generations, as long as their policies allow. The plugins are told of those who are in
    /// them after a moment; those who are still there at half time are asked to leave. `false`: it was to come between
    /// scopes, and has come into one.
    fn drain(&self, pause: &mut PausedSet<'_, Loaded>) -> Result<bool, Stopped> {
        let (policy, deadline) = self.patience();
        let limit = match policy {
            DrainPolicy::Refuse => deadline,
            DrainPolicy::Wait => Duration::MAX,
            DrainPolicy::Overlap => GRACE.min(deadline),
        };
        match self.wait_for_calls(pause, limit, deadline / 2) {
            Ok(()) => Ok(true),
            Err(Left::Scope) => Ok(false),
            // They drain beside the new ones, as those of stateless plugins do.
            Err(Left::InUse(_)) if policy == DrainPolicy::Overlap => {
                pause.values().flatten().for_each(|old| old.instance.image().ask_to_leave(true));
                Ok(true)
            }
            Err(Left::Cancelled) => Err(self.first(stop(Step::Drain, RefusalReason::Cancelled))),
            Err(Left::InUse(stragglers)) if stragglers.iter().any(|one| one.self_deadlock) => {
                Err(self.first(stop(Step::Drain, RefusalReason::SelfDeadlock)))
            }
            Err(Left::InUse(stragglers)) => {
                let at = stragglers.iter().position(|one| !one.is_empty()).unwrap_or(0);
                let holders = self.holders(pause, &stragglers);
                Err(Stopped { at, stop: stop(Step::Drain, RefusalReason::Held { limit, holders }) })
            }
        }
    }

    /// One policy and one deadline for all: a set waits if one of it does, it overlaps only if all that hand over do, and its
    /// time is that of the most patient.
    fn patience(&self) -> (DrainPolicy, Duration) {
        let hands_over = self.members().iter().filter(|one| one.hands_over());
        let policies = hands_over.map(|one| one.core.options().drain_policy_of(&one.plugin.name));
        let policy = policies.reduce(|one, other| match (one, other) {
            (DrainPolicy::Wait, _) | (_, DrainPolicy::Wait) => DrainPolicy::Wait,
            (DrainPolicy::Overlap, DrainPolicy::Overlap) => DrainPolicy::Overlap,
            _ => DrainPolicy::Refuse,
        });
        let deadlines =
            self.members().iter().map(|one| one.core.options().drain_deadline_of(&one.plugin.name));
        (policy.unwrap_or_default(), deadlines.max().unwrap_or_default())
    }

    fn wait_for_calls(
        &self,
        pause: &mut PausedSet<'_, Loaded>,
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
            let self_deadlock = stragglers.iter().any(|one| one.self_deadlock);
            if !self_deadlock && self.is_in_a_scope() {
                return Err(Left::Scope);
            }
            let waited = begun.elapsed();
            if self_deadlock || waited >= limit {
                return Err(Left::InUse(stragglers));
            }
            if self.is_cancelled() {
                return Err(Left::Cancelled);
            }
            is_told = true;
            for ((one, old), stragglers) in self.members().iter().zip(pause.values()).zip(&stragglers) {
                let Some(old) = old else { continue };
                one.plugin.note_holders(old, stragglers);
                old.leave_now(&one.plugin.name, &one.core.journal);
                if waited >= ask_at && !asked {
                    old.instance.image().ask_to_leave(true);
                }
            }
            asked = waited >= ask_at;
            if waited >= NAME_HOLDERS_AFTER && !named {
                named = true;
                self.name_holders(pause, &stragglers, waited);
            }
        }
    }

    fn name_holders(&self, pause: &PausedSet<'_, Loaded>, stragglers: &[Stragglers], waited: Duration) {
        for ((one, old), stragglers) in self.members().iter().zip(pause.values()).zip(stragglers) {
            let Some(old) = old.filter(|_| !stragglers.is_empty()) else { continue };
            one.core.journal.record(Event::Draining {
                plugin: one.plugin.name.clone(),
                generation: old.number,
                holders: old.holders(stragglers),
                since_ms: waited.as_millis() as u64,
            });
        }
    }

    /// In a set of several, each with its name.
    fn holders(&self, pause: &PausedSet<'_, Loaded>, stragglers: &[Stragglers]) -> String {
        let all = self.members().iter().zip(pause.values()).zip(stragglers);
        let held: Vec<_> = all
            .filter_map(|((one, old), stragglers)| {
                let holders = old.filter(|_| !stragglers.is_empty())?.holders(stragglers);
                Some(if self.members().len() == 1 {
                    holders
                } else {
                    format!("{}: {holders}", one.plugin.name)
                })
            })
            .collect();
        // They may have left since.
        if held.is_empty() { "nobody any more".into() } else { held.join("; ") }
    }

    /// What concerns all is told of the first.
    fn first(&self, stop: Stop) -> Stopped {
        Stopped { at: 0, stop }
    }
}

impl Reload<'_> {
    /// Whether this reload still waits for a moment between scopes.
    fn keeps_out_of_scopes(&self) -> bool {
        let options = self.core.options();
        let is_asked_to = options.mode_of(&self.plugin.name) == ReloadMode::BetweenScopes;
        is_asked_to && self.serving.is_some() && self.noticed.elapsed() < options.scope_wait
    }
}

/// Why the wait was given up.
enum Left {
    InUse(Vec<Stragglers>),
    Cancelled,
    Scope,
}
