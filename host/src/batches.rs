//! Batches of work, and the gaps between them in which plugins are reloaded: one gap for all consumers.
//!
//! All of it is one state under one lock, with one condition for whoever waits. A batch takes the lock twice.
//!
//! Invariants:
//! 1. The way is *open*, and batches begin; or *closing*: none begins, and the consumer that has closed it waits for those
//!    under way; or *shut*: none is under way, and that consumer reloads and then calls back. Who has closed the way opens
//!    it again, also by a panic.
//! 2. A reload begins, and has ended, while the way is shut. So this helper publishes nothing during a batch.
//! 3. After a reload the callbacks have been called, once, before the way opens. So no batch is in a generation that has come
//!    in a gap before they have been.
//! 4. The way is closing for no longer than the limit. When that passes it opens, with the old build, and is not closed again
//!    while one of the batches lasts that stood in the way. So a batch that waits for another thread's comes to an end.
//! 5. Who is in a batch begins no other: on its thread, in a part of it, or in a callback, work is done at once.
//! 6. A batch is under way until the last of its parts is dropped, also by a panic.
//! 7. The lock is not held while anything of a plugin, of the work or of a callback runs. It is taken before a plugin's record.

mod gap;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::events::Event;
use crate::host::Host;
use crate::lock::lock;
use crate::outcome::Outcome;
use crate::registry::Core;
use crate::scope::{self, Scope};
use crate::unit::Units;

use gap::{Due, Refused};

/// Unless told otherwise, how long a reload waits for batches.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// Batches of work, by however many consumers: each batch is a scope, and plugins are reloaded between two of them. See
/// [`Host::batches`]. Cheap to clone; stays valid beyond the host, where nothing is reloaded any more.
#[derive(Clone)]
pub struct Batches {
    shared: Arc<Shared>,
}

/// A part of a batch, to be done on another thread. See [`Batches::part`].
#[derive(Clone)]
pub struct BatchPart {
    ticket: Arc<Ticket>,
}

type Callback = Arc<dyn Fn(&[Outcome]) + Send + Sync>;

/// What the clones share.
struct Shared {
    core: Weak<Core>,
    units: Option<Arc<Units>>,
    plugins: Vec<String>,
    between: Mutex<Vec<Callback>>,
    state: Mutex<State>,
    /// Told when the way opens or is shut, and when nobody is under way any more.
    changed: Condvar,
}

struct State {
    way: Way,
    limit: Duration,
    /// The number of the next batch.
    next: u64,
    under_way: BTreeMap<u64, Member>,
    /// Those with a lower number stood in the way when a reload was given up.
    given_up: u64,
    /// The builds that were refused, by plugin.
    refused: BTreeMap<String, Refused>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Closing,
    Shut,
}

/// A batch under way.
struct Member {
    thread: Thread,
    since: Instant,
}

