//! The threads that call what is due: few, so that timers that last hold up no others until there are too many, and gone
//! soon when there is nothing to do, so that they keep no old generation.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use plugin_api::CallError;
use plugin_api::registration::TIMER;

use super::reach;
use crate::by_name;
use crate::events::Event;
use crate::gate;
use crate::lock::lock;
use crate::registry::Core;

/// How many timers are called at a time; further ones wait for their turn.
const WORKERS: usize = 8;
/// After so long with nothing to do a worker ends.
const IDLE: Duration = Duration::from_millis(50);

/// A timer: its plugin, and its own name.
pub(super) type Name = (String, String);

/// See the module.
#[derive(Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    has_come: Condvar,
}

#[derive(Default)]
struct State {
    ended: bool,
    due: VecDeque<(Arc<Core>, Name)>,
    /// Those that are due or being called: none is called twice at a time.
    busy: BTreeSet<Name>,
    /// Those whose last call has failed: it is told once.
    failing: BTreeSet<Name>,
    workers: usize,
    idle: usize,
}

impl Workers {
    /// Has a timer called, unless its last call lasts.
    pub(super) fn call(self: &Arc<Self>, core: &Arc<Core>, name: &Name) {
        let mut state = lock(&self.state);
        if state.ended || !state.busy.insert(name.clone()) {
            return;
        }
        state.due.push_back((core.clone(), name.clone()));
        if state.idle >= state.due.len() {
            self.has_come.notify_one();
        } else if state.workers < WORKERS {
            let workers = self.clone();
            let begun = std::thread::Builder::new().name("reseat-timer".into()).spawn(move || workers.work());
            match begun {
                Ok(_) => state.workers += 1,
                // It stays due, for one of the others.
                Err(_) if state.workers > 0 => {}
                Err(error) => {
                    state.due.clear();
                    state.busy.clear();
                    tracing::warn!("timer `{}` of {} is not called: {error}", name.1, name.0);
                }
            }
        }
    }

    /// What has not begun is not called any more.
    pub(super) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.due.clear();
        self.has_come.notify_all();
    }

    fn work(&self) {
        while let Some((core, name)) = self.next() {
            let outcome = call(&core, &name);
            self.finish(&core, name, outcome);
        }
    }

    /// The next one that is due; `None`: this thread ends.
    fn next(&self) -> Option<(Arc<Core>, Name)> {
        // What it has left in a plugin it clears away before it waits.
        gate::run_errands();
        let mut state = lock(&self.state);
        state.idle += 1;
        let wait = self
            .has_come
            .wait_timeout_while(state, IDLE, |state| state.due.is_empty() && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        (state, _) = wait;
        state.idle -= 1;
        let next = state.due.pop_front();
        if next.is_none() {
            state.workers -= 1;
        }
        next
    }

    fn finish(&self, core: &Core, name: Name, outcome: Result<(), CallError>) {
        let mut state = lock(&self.state);
        state.busy.remove(&name);
        match outcome {
            Ok(()) => {
                state.failing.remove(&name);
            }
            Err(error) => {
                let is_new = state.failing.insert(name.clone());
                drop(state);
                let what = format!("timer `{}` of {}: {error}", name.1, name.0);
                match is_new {
                    true => core.journal.record(Event::Trouble { what }),
                    false => tracing::debug!("{what}"),
                }
            }
        }
    }
}

/// Calls a timer, if its plugin serves and still has it.
fn call(core: &Core, (plugin, timer): &Name) -> Result<(), CallError> {
    let Some(plugin) = core.find(plugin) else { return Ok(()) };
    let outcome = match reach::enter(core, &plugin, TIMER, timer) {
        Ok(Some((loaded, entry))) => {
            by_name::call(&plugin, &loaded, entry.registration.method(), "{}").map(drop)
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match outcome {
        // A handover has taken long: the next time will be another.
        Err(CallError::TimedOut { .. } | CallError::Crowded { .. } | CallError::Closed) => Ok(()),
        Err(CallError::NotLoaded { .. }) => Ok(()),
        outcome => outcome,
    }
}
