//! The book of one generation: what its library has registered with the process and would leave behind.
//!
//! Every plugin's copies of `__cxa_thread_atexit_impl`, `pthread_key_create`, `pthread_key_delete` and
//! `pthread_create` end here (see `plugin_api`'s `capture`). Because libc then no longer pins the image, the
//! reaper closes it only when its book is empty.
//!
//! Invariants:
//! 1. Code of the image runs only while the book is open, and each such run is counted in `running` before
//!    the lock is released: [`Book::close`] succeeds only when nothing is registered, running or alive.
//! 2. A destructor runs exactly once, on the thread that registered it, unless the embedder allows that it be
//!    adopted: entries are taken out under the lock.
//! 3. No lock is held while code of the image runs.
//! 4. A thread of the plugin is counted before it is created and until no code of the image is left on it.
//! 5. A thread that has ended has nothing in any book, and nobody uses its memory: its exit hook goes through the
//!    books until nothing more is registered, and waits for whoever has adopted something of it.
//!
//! The models in `tests/loom/src/teardown.rs` check all of this; `scripts/mutants book` breaks it line by line.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock, PoisonError};

use plugin_api::abi::{ThreadExitFn, ThreadStartFn};

use super::os_linux as os;
use super::sync::{Condvar, Mutex, MutexGuard};
use crate::gate;

/// See the module.
pub(crate) struct Book {
    entries: Mutex<Entries>,
    /// Waited on by threads that end, until nobody runs what was theirs.
    adopted: Condvar,
    /// Told when something was struck out, so that whoever waits looks again.
    nudge: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Entries {
    /// Destructors of thread-locals, in the order of registration.
    destructors: Vec<Destructor>,
    /// With their destructors. By number, so that whoever goes through them passes none by when one is deleted.
    keys: BTreeMap<libc::pthread_key_t, Option<ThreadExitFn>>,
    threads: Vec<Thread>,
    /// Runs of the image's code on behalf of this book.
    running: usize,
    /// The owners of what is being run by somebody else.
    adopting: Vec<u32>,
    /// The generation retires: owners of destructors have been asked to run them.
    retiring: bool,
    /// Nothing is accepted and nothing runs any more.
    closed: bool,
    next_thread: u64,
}

struct Destructor {
    owner: u32,
    /// Whom to poke; none for a thread of this plugin, whose trampoline runs it.
    thread: Option<gate::ThreadRef>,
    run: ThreadExitFn,
    object: *mut c_void,
}

struct Thread {
    id: u64,
    /// The kernel's number; 0 while the thread has not begun.
    os_id: u32,
}

// SAFETY: the pointers are handed to destructors on the thread that registered them, and otherwise kept.
unsafe impl Send for Entries {}

/// Everything that is open. Threads that end look through it.
#[cfg(not(reseat_loom))]
static BOOKS: Mutex<Vec<Arc<Book>>> = Mutex::new(Vec::new());

#[cfg(not(reseat_loom))]
thread_local! {
    /// The calling thread runs the start routine of a thread of this book's plugin: what it registers there is run
    /// by the trampoline. No destructor of its own, so that it can be asked at any time.
    static STARTED_BY: Cell<*const Book> = const { Cell::new(ptr::null()) };
}

#[cfg(reseat_loom)]
loom::lazy_static! { static ref BOOKS: Mutex<Vec<Arc<Book>>> = Mutex::new(Vec::new()); }
#[cfg(reseat_loom)]
loom::thread_local! { static STARTED_BY: Cell<*const Book> = Cell::new(ptr::null()); }

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Opens a book.
    pub(crate) fn open() -> Arc<Book> {
        // The first setting stays.
        gate::set_errand_hook(run_retiring_on_this_thread);
        gate::on_thread_exit(run_all_on_this_thread);
        let book =
            Arc::new(Book { entries: Mutex::default(), adopted: Condvar::new(), nudge: OnceLock::new() });
        lock(&BOOKS).push(book.clone());
        book
    }

