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

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use plugin_api::abi::{ThreadExitFn, ThreadStartFn};

use super::os_linux as os;
use crate::gate;

/// See the module.
pub(crate) struct Book {
    entries: Mutex<Entries>,
    /// Told when something was struck out, so that whoever waits looks again.
    nudge: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Entries {
    /// Destructors of thread-locals, in the order of registration.
    destructors: Vec<Destructor>,
    keys: Vec<Key>,
    threads: Vec<Thread>,
    /// Runs of the image's code on behalf of this book.
    running: usize,
    /// The generation retires: owners of destructors have been asked to run them.
    retiring: bool,
    /// Nothing is accepted and nothing runs any more.
    closed: bool,
    next_thread: u64,
}

struct Destructor {
    owner: u32,
    thread: Option<gate::ThreadRef>,
    run: ThreadExitFn,
    object: *mut c_void,
}

struct Key {
    key: libc::pthread_key_t,
    destructor: Option<ThreadExitFn>,
}

struct Thread {
    id: u64,
    /// The kernel's number; 0 while the thread has not begun.
    os_id: u32,
}

// SAFETY: the pointers are handed to destructors on the thread that registered them, and otherwise kept.
unsafe impl Send for Entries {}

/// Everything that is open. Threads that end look through it.
static BOOKS: Mutex<Vec<Arc<Book>>> = Mutex::new(Vec::new());

thread_local! {
    /// The calling thread runs the start routine of a plugin's thread: its destructors are run by the
    /// trampoline. No destructor of its own, so that it can be asked at any time.
    static ON_PLUGIN_THREAD: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Opens a book.
    pub(crate) fn open() -> Arc<Book> {
        static HOOKS: OnceLock<()> = OnceLock::new();
        HOOKS.get_or_init(|| {
            gate::set_errand_hook(run_retiring_on_this_thread);
            gate::on_thread_exit(run_all_on_this_thread);
        });
        let book = Arc::new(Book { entries: Mutex::default(), nudge: OnceLock::new() });
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
                entries.closed = true;
                for key in entries.keys.drain(..) {
                    os::key_delete(key.key);
                }
            }
        }
        lock(&BOOKS).retain(|book| !Arc::ptr_eq(book, self));
        Ok(())
    }

    /// Runs what the calling thread has registered, last first, until nothing is left: a destructor may
    /// register another.
    pub(crate) fn run_on_this_thread(&self) {
        let me = os::thread_id();
        while let Some((run, object)) = self.take_destructor(me) {
            // SAFETY: registered for this thread with this object, and run once (invariant 2). The image is
            // mapped: the run is counted (invariant 1).
            unsafe { run(object) };
            self.finish_run();
        }
        self.run_keys_on_this_thread();
    }

    /// Runs all destructors on the calling thread, whosever they are; see
    /// [`Options::adopt_after`](crate::Options::adopt_after). How many.
    pub(crate) fn adopt(&self) -> usize {
        let mut adopted = 0;
        while let Some((run, object)) = self.take_destructor_if(|_| true) {
            // SAFETY: run once, with its object (invariant 2); the image is mapped (invariant 1). Its owner is in no
            // call of the generation, and will be in none, so nobody uses the object; that it may be dropped on
            // another thread is what the embedder has vouched for.
            unsafe { run(object) };
            adopted += 1;
            self.finish_run();
        }
        adopted
    }

    fn take_destructor(&self, owner: u32) -> Option<(ThreadExitFn, *mut c_void)> {
        self.take_destructor_if(|entry| entry.owner == owner)
    }

    fn take_destructor_if(
        &self,
        mut wanted: impl FnMut(&Destructor) -> bool,
    ) -> Option<(ThreadExitFn, *mut c_void)> {
        let mut entries = lock(&self.entries);
        if entries.closed {
            return None;
        }
        let at = entries.destructors.iter().rposition(&mut wanted)?;
        let entry = entries.destructors.remove(at);
        entries.running += 1;
        Some((entry.run, entry.object))
    }

    /// What libc would do for keys at the end of a thread.
    fn run_keys_on_this_thread(&self) {
        // As often as libc tries: a destructor may set a value again.
        for _ in 0..4 {
            let mut any = false;
            for index in 0.. {
                let (value, destructor) = {
                    let mut entries = lock(&self.entries);
                    if entries.closed {
                        return;
                    }
                    let Some(key) = entries.keys.get(index) else { break };
                    let (key, destructor) = (key.key, key.destructor);
                    let Some(destructor) = destructor else { continue };
                    let value = os::key_take(key);
                    if value.is_null() {
                        continue;
                    }
                    entries.running += 1;
                    (value, destructor)
                };
                any = true;
                // SAFETY: the plugin's own destructor for its own value on the thread that set it; the run is
                // counted (invariant 1).
                unsafe { destructor(value) };
                self.finish_run();
            }
            if !any {
                return;
            }
        }
    }

    fn finish_run(&self) {
        lock(&self.entries).running -= 1;
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
        let thread = if ON_PLUGIN_THREAD.get() {
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
        lock(&self.entries).keys.push(Key { key, destructor });
        Ok(key)
    }

    /// Stands in for `pthread_key_delete`.
    pub(super) fn key_delete(&self, key: libc::pthread_key_t) -> c_int {
        lock(&self.entries).keys.retain(|entry| entry.key != key);
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
            ON_PLUGIN_THREAD.set(false);
            self.0.strike_thread(self.1);
        }
    }
    ON_PLUGIN_THREAD.set(true);
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

/// The gate's exit hook: this thread ends.
fn run_all_on_this_thread() {
    for book in open_books() {
        book.run_on_this_thread();
    }
}

fn open_books() -> Vec<Arc<Book>> {
    lock(&BOOKS).clone()
}

/// Whether what this host captures is captured: a registration made by hand on a thread arrives in its book
/// and is run when the thread ends.
pub(crate) fn self_test() -> bool {
    use std::sync::atomic::{AtomicBool, Ordering};
    unsafe extern "C" fn ran(mark: *mut c_void) {
        // SAFETY: the mark that was registered, which is kept until the thread has ended.
        unsafe { &*mark.cast::<AtomicBool>() }.store(true, Ordering::Release);
    }
    let book = Book::open();
    // Its own, since several hosts may start at once.
    let mark = Arc::new(AtomicBool::new(false));
    let (on_thread, on_mark) = (book.clone(), mark.clone());
    let registered = std::thread::Builder::new()
        .name("reseat-selftest".into())
        .spawn(move || {
            let object = Arc::as_ptr(&on_mark).cast_mut().cast();
            // SAFETY: the destructor is a function of this program, and gets the mark that it expects.
            unsafe { on_thread.at_thread_exit(ran, object) == 0 && on_thread.close().is_err() }
        })
        .is_ok_and(|thread| thread.join().unwrap_or(false));
    let emptied = book.close().is_ok();
    registered && emptied && mark.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    #[test]
    fn hosts_that_start_at_once_find_the_same() {
        std::thread::scope(|threads| {
            let testers = [(); 8].map(|()| threads.spawn(|| (0..50).all(|_| super::self_test())));
            assert!(testers.into_iter().all(|tester| tester.join().unwrap()));
        });
    }
}
