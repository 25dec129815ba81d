//! Calls into a value that may be replaced at any moment, and the moment from which nobody is in it.
//!
//! A [`Slot`] is where values, the generations of a plugin, succeed one another. A caller enters it and
//! gets a [`Guard`]; a writer swaps it and gets the old generation back as a [`Retired`], which drains.
//! Entering and leaving cost about as much as the call through a function pointer between them: a
//! caller writes to its own thread's line only, and executes no fence and no atomic
//! read-modify-write. All of the price is paid by the writer.
//!
//! # What is not promised
//!
//! * A drain ends only if the calls do. A call that never returns, or a leaked guard, keeps its
//!   generation for ever; that is reported, with the thread, and nothing is killed.
//! * Frames see calls from the host into a generation. What such a call leaves behind (a thread, a
//!   callback, an object with code) must carry a [`Lease`].
//! * The gate must be in the process once. A second copy, in a plugin say, is a second registry.
//!
//! # The algorithm
//!
//! Each thread has a record with a stack of frames. A frame holds the generation that a call on this
//! thread's stack is in. Drainers read all frames of all threads.
//!
//! ```text
//! caller, in its own record                    writer and drainer
//! R0  no frame occupied? take frame 0          W1  old = current.swap(new)                 AcqRel
//! R1  p = current                    Relaxed   W2  heavy fence
//! R2  frame = p, unvalidated         Release   W3  any frame of any record == old?         Acquire
//! R3  light fence                                  records, then frames in ascending order
//! R4  q = current; q != p: undo R2   Acquire   W4  then: any lease of old?                 Acquire
//! R5  frame = q                      Release   W5  neither: the value is free
//!     … the call …
//! R6  frame = null                   Release   D1  n = number of notices
//! R7  light fence; any request?                D2  ask those found in W3 to notify
//!     then serve it                            D3  heavy fence
//!                                              D4  W3, W4 again; sleep unless notices != n
//! ```
//!
//! The light fence is a compiler fence and the heavy one is a `membarrier`; see [`fence_mode`] for the
//! other pair. This is liburcu-memb, or hazard pointers with asymmetric fences, applied to generations.
//!
//! # Proof
//!
//! *Claim: when [`Retired::drain`] returns `Ok`, no call that entered the generation g is in flight or
//! will ever begin, and all that such calls did happens before the return.*
//!
//! During W2, membarrier gives each running thread T a point P in its program with a full barrier: what
//! the writer did before W2 is visible to T after P, and what T did before P is visible to the writer
//! after W2. A thread that is not running is at a context switch, which has that barrier. The compiler
//! fence keeps R2 before R4, and R6 before R7, in T's program. The cases of a call:
//!
//! 1. **It validated, with R2 before P.** W3 reads R2 or a later store to that frame. The frame is this
//!    guard's until R6, so a later store means that R6 has been executed. Every store to a frame is
//!    Release and W3 is Acquire, so the call's effects come before W5. R2 must be Release too: W3 may
//!    read a later call's R2 in place of R6, and a relaxed store does not continue R6's release
//!    sequence.
//! 2. **R2 after P.** Then R4 is after P, and reads W1 or something later, so not g: the call does not
//!    validate. If g has been freed and its address used again, the two reads are equal by address and
//!    the one that is followed, R4's, is the living one.
//! 3. **It is nested** in a call to the same slot, and copies that call's frame to a *higher* one
//!    without checking `current`, so as to pass a closed gate. W3 ascends: if it reads the lower frame
//!    as emptied already, that emptying came after the copy, and W3 sees the copy. Further blocks of
//!    frames are higher than the first, and linked before anything is copied into them. The quick way copies from
//!    a frame of the first block to one of the same, and so upwards too.
//! 4. **Its thread came later**, or its record was pushed after W3 had read the list: then the push is
//!    after P, or the thread first ran after W2, and this is case 2. A record that changes owners is
//!    handed over by Release and Acquire, so to W3 two owners are one thread.
//! 5. **It runs under a lease.** A lease is made from a guard or from another lease, and nothing makes a
//!    frame from a lease: a call nested in [`Lease::call`] is counted as a lease itself. As tokens only
//!    ever go from frames to leases, looking at frames first misses none.
//!
//! Since no validated frame of g appears once W3 has passed it, "not found once" is "not there any more".
//! The claims beside it:
//!
//! 6. **No wake-up is lost.** R6, R7 against D2 to D4: by D3 either the leaving thread sees the request,
//!    or D4 sees the empty frame. The notification advances the number that D1 has read, so the sleep
//!    does not begin or ends. This holds for those who were *asked before* D3. D4 may find another: a
//!    thread whose R2, based on an old R1, has come in between, and which will undo it without a word.
//!    Therefore the drainer sleeps only if everybody it finds was asked, and looks again otherwise. The
//!    last lease of a retired generation notifies unasked. Sleeps are short all the same, see
//!    `Fence::nap`.
//! 7. **No errand is lost.** Requests are a set, each member set and taken by read-modify-write. A poke
//!    that an exit just misses stays for the next one.
//! 8. **No waiter stays at an open gate.** A waiter counts itself and then reads the opening number and
//!    `current`; opening stores `current`, advances the number and then reads the count; a full fence on
//!    each side. So either it is woken, or it does not sleep.
//! 9. **Ages are true.** A straggler has validated, so its R4 came before its P, which came before the
//!    end of W2, when the clock is read. A nested guard may be younger; its call tree is not.
//! 10. **The sampler changes nothing.** [`sample_ages`] adds a mark to an occupied frame by a compare and
//!     exchange. It fails if the owner has written meanwhile, and it never fills or empties a frame, so each
//!     frame holds what its owner put there. All readers disregard the mark. As a read-modify-write it
//!     continues the owner's release sequence: W3 that reads the mark synchronizes with the R2 or R5 below it.
//!     The owner's next store writes the whole word, so a mark is of the guard that is there, and its age true.
//! 11. **A generation may be current in another slot, or again.** [`Slot::adopt`] has the cases.
//!
//! The models in `tests/loom` check all of this with full fences for membarrier, whose effect is not
//! part of the language's memory model; `scripts/mutants` breaks each line that matters and demands
//! that a model notices. What no model can notice says so where it stands.
//!
//! # Corners
//!
//! * *Panics* in a call drop the guard like everything else.
//! * *A thread that ends inside a call* (cancelled, or it leaked a guard) leaves its record an orphan: the
//!   generation stays, the report says why, and the record is not used again.
//! * *Calls from destructors of thread-locals* work, also after the thread's record went back.
//! * *Signal handlers* may enter slots: each store to a record leaves it in order, and an unvalidated
//!   frame is never followed. The thread must have come to the gate before ([`current_thread`]), since
//!   that allocates, and so does every eighth depth of calls the first time; use [`Slot::try_enter`]. They
//!   *must* do so inside [`hold_errands`], which says why.
//! * *After `fork`* the child has the forking thread only. The frames of the others stay, so what they
//!   were in does not drain there: safe, and never unloaded. membarrier stays granted.
//! * *Two slots paused at once*, by two writers, and a call in each that nests into the other: a circle
//!   that only the deadline of a drain breaks. Swapping does not have it. Nor have slots that one writer closes
//!   together, as a [`PausedSet`]: a call that is inside of one of them passes the gates of the others. Its proof is in `set`.

mod ages;
mod beside;
mod drain;
mod enter;
mod errand;
mod error;
mod fence;
mod frame;
mod futex;
mod generation;
mod guard;
mod lease;
mod os;
mod paused;
mod record;
mod registry;
mod set;
mod slot;
mod stragglers;
mod sync;
#[cfg(all(test, not(reseat_loom)))]
mod tests;
mod thread;

pub use ages::sample_ages;
pub use drain::Retired;
pub use errand::{hold_errands, on_thread_exit, run_errands, set_errand_hook, set_leave_hook};
pub use error::{EnterError, PauseError, SwapError};
pub use fence::fence_mode;
pub use guard::{Guard, Spot};
pub(crate) use lease::Here;
pub use lease::Lease;
pub use paused::Paused;
pub use record::NoteCell;
pub use set::PausedSet;
pub use slot::Slot;
pub use stragglers::{Held, Straggler, Stragglers};
#[cfg(reseat_loom)]
pub use thread::end_current_thread;
pub use thread::{ThreadRef, current_thread};