    /// Says whom to tell when something was struck out.
    pub(crate) fn on_change(&self, nudge: impl Fn() + Send + Sync + 'static) {
        let _ = self.nudge.set(Box::new(nudge));
    }

    /// The generation retires: asks every thread with pending destructors to run them when it next leaves a
    /// call, and runs the calling thread's at once.
    pub(crate) fn retire(&self) {
        let owners: Vec<_> = {
            let mut entries = lock(&self.entries);
            entries.retiring = true;
            entries.destructors.iter().filter_map(|entry| entry.thread).collect()
        };
        for owner in owners {
            owner.poke();
        }
        self.run_on_this_thread();
    }

    /// Whether nothing is left.
    ///
    /// # Errors
    /// What is left, as a phrase.
    pub(crate) fn check(&self) -> Result<(), String> {
        lock(&self.entries).check_empty()
    }

    /// Closes the book if it is empty, and deletes the keys.
    ///
    /// # Errors
    /// What is left, as a phrase.
    pub(crate) fn close(self: &Arc<Self>) -> Result<(), String> {
        {
            let mut entries = lock(&self.entries);
            if !entries.closed {
                entries.check_empty()?;
                // Under one lock: a thread that ends may begin with a value under a key at any time.
                entries.closed = true;
                for key in std::mem::take(&mut entries.keys).into_keys() {
                    os::key_delete(key);
                }
            }
        }
        lock(&BOOKS).retain(|book| !Arc::ptr_eq(book, self));
        Ok(())
    }

    /// Runs what the calling thread has registered, last first, until nothing is left: a destructor may
    /// register another. Whether there was anything.
    pub(crate) fn run_on_this_thread(&self) -> bool {
        let mut any = self.run_destructors();
        // As often as libc tries: a key's destructor may set a value again. It may register something, too.
        for _ in 0..4 {
            if !self.run_keys() {
                break;
            }
            self.run_destructors();
            any = true;
        }
        any
    }

    /// Runs the destructors of the host's threads on the calling thread, whosever they are; see
    /// [`Options::adopt_after`](crate::Options::adopt_after). How many. Threads of the plugin keep theirs, since they
    /// are still using them.
    pub(crate) fn adopt(&self) -> usize {
        let mut adopted = 0;
        while let Some(entry) = self.take_destructor(|entry| entry.thread.is_some()) {
            // SAFETY: run once, with its object (invariant 2); the image is mapped (invariant 1). Its owner is in no
            // call of the generation, and will be in none, so nobody uses the object, and if it ends it waits
            // (invariant 5); that it may be dropped on another thread is what the embedder has vouched for.
            unsafe { (entry.run)(entry.object) };
            adopted += 1;
            self.finish_run(entry.owner);
        }
        adopted
    }