impl Host {
    /// Batches of work between which these plugins are reloaded: those of them that are in mode
    /// [`OnDemand`](crate::ReloadMode::OnDemand).
    ///
    /// A consumer does each of its batches in [`Batches::run`]. When a build of one of these plugins waits, whoever is the
    /// first to begin a batch lets those under way end, while others wait to begin theirs; it reloads, has the callbacks of
    /// [`Batches::between`] called once, and all go on. So no batch is in two builds, and none is in a new one before
    /// the callbacks know of it.
    ///
    /// ```no_run
    /// # use rate_limiter_interface::RateLimiter;
    /// # fn consume(host: &reseat::Host, limiter: reseat::Handle<dyn RateLimiter>, next: fn() -> Option<Vec<String>>) {
    /// let batches = host.batches(["limiter"]);
    /// batches.between(|reloads| println!("{} reloaded: caches are cleared", reloads.len()));
    /// for _ in 0..4 {
    ///     let (batches, limiter) = (batches.clone(), limiter.clone());
    ///     std::thread::spawn(move || {
    ///         while let Some(keys) = next() {
    ///             batches.run(|scope| {
    ///                 let limiter = scope.enter(&limiter)?;
    ///                 keys.iter().try_for_each(|key| limiter.check(key, 1).map(drop))
    ///             }).unwrap();
    ///         }
    ///     });
    /// }
    /// # }
    /// ```
    ///
    /// # What is not promised
    /// * A plugin in another mode, and one that somebody else has reloaded, rolled back or unloaded, changes whenever that
    ///   happens. A batch still sees one generation of it, as any scope does, but the callbacks are not called, and two
    ///   batches at the same time may be in two generations.
    /// * Of work outside of batches nothing is known. A guard or lease there holds up a reload in a gap as it does any other.
    pub fn batches<N: Into<String>>(&self, plugins: impl IntoIterator<Item = N>) -> Batches {
        let state = State {
            way: Way::Open,
            limit: WAIT_LIMIT,
            next: 0,
            under_way: BTreeMap::new(),
            given_up: 0,
            refused: BTreeMap::new(),
        };
        let shared = Shared {
            core: Arc::downgrade(&self.core),
            units: self.units.clone(),
            plugins: plugins.into_iter().map(Into::into).collect(),
            between: Mutex::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Batches { shared: Arc::new(shared) }
    }
}

impl Batches {
    /// Has this called in each gap in which something was reloaded, with what was: to clear caches, say. Of several, the
    /// first added is called first.
    ///
    /// It runs on the thread of the consumer that has reloaded, and no batch begins until it has returned, however long
    /// that takes: if it lasts beyond the limit that is told as [`Event::Trouble`]. It may call plugins, which are the new
    /// ones; a batch in it begins at once, and one on a thread that it waits for has to be a [`Batches::part`]. A panic
    /// ends there, and is told likewise.
    pub fn between(&self, callback: impl Fn(&[Outcome]) + Send + Sync + 'static) {
        lock(&self.shared.between).push(Arc::new(callback));
    }

    /// How long a reload waits for batches under way, while none begins; 30 s unless told otherwise. When it passes, the
    /// batches go on with the old build, which is told as [`Event::Trouble`] with who stood in the way. The reload is tried
    /// again when those have ended.
    pub fn set_wait_limit(&self, limit: Duration) {
        lock(&self.shared.state).limit = limit;
    }

    /// Does a batch: a unit of work as in [`Host::scope`]. Before it begins, builds that wait are taken in, see
    /// [`Host::batches`]; a build that is refused then is told of once, and not tried again before another has come, unless
    /// it was refused because the plugin is in use.
    ///
    /// Within a batch, on its thread, this is a scope of the same batch: it begins at once, and nothing is reloaded. On another
    /// thread it is a batch of its own. If a batch waits for one of those while a build waits, they all wait for each
    /// other, until the limit of [`Batches::set_wait_limit`] has passed: use a [`Batches::part`].
    ///
    /// Waits, and reloads, on the calling thread: from asynchronous code, call it where blocking is allowed. If `work` panics,
    /// the batch has ended.
    pub fn run<'h, R>(&self, work: impl FnOnce(&Scope<'h>) -> R) -> R {
        let ticket = Ticket::here(&self.shared).unwrap_or_else(|| self.shared.begin());
        BatchPart { ticket }.run(work)
    }

    /// The batch that the calling thread is in, for other threads to do parts of. It lasts until the last of its parts is
    /// dropped. `None`: the thread is in none.
    pub fn part(&self) -> Option<BatchPart> {
        Ticket::here(&self.shared).map(|ticket| BatchPart { ticket })
    }
}

impl BatchPart {
    /// Does a part of the batch on the calling thread: begins at once, and reloads nothing. It has a scope of its own, but
    /// nothing is published in a gap for as long as the batch lasts, so both see the same.
    pub fn run<'h, R>(&self, work: impl FnOnce(&Scope<'h>) -> R) -> R {
        let _here = Here::at(self.ticket.clone());
        scope::run(self.ticket.shared.units.as_ref(), work)
    }
}

impl fmt::Debug for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, under_way) = {
            let state = lock(&self.shared.state);
            (state.way, state.under_way.len())
        };
        let mut shown = f.debug_struct("Batches");
        shown.field("plugins", &self.shared.plugins).field("way", &way);
        shown.field("under_way", &under_way).finish()
    }
}

impl fmt::Debug for BatchPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchPart").field("batch", &self.ticket.number).finish()
    }
}

