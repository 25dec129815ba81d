//! What a thread does in units of work, for the calls from plugin to plugin: they do not know of scopes, and belong to them all
//! the same.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError};

use super::{Held, OwnedScope, hold};
use crate::gate::{self, EnterError};
use crate::peer::Pinned;
use crate::plugin::{Loaded, Plugin};

thread_local! {
    /// Whether this thread works in a scope, or inside of an owned one. Looked at by each call from plugin to plugin.
    static IS_IN_UNIT: Cell<bool> = const { Cell::new(false) };
    /// What plugins have called in the outermost scope of this thread.
    static CALLED: RefCell<Vec<Pinned>> = const { RefCell::new(Vec::new()) };
    /// What this thread does inside of owned scopes, innermost last.
    static INSIDE: RefCell<Vec<InsideOf>> = const { RefCell::new(Vec::new()) };
}

/// An owned scope, as a thread that is inside of it knows it.
struct InsideOf {
    held: Held,
    /// What it holds, as far as it was seen here, so that no call needs to ask it: the plugins, to be compared, and the marks of
    /// them.
    known: Vec<(*const Plugin, gate::Here<Loaded>)>,
}

impl InsideOf {
    fn knows(&self, plugin: &Arc<Plugin>) -> bool {
        self.known.iter().any(|(known, _)| std::ptr::eq(*known, &**plugin))
    }
}

/// A plugin is about to be called by another one on this thread: if that happens in a unit of work, it is called in one
/// generation until the end of that.
///
/// # Errors
/// It cannot be entered.
pub(crate) fn note_call(plugin: &Arc<Plugin>) -> Result<(), EnterError> {
    if is_noted(plugin) { Ok(()) } else { pin(plugin) }
}

/// Whether there is nothing to be noted.
#[inline(always)]
pub(crate) fn is_noted(plugin: &Arc<Plugin>) -> bool {
    !IS_IN_UNIT.get() || is_pinned(plugin)
}

/// Whether the unit of work has called it before. Looks at one word for each plugin that it has.
#[inline(never)]
fn is_pinned(plugin: &Arc<Plugin>) -> bool {
    match INSIDE.with_borrow(|inside| inside.last().map(|inside| inside.knows(plugin))) {
        Some(knows) => knows,
        None => CALLED.with_borrow(|called| called.iter().any(|known| known.is_of(plugin))),
    }
}

#[cold]
fn pin(plugin: &Arc<Plugin>) -> Result<(), EnterError> {
    let owned = INSIDE.with_borrow(|inside| inside.last().map(|inside| inside.held.clone()));
    if let Some(held) = owned {
        return hold(&held, plugin, || plugin.enter_for_a_scope().map(|guard| guard.lease())).map(drop);
    }
    let pinned = Pinned::enter(plugin)?;
    CALLED.with_borrow_mut(|called| called.push(pinned));
    Ok(())
}

/// The outermost scope of a thread. Dropped, it leaves what plugins have called in it.
pub(super) struct Called {
    is_outermost: bool,
    _thread: PhantomData<*mut ()>,
}

impl Called {
    pub(super) fn begin() -> Called {
        Called { is_outermost: !IS_IN_UNIT.replace(true), _thread: PhantomData }
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        if self.is_outermost {
            IS_IN_UNIT.set(false);
            // Outlives the borrow: a thread that leaves may have errands, which may come here.
            let mut called = CALLED.take();
            // Innermost first, as calls are left.
            while let Some(pinned) = called.pop() {
                pinned.leave();
            }
        }
    }
}

/// A thread is inside of an owned scope. Dropped on it, it is no more.
pub(super) struct Inside {
    was_in_unit: bool,
    _thread: PhantomData<*mut ()>,
}

impl Inside {
    pub(super) fn begin(scope: &OwnedScope) -> Inside {
        let known = {
            let held = scope.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.iter().map(|entered| (Arc::as_ptr(&entered.plugin), entered.held.here())).collect()
        };
        INSIDE.with_borrow_mut(|inside| inside.push(InsideOf { held: scope.held.clone(), known }));
        Inside { was_in_unit: IS_IN_UNIT.replace(true), _thread: PhantomData }
    }

    /// The scope has this, entered by this thread or by another.
    pub(super) fn also(scope: &Held, plugin: &Arc<Plugin>, lease: &gate::Lease<Loaded>) {
        INSIDE.with_borrow_mut(|inside| {
            let inside = inside.iter_mut().rev().find(|inside| Arc::ptr_eq(&inside.held, scope));
            if let Some(inside) = inside.filter(|inside| !inside.knows(plugin)) {
                inside.known.push((Arc::as_ptr(plugin), lease.here()));
            }
        });
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IS_IN_UNIT.set(self.was_in_unit);
        // Outlives the borrow, as above.
        let _last = INSIDE.with_borrow_mut(Vec::pop);
    }
}
