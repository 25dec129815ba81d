//! Generations that can be called beside the current one: further slots of the same plugin, and the way of a
//! generation from one of them into another.
//!
//! Invariants:
//! 1. A generation is current in one slot at a time: it is taken out of one, by a retirement, before it is put into another.
//! 2. All slots of a plugin have one id, by which nested calls find their call tree's generation in whichever slot that was
//!    entered. Whoever calls only ever sees the slot that it enters.

#![allow(unsafe_code)] // a generation goes back from `Retired` to `current`

use super::drain::Retired;
use super::error::SwapError;
use super::generation::Kept;
use super::guard::Guard;
use super::slot::{Slot, State};
use super::thread;

impl<T: Send + Sync + 'static> Slot<T> {
    /// An empty slot beside this one. What is entered there is inherited by calls that are nested in it through either of
    /// the two, and by nobody else.
    pub fn beside(&self) -> Self {
        Self::with_id(self.id)
    }

    /// Makes a generation current that was retired from a slot beside this one, or from this one, as it is: whoever is in
    /// it stays. Returns the one before, as [`swap`](Self::swap) does.
    ///
    /// The proof is that of the head of the module, where the generation g has been retired from the slot A (its W1 and W2)
    /// and goes on in the slot B, which may be A again:
    ///
    /// 1. *Nobody frees g meanwhile*: only a `Retired` leads to that, and there is one, which is used up here.
    /// 2. *A call that entered g through A*, before or after, holds a frame or a lease as any other. W3 and W4 of a later
    ///    drain look through the frames of all threads, and at the leases of g: neither knows of slots.
    /// 3. *A call that is about to enter g through A* while g is retired from B, with R2 after the P of that retirement: W1
    ///    at A comes before the store below, by program order of whoever had the `Retired`; that store is a Release, which
    ///    W1 at B has acquired; and that comes before P. So its R4 reads at A what W1 has put there or something later. That
    ///    is not g, unless g has come back to A, and then it has been taken out of A again before B got it (invariant 1).
    ///    With R2 before P it is case 1 of the module.
    /// 4. *Between the two slots* g is in neither. Calls that begin then find what is there: nothing in A, or in B the one
    ///    before. Nested ones inherit, by the id.
    /// 5. *No wake-up is lost*: the mark of the retirement is taken back before g is current anywhere, so a writer that
    ///    retires it anew at once sets it after that, and the last lease sees it.
    ///
    /// # Errors
    /// Gives it back, still retired, if the gate is closed.
    ///
    /// # Panics
    /// If it is of another plugin's slot.
    pub fn adopt(&self, retired: Retired<T>) -> Result<Option<Retired<T>>, SwapError<Retired<T>>> {
        assert_eq!(retired.slot(), self.id, "a generation goes on in a slot beside the one that it was in");
        let generation = retired.reinstate(); // case 5: before it is current
        match self.replace(generation.as_ptr(), |state| !matches!(state, State::Paused)) {
            Ok(old) => Ok(self.retire(old)),
            Err(_) => {
                // SAFETY: it was retired until above, is in no slot, and nobody else can retire it.
                let value = Retired::new(unsafe { Kept::new(generation) });
                Err(SwapError { value })
            }
        }
    }

    /// The generation that a call on this thread would inherit, if it is inside of one of this plugin.
    pub fn inherited(&self) -> Option<Guard<'_, T>> {
        self.inherit(thread::current()?)
    }
}

#[cfg(all(test, not(reseat_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_generation_goes_from_slot_to_slot_with_those_who_are_in_it() {
        let main = Slot::new(1);
        let side = main.beside();
        assert!(side.swap(2).unwrap().is_none());
        assert_eq!(*main.enter().unwrap(), 1);
        let inside = side.enter().unwrap();
        let old = main.adopt(side.close().unwrap().unwrap()).unwrap().unwrap();
        assert_eq!(old.into_inner().unwrap(), 1);
        // Nested, inherited and new: all are in it.
        assert_eq!([*inside, *main.enter().unwrap(), *side.enter().unwrap()], [2; 3]);
        let mut second = main.swap(3).unwrap().unwrap();
        assert!(!second.poll(), "the one inside has entered through the other slot");
        drop(inside);
        assert_eq!(second.into_inner().unwrap(), 2);
        assert!(side.try_enter().is_err() && *main.enter().unwrap() == 3);
    }

    #[test]
    fn what_is_retired_goes_on_beside_and_can_be_retired_again() {
        let main = Slot::new(1);
        let side = main.beside();
        let lease = main.lease().unwrap();
        assert!(side.adopt(main.swap(2).unwrap().unwrap()).unwrap().is_none());
        assert_eq!(*side.enter().unwrap(), 1);
        assert_eq!((*main.enter().unwrap(), *lease), (2, 1));
        let mut old = side.close().unwrap().unwrap();
        assert!(!old.poll());
        drop(lease);
        assert_eq!(old.into_inner().unwrap(), 1);
    }

    #[test]
    fn a_call_tree_is_in_the_generation_of_its_outermost_call_in_whichever_slot_that_is() {
        let main = Slot::new(1);
        let side = main.beside();
        side.swap(2).unwrap();
        assert!(main.inherited().is_none());
        let outer = main.enter().unwrap();
        assert_eq!((*side.enter().unwrap(), *main.inherited().unwrap()), (1, 1));
        drop(outer);
        let _outer = side.enter().unwrap();
        assert_eq!((*main.enter().unwrap(), *main.inherited().unwrap()), (2, 2));
        assert!(Slot::new(7).inherited().is_none(), "another plugin's");
    }

    #[test]
    fn at_a_closed_gate_it_is_given_back_and_drains_as_before() {
        let main = Slot::new(1);
        let side = main.beside();
        side.swap(2).unwrap();
        let pause = main.pause().unwrap();
        let mut back = main.adopt(side.close().unwrap().unwrap()).unwrap_err().value;
        assert!(back.poll());
        drop(pause);
        assert_eq!(*main.enter().unwrap(), 1);
        assert_eq!(back.into_inner().unwrap(), 2);
    }

    #[test]
    #[should_panic(expected = "a slot beside the one that it was in")]
    fn another_plugins_generation_is_not_taken() {
        let other = Slot::new(1).swap(2).unwrap().unwrap();
        let _ = Slot::new(3).adopt(other);
    }
}
