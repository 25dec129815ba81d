//! Things that go wrong in the host, on purpose: for tests. Without the feature `faults` none of this is there, and
//! passing a step is nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::events::Step;
use crate::refusal::RefusalReason;

/// In which way it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As if the system had refused something.
    Error,
    /// As if there were a mistake in the host.
    Panic,
    /// As if a disk had stopped answering: until [`Faults::clear`].
    Hang,
}

/// What goes wrong in one host.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    planned: BTreeMap<Step, Fault>,
    struck: usize,
    passed: BTreeMap<Step, usize>,
}

impl Faults {
    /// From now on it goes wrong there, each time.
    pub fn plan(&self, step: Step, fault: Fault) {
        self.state().planned.insert(step, fault);
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.state().planned.clear();
        self.0.1.notify_all();
    }

    /// How often something has gone wrong.
    pub fn struck(&self) -> usize {
        self.state().struck
    }

    /// How often something has come to a step.
    pub fn passed(&self, step: Step) -> usize {
        self.state().passed.get(&step).copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// If that is the plan.
    ///
    /// # Panics
    /// If that is the plan.
    pub(crate) fn pass(&self, step: Step) -> Result<(), RefusalReason> {
        let mut state = self.state();
        *state.passed.entry(step).or_default() += 1;
        let Some(fault) = state.planned.get(&step).copied() else { return Ok(()) };
        state.struck += 1;
        match fault {
            Fault::Error => Err(RefusalReason::Gate(format!("an injected error at {step}"))),
            Fault::Panic => {
                drop(state);
                panic!("an injected panic at {step}")
            }
            Fault::Hang => {
                while state.planned.contains_key(&step) {
                    state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Ok(())
            }
        }
    }
}
