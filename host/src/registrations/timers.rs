//! When timers are due. A timer is known by its plugin and its name, whatever generation has it: so a reload neither resets
//! nor doubles it.
//!
//! The thread begins with the first timer, and has nothing of a plugin: those that call are [`workers`](super::workers).

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plugin_api::registration::TIMER;

use super::workers::{Name, Workers};
use crate::events::Event;
use crate::lock::{join_within, lock};
use crate::registry::Core;

/// Without a timer it looks after so long whether there is one; it is told anyway.
const IDLE: Duration = Duration::from_secs(3600);
/// The end of the thread is waited for no longer than that.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    orders: Arc<(Mutex<Orders>, Condvar)>,
    workers: Arc<Workers>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is told.
#[derive(Default)]
struct Orders {
    ended: bool,
    /// What is registered has changed.
    look_again: bool,
}

/// When a timer is due.
struct Clock {
    every: Duration,
    due: Instant,
}

impl Timers {
    /// What is registered may have changed.
    pub(super) fn look_again(&self, core: &OnceLock<Weak<Core>>) {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let core = core.get().filter(|_| !lock(&self.orders.0).ended).and_then(Weak::upgrade);
            let Some(core) = core.filter(|core| has_timers(core)) else { return };
            *thread = self.begin(&core);
        }
        lock(&self.orders.0).look_again = true;
        self.orders.1.notify_all();
    }

    fn begin(&self, core: &Arc<Core>) -> Option<JoinHandle<()>> {
        let (orders, workers, weak) = (self.orders.clone(), self.workers.clone(), Arc::downgrade(core));
        let run = move || run(&weak, &orders, &workers);
        let begun = std::thread::Builder::new().name("reseat-timers".into()).spawn(run);
        begun
            .inspect_err(|error| {
                let what = format!("no timer of a plugin runs, there is no thread for them: {error}");
                core.journal.record(Event::Trouble { what });
            })
            .ok()
    }

    /// Nothing is called any more that has not begun.
    pub(super) fn end(&self) {
        lock(&self.orders.0).ended = true;
        self.orders.1.notify_all();
        self.workers.end();
        let thread = lock(&self.thread).take();
        thread.map(|thread| join_within(thread, LAST_LOOK));
    }
}

fn has_timers(core: &Core) -> bool {
    let has = |table: Arc<crate::ffi::Table>| !table.list(Some(TIMER)).is_empty();
    core.all().iter().any(|plugin| core.registrations.current(plugin).is_some_and(has))
}

fn run(core: &Weak<Core>, orders: &(Mutex<Orders>, Condvar), workers: &Arc<Workers>) {
    let mut clocks = BTreeMap::new();
    let (orders, changed) = orders;
    loop {
        let mut now = lock(orders);
        if now.ended {
            return;
        }
        let look = std::mem::take(&mut now.look_again);
        drop(now);
        // Not kept while nothing is due.
        let Some(core) = core.upgrade() else { return };
        if look {
            set(&core, &mut clocks, Instant::now());
        }
        let due = call_what_is_due(&core, &mut clocks, workers, Instant::now());
        drop(core);
        let pause = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        let waited =
            changed.wait_timeout_while(lock(orders), pause, |orders| !orders.ended && !orders.look_again);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Sets the clocks by what is registered now. One that goes on is not touched.
fn set(core: &Core, clocks: &mut BTreeMap<Name, Clock>, now: Instant) {
    let mut known = std::mem::take(clocks);
    for plugin in core.all() {
        let Some(table) = core.registrations.current(&plugin) else { continue };
        for entry in table.list(Some(TIMER)) {
            let Some(every) = entry.registration.interval() else { continue };
            let name = (plugin.name.clone(), entry.registration.key().to_owned());
            let due = match known.remove(&name) {
                Some(clock) if clock.every == every => clock.due,
                // As if it had been so since it was called last.
                Some(clock) => clock.due.checked_sub(clock.every).map_or(now, |last| after(last, every)),
                None => after(now, every),
            };
            clocks.insert(name, Clock { every, due });
        }
    }
}

/// When the next one is due after those that are.
fn call_what_is_due(
    core: &Arc<Core>,
    clocks: &mut BTreeMap<Name, Clock>,
    workers: &Arc<Workers>,
    now: Instant,
) -> Option<Instant> {
    for (name, clock) in clocks.iter_mut().filter(|(_, clock)| clock.due <= now) {
        // If the call before lasts, this one is left out.
        workers.call(core, name);
        let next = after(clock.due, clock.every);
        // What was missed, because the machine slept say, is not caught up with.
        clock.due = if next <= now { after(now, clock.every) } else { next };
    }
    clocks.values().map(|clock| clock.due).min()
}

/// A time that is too far off never comes, and need not be right.
fn after(time: Instant, every: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    time + every.min(NEVER)
}