impl Shared {
    /// Begins a batch, after a gap if one is wanted.
    fn begin(self: &Arc<Self>) -> Arc<Ticket> {
        let mut state = self.when_open();
        let due = self.due(&state);
        if due.is_empty() {
            return self.ticket(&mut state);
        }
        state.way = Way::Closing;
        let closed = Closed(self);
        let limit = state.limit;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| !state.under_way.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        if !state.under_way.is_empty() {
            state.given_up = state.next;
            let what = state.who_stands_in_the_way(&due);
            let ticket = self.ticket(&mut state);
            drop(state);
            drop(closed);
            self.tell(what);
            return ticket;
        }
        state.way = Way::Shut;
        let ticket = self.ticket(&mut state);
        drop(state);
        self.changed.notify_all();
        let here = Here::at(ticket.clone());
        self.reload(due);
        drop((here, closed));
        ticket
    }

    /// By invariant 1 somebody opens the way. While it is closing there is nothing to be told: by invariant 4 that has a limit.
    fn when_open(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        loop {
            state = match state.way {
                Way::Open => return state,
                Way::Closing => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Way::Shut => self.while_shut(state),
            };
        }
    }

    /// The reload has the limits of the host, and the callbacks have none (invariant 3): so that they last is told.
    fn while_shut<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let limit = state.limit;
        let is_shut = |state: &mut State| state.way == Way::Shut;
        let (state, waited) =
            self.changed.wait_timeout_while(state, limit, is_shut).unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return state;
        }
        drop(state);
        let names = self.plugins.join(", ");
        self.tell(format!(
            "a batch has waited for {limit:?} because {names} are being reloaded between batches: the reload, or what is called between, has not returned"
        ));
        self.changed.wait_while(lock(&self.state), is_shut).unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(self: &Arc<Self>, state: &mut State) -> Arc<Ticket> {
        let number = state.next;
        state.next += 1;
        let member = Member { thread: std::thread::current(), since: Instant::now() };
        state.under_way.insert(number, member);
        Arc::new(Ticket { shared: self.clone(), number })
    }

    fn tell(&self, what: String) {
        if let Some(core) = self.core.upgrade() {
            core.journal.record(Event::Trouble { what });
        }
    }
}

impl State {
    fn who_stands_in_the_way(&self, due: &[Due]) -> String {
        let plugins: Vec<_> = due.iter().map(|due| due.plugin.as_str()).collect();
        let oldest = self.under_way.values().next().map_or_else(String::new, |oldest| {
            let thread = oldest.thread.name().unwrap_or("without a name");
            format!(", the oldest begun {:.1?} ago by thread {thread}", oldest.since.elapsed())
        });
        format!(
            "the build of {} that waits was to come between batches, but {} under way did not end within {:?}{oldest}: batches go on with the old build, and it is tried again when that is over",
            plugins.join(", "),
            match self.under_way.len() {
                1 => "1 batch".to_owned(),
                several => format!("{several} batches"),
            },
            self.limit
        )
    }
}

/// Who has closed the way; dropped, it is open.
struct Closed<'s>(&'s Shared);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).way = Way::Open;
        self.0.changed.notify_all();
    }
}

/// A batch under way, shared by its parts.
struct Ticket {
    shared: Arc<Shared>,
    number: u64,
}

impl Ticket {
    /// That of the calling thread.
    fn here(shared: &Arc<Shared>) -> Option<Arc<Ticket>> {
        HERE.with_borrow(|here| here.iter().rev().find(|ticket| Arc::ptr_eq(&ticket.shared, shared)).cloned())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.under_way.remove(&self.number);
        if state.way == Way::Closing && state.under_way.is_empty() {
            self.shared.changed.notify_all();
        }
    }
}

thread_local! {
    /// The batches that this thread is in, innermost last.
    static HERE: RefCell<Vec<Arc<Ticket>>> = const { RefCell::new(Vec::new()) };
}

/// This thread is in a batch. Dropped on it, it is no more.
struct Here(Arc<Ticket>);

impl Here {
    fn at(ticket: Arc<Ticket>) -> Here {
        HERE.with_borrow_mut(|here| here.push(ticket.clone()));
        Here(ticket)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let _ = HERE.try_with(|here| {
            let mut here = here.borrow_mut();
            let last = here.iter().rposition(|ticket| Arc::ptr_eq(ticket, &self.0));
            last.map(|last| here.remove(last))
        });
    }
}
