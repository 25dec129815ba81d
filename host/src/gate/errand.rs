//! What others ask of a thread: to say when it leaves, and to run something only it may run.
//!
//! A host that unloads plugins has such work: the destructors of a plugin's thread-locals must run on
//! the threads that own them. It registers one hook for "when convenient" and one for "at the end".
//! Both are plain functions, both are for the whole process, and neither may panic.

use super::record::{NoteCell, Record, wake};
use super::registry::registry;
use super::thread;
use std::sync::OnceLock;

static ERRAND_HOOK: OnceLock<fn()> = OnceLock::new();
static EXIT_HOOK: OnceLock<fn()> = OnceLock::new();

/// Sets what a poked thread runs, outside any call. The first setting stays.
///
/// The hook may enter slots. A poke that comes while it runs is not lost and not nested: it is served
/// by the thread's next exit.
pub fn set_errand_hook(hook: fn()) {
    let _ = ERRAND_HOOK.set(hook);
}

/// Sets what each thread that has come to the gate runs while its thread-locals are destroyed. The
/// first setting stays.
///
/// The hook may enter slots. After it the thread runs no errands; calls that its remaining
/// thread-locals make still work, and cost some hundred nanoseconds each.
///
/// # Platform notes
///
/// The main thread runs it inside `exit`. A thread that is killed with the process does not.
pub fn on_thread_exit(hook: fn()) {
    let _ = EXIT_HOOK.set(hook);
}

static LEAVE_HOOK: OnceLock<fn(&'static NoteCell) -> bool> = OnceLock::new();

/// Sets what runs when a call ends of which [`Spot::tell_on_leave`](super::Spot::tell_on_leave) was asked for, on its thread. The first setting stays.
///
/// The generation may be gone by then. The hook gets the word that was beside the guard, see
/// [`Guard::note`](super::Guard::note), and says whether it is to be told of the next call at that place as well, asked
/// for or not: to ask anew each time is dearer where all calls are of interest. It must not block, and must bear being
/// called in a signal handler.
pub fn set_leave_hook(hook: fn(&'static NoteCell) -> bool) {
    let _ = LEAVE_HOOK.set(hook);
}

/// Whether the next call at this place is to be told of, too.
pub(super) fn tell_of_leaving(note: &'static NoteCell) -> bool {
    LEAVE_HOOK.get().is_some_and(|hook| hook(note))
}

/// Runs the errand hook now if this thread was poked and is in no call; says whether it ran.
pub fn run_errands() -> bool {
    thread::current().is_some_and(|record| record.depth() == 0 && run_pending(record))
}

/// Runs `f` with this thread's errands put off until a later exit.
///
/// A signal handler that enters a slot must do so inside this. Otherwise its exit might run the errand hook in the
/// handler, and would tidy the thread's record while the call that it has interrupted may be changing it: then a
/// later call of this thread could go unprotected.
pub fn hold_errands<R>(f: impl FnOnce() -> R) -> R {
    let _held = thread::current().map(Held::new);
    f()
}

struct Held(&'static Record);

impl Held {
    fn new(record: &'static Record) -> Self {
        record.errands_held.set(record.errands_held.get() + 1);
        Self(record)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.errands_held.set(self.0.errands_held.get() - 1);
    }
}

/// The slow side of leaving: this thread has emptied a frame and found a request.
#[cold]
pub(super) fn attend(record: &'static Record) {
    answer_drainers(record);
    let depth = record.depth();
    record.settle(depth);
    if depth != 0 {
        return; // an errand is run outside any call
    }
    if record.requests() & wake::LATE != 0 {
        thread::give_back_late(record);
    } else {
        run_pending(record);
    }
}

pub(super) fn answer_drainers(record: &Record) {
    if record.accept(wake::NOTICE) {
        registry().notify_drainers();
    }
}

/// The caller has seen that no frame is occupied.
pub(super) fn run_pending(record: &'static Record) -> bool {
    let Some(hook) = ERRAND_HOOK.get() else { return false };
    let run = record.errands_held.get() == 0 && record.accept(wake::ERRAND);
    if run {
        let _held = Held::new(record);
        hook();
    }
    run
}

/// The thread ends. Its record runs no errands any more, whatever the hook and later exits do.
pub(super) fn thread_exits(record: &'static Record) {
    record.errands_held.set(1);
    if let Some(hook) = EXIT_HOOK.get() {
        hook();
    }
}
