//! Those who are told, on the thread that does it, when a unit of work begins and when it is complete.
//!
//! Invariants:
//! 1. They are told of the outermost scope only: one that begins within a unit belongs to it.
//! 2. A unit is complete when the last scope that belongs to it has ended, also by a panic.
//! 3. Without anybody to be told there are no units, and nothing is done for them.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::events::Event;
use crate::journal::Journal;
use crate::reload::text_of;

/// Somebody who does something around each unit of work: opens a transaction and ends it, sets a deadline, checks out what
/// the work needs. See [`Observers::around_scopes`](crate::Observers::around_scopes).
///
/// Unlike an [`Observer`](crate::Observer) it runs on the thread that does the work, which waits for it, however long it
/// takes. Scopes that it uses itself are no units. A panic ends there, is told as [`Event::Trouble`] with this one's name, and changes nothing else.
pub trait ScopeObserver: Send + Sync {
    /// What it is called where it has panicked. Asked once, when it is added.
    fn name(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// A unit of work begins, on this thread: an outermost [`Host::scope`](crate::Host::scope) or
    /// [`Host::owned_scope`](crate::Host::owned_scope). It has entered no plugin yet.
    fn to_run(&self) {}

    /// It is complete, on this thread, which for an owned scope may be another one: nothing of it is in a plugin any more.
    fn to_complete(&self) {}
}

pub(crate) type Named = (Arc<str>, Arc<dyn ScopeObserver>);

/// The units of work of one host.
pub(crate) struct Units {
    observers: Vec<Named>,
    journal: Arc<Journal>,
}

impl Units {
    /// `None`: there is nobody to be told.
    pub(crate) fn of(observers: &[Named], journal: &Arc<Journal>) -> Option<Arc<Units>> {
        let units = || Arc::new(Units { observers: observers.to_vec(), journal: journal.clone() });
        (!observers.is_empty()).then(units)
    }

    /// The unit that this thread is at, or a new one. `None`: it is an observer that asks.
    pub(crate) fn current(self: &Arc<Self>) -> Option<Arc<Unit>> {
        if TELLING.get() {
            return None;
        }
        let known = AT.with_borrow(|at| at.iter().find(|unit| Arc::ptr_eq(&unit.0, self)).cloned());
        Some(known.unwrap_or_else(|| {
            self.observers.iter().for_each(|one| self.tell(one, "to_run", |observer| observer.to_run()));
            Arc::new(Unit(self.clone()))
        }))
    }

    fn tell(&self, (name, observer): &Named, hook: &str, tell: impl FnOnce(&dyn ScopeObserver)) {
        let before = TELLING.replace(true);
        let told = catch_unwind(AssertUnwindSafe(|| tell(&**observer)));
        TELLING.set(before);
        if let Err(payload) = told {
            let what = format!("{hook}: the observer `{name}` panicked: {}", text_of(&*payload));
            self.journal.record(Event::Trouble { what });
        }
    }
}

/// A unit of work, shared by the scopes that belong to it. Dropped by the last of them, it is complete.
pub(crate) struct Unit(Arc<Units>);

impl Drop for Unit {
    fn drop(&mut self) {
        let units = &self.0;
        let told = units.observers.iter().rev();
        told.for_each(|one| units.tell(one, "to_complete", |observer| observer.to_complete()));
    }
}

thread_local! {
    /// Whether this thread runs an observer. What that does in scopes is no unit of its own, or there would be no end to it.
    static TELLING: Cell<bool> = const { Cell::new(false) };
    /// What this thread is at, of each host, innermost last.
    static AT: RefCell<Vec<Arc<Unit>>> = const { RefCell::new(Vec::new()) };
}

/// This thread is at a unit. Dropped on it, it is no more.
pub(crate) struct At(Arc<Unit>);

impl At {
    pub(crate) fn work(unit: Arc<Unit>) -> At {
        AT.with_borrow_mut(|at| at.push(unit.clone()));
        At(unit)
    }
}

impl Drop for At {
    fn drop(&mut self) {
        // The unit outlives the borrow: what `to_complete` does may begin another.
        let _ = AT.try_with(|at| {
            let mut at = at.borrow_mut();
            let last = at.iter().rposition(|unit| Arc::ptr_eq(unit, &self.0));
            last.map(|last| at.remove(last))
        });
    }
}