    /// The calling thread ends: nobody may be at what was its own.
    fn wait_for_adopters(&self) {
        let me = os::thread_id();
        let mut entries = lock(&self.entries);
        while entries.adopting.contains(&me) {
            entries = self.adopted.wait(entries).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run_destructors(&self) -> bool {
        let (me, mut any) = (os::thread_id(), false);
        while let Some(entry) = self.take_destructor(|entry| entry.owner == me) {
            // SAFETY: registered for this thread with this object, and run once (invariant 2). The image is
            // mapped: the run is counted (invariant 1).
            unsafe { (entry.run)(entry.object) };
            self.finish_run(me);
            any = true;
        }
        any
    }

    /// The last one that is wanted. The caller runs it, and then says so.
    fn take_destructor(&self, wanted: impl FnMut(&Destructor) -> bool) -> Option<Destructor> {
        let mut entries = lock(&self.entries);
        if entries.closed {
            return None; // it is empty, unless finalizers have registered something since; no model has those
        }
        let at = entries.destructors.iter().rposition(wanted)?;
        let entry = entries.destructors.remove(at);
        entries.running += 1;
        if entry.owner != os::thread_id() {
            entries.adopting.push(entry.owner);
        }
        Some(entry)
    }

    /// What libc would do for keys at the end of a thread, once through. Whether there was a value.
    fn run_keys(&self) -> bool {
        let mut next = 0;
        while let Some((key, destructor, value)) = self.take_value(next) {
            // SAFETY: the plugin's own destructor for its own value on the thread that set it; the run is
            // counted (invariant 1).
            unsafe { destructor(value) };
            self.finish_run(os::thread_id());
            next = key + 1;
        }
        next > 0
    }

    /// The calling thread's first value under a key from this one on. The caller destroys it, and then says so.
    fn take_value(
        &self,
        from: libc::pthread_key_t,
    ) -> Option<(libc::pthread_key_t, ThreadExitFn, *mut c_void)> {
        let mut entries = lock(&self.entries);
        if entries.closed {
            return None; // closing has taken the keys; as above
        }
        let found = entries.keys.range(from..).find_map(|(&key, &destructor)| {
            let (destructor, value) = (destructor?, os::key_take(key));
            (!value.is_null()).then_some((key, destructor, value))
        })?;
        entries.running += 1;
        Some(found)
    }

    fn finish_run(&self, owner: u32) {
        let mut entries = lock(&self.entries);
        entries.running -= 1;
        let adopted = entries.adopting.iter().position(|&adopted| adopted == owner);
        if let Some(at) = adopted.filter(|_| owner != os::thread_id()) {
            entries.adopting.swap_remove(at);
            self.adopted.notify_all();
        }
        drop(entries);
        self.nudge();
    }

    fn nudge(&self) {
        if let Some(nudge) = self.nudge.get() {
            nudge();
        }
    }

    /// Stands in for `__cxa_thread_atexit_impl`.
    ///
    /// # Safety
    /// As for libc's; `run` is code of this book's image.
    pub(super) unsafe fn at_thread_exit(&self, run: ThreadExitFn, object: *mut c_void) -> c_int {
        let thread = if ptr::eq(STARTED_BY.with(Cell::get), self) {
            None
        } else {
            match gate::current_thread() {
                Some(thread) => Some(thread),
                // So late in the thread's end that its exit hook has run: libc keeps the image until it is over.
                // SAFETY: promised by the caller; a destructor's address lies inside of its image.
                None => return unsafe { os::at_thread_exit(run, object, run as *mut c_void) },
            }
        };
        let mut entries = lock(&self.entries);
        entries.destructors.push(Destructor { owner: os::thread_id(), thread, run, object });
        if entries.retiring
            && let Some(thread) = thread
        {
            thread.poke();
        }
        0
    }

    /// Stands in for `pthread_key_create`.
    pub(super) fn key_create(&self, destructor: Option<ThreadExitFn>) -> Result<libc::pthread_key_t, c_int> {
        let key = os::key_create()?;
        lock(&self.entries).keys.insert(key, destructor);
        Ok(key)
    }

    /// Stands in for `pthread_key_delete`.
    pub(super) fn key_delete(&self, key: libc::pthread_key_t) -> c_int {
        lock(&self.entries).keys.remove(&key);
        os::key_delete(key)
    }

    /// Stands in for `pthread_create`.
    ///
    /// # Safety
    /// As for libc's; `start` is code of this book's image.
    pub(super) unsafe fn thread_create(
        self: &Arc<Self>,
        thread: *mut libc::pthread_t,
        attributes: *const libc::pthread_attr_t,
        start: ThreadStartFn,
        argument: *mut c_void,
    ) -> c_int {
        let id = {
            let mut entries = lock(&self.entries);
            entries.next_thread += 1;
            let id = entries.next_thread;
            // Counted before it exists (invariant 4).
            entries.threads.push(Thread { id, os_id: 0 });
            id
        };
        let launch = Box::into_raw(Box::new(Launch { book: self.clone(), id, start, argument }));
        // SAFETY: promised by the caller; the trampoline takes the box exactly once, if the thread begins.
        let outcome = unsafe { os::thread_create(thread, attributes, trampoline, launch.cast()) };
        if outcome != 0 {
            // SAFETY: no thread began, so nobody took the box.
            drop(unsafe { Box::from_raw(launch) });
            self.strike_thread(id);
        }
        outcome
    }

    fn strike_thread(&self, id: u64) {
        lock(&self.entries).threads.retain(|thread| thread.id != id);
        self.nudge();
    }
}

impl Entries {
    fn check_empty(&self) -> Result<(), String> {
        if let Some(thread) = self.threads.first() {
            let others = self.threads.len() - 1;
            return Err(format!(
                "{} of the plugin still runs{}",
                describe(thread.os_id),
                and_others(others, "thread")
            ));
        }
        if self.running > 0 {
            return Err(format!("{} of its thread-local destructors are running", self.running));
        }
        if let Some(entry) = self.destructors.first() {
            let mut owners: Vec<u32> = self.destructors.iter().map(|entry| entry.owner).collect();
            owners.sort_unstable();
            owners.dedup();
            let others = owners.len() - 1;
            return Err(format!(
                "{} has thread-locals of the plugin and has not come by since{}",
                describe(entry.owner),
                and_others(others, "thread")
            ));
        }
        Ok(())
    }
}

fn describe(os_id: u32) -> String {
    match (os_id, os::thread_name(os_id)) {
        (0, _) => "a thread that has not begun".into(),
        (_, Some(name)) => format!("thread \"{name}\" ({os_id})"),
        (_, None) => format!("thread {os_id}"),
    }
}

fn and_others(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!(", and 1 other {what}"),
        n => format!(", and {n} other {what}s"),
    }
}

/// What the trampoline of a plugin's thread needs.
struct Launch {
    book: Arc<Book>,
    id: u64,
    start: ThreadStartFn,
    argument: *mut c_void,
}

/// The start routine of every thread that a plugin creates: code of the host, so that the image may be gone
/// by the time the thread is over.
unsafe extern "C-unwind" fn trampoline(launch: *mut c_void) -> *mut c_void {
    // SAFETY: `thread_create` passes a box for this thread alone.
    let launch = unsafe { Box::from_raw(launch.cast::<Launch>()) };
    let Launch { book, id, start, argument } = *launch;
    if let Some(thread) = lock(&book.entries).threads.iter_mut().find(|thread| thread.id == id) {
        thread.os_id = os::thread_id();
    }
    /// Runs on return, on `pthread_exit` and on cancellation.
    struct Leave(Arc<Book>, u64);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.run_on_this_thread();
            STARTED_BY.with(|book| book.set(ptr::null()));
            self.0.strike_thread(self.1);
        }
    }
    STARTED_BY.with(|place| place.set(Arc::as_ptr(&book)));
    let _leave = Leave(book, id);
    // SAFETY: the routine and argument that the plugin gave; its image is mapped, because the thread is counted.
    unsafe { start(argument) }
}

/// The gate's errand: this thread has destructors of a generation that retires.
fn run_retiring_on_this_thread() {
    for book in open_books() {
        if lock(&book.entries).retiring {
            book.run_on_this_thread();
        }
    }
}

/// The gate's exit hook: this thread ends. Goes round again if something has been run, since a destructor may have
/// called another plugin, and so have registered with a book that has been passed. Not for ever: what is left then,
/// by destructors that always register another, keeps its generation, with the reason.
fn run_all_on_this_thread() {
    const ROUNDS: usize = 16;
    let round = || open_books().iter().fold(false, |any, book| book.run_on_this_thread() | any);
    let _ = (0..ROUNDS).all(|_| round());
    open_books().iter().for_each(|book| book.wait_for_adopters());
}

fn open_books() -> Vec<Arc<Book>> {
    lock(&BOOKS).clone()
}
