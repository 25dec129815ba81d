//! The state of what serves, while it serves: for the next host, for people, and for the last time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::deputy::Deputy;
use crate::error::StateError;
use crate::events::{Event, Step};
use crate::ffi::Instance;
use crate::file::ContentHash;
use crate::lock::{join_within, lock};
use crate::plugin::{Loaded, Plugin, Transaction};
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::reload::hook_stuck;

/// How long whoever asks for a snapshot waits for a disk.
const DISK: Duration = Duration::from_secs(30);

/// A state as a whole frame, which is lent and never copied.
pub(crate) type Frame = Arc<Vec<u8>>;

/// How soon it gives way.
const LOOK: Duration = Duration::from_millis(5);

/// A state, and whose it is.
pub(crate) struct Taken {
    pub(crate) generation: u64,
    pub(crate) hash: ContentHash,
    pub(crate) frame: Frame,
}

/// Whether callers may have to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// They may: if the plugin does not say that it may be saved beside calls, its gate is closed meanwhile.
    MayWait,
    /// They go on. It is asked of plugins that say that this may be.
    GoOn,
}

/// Has the serving generation written down, and hands that on before another can take over.
pub(crate) fn take<R>(
    core: &Core,
    plugin: &Arc<Plugin>,
    callers: Callers,
    then: impl FnOnce(Taken) -> R,
) -> Result<R, StateError> {
    // Nobody replaces it meanwhile, so what is kept is kept in the order in which it was true.
    let turn = plugin.begin_giving_way(Step::Save, core.options().call_wait);
    let turn = turn.map_err(|busy| StateError::Busy { busy: busy.to_string() })?;
    if core.is_closed() {
        return Err(StateError::Closed);
    }
    let gate = |why: String| StateError::Refused(RefusalReason::Gate(why));
    let held = plugin.slot.lease().map_err(|error| gate(plugin.cannot_enter(&error).to_string()))?;
    let state = held.build.manifest.state;
    let state = state.ok_or_else(|| StateError::Stateless { name: plugin.name.clone() })?;
    if state.beside_calls || callers == Callers::GoOn {
        return of(core, plugin, &held, &turn).map(then);
    }
    drop(held);
    let mut pause = plugin.slot.pause().map_err(|error| gate(error.to_string()))?;
    let (begun, limit) = (Instant::now(), core.options().drain_deadline_of(&plugin.name));
    while let Err(stragglers) = pause.drain(LOOK.min(limit.saturating_sub(begun.elapsed()))) {
        plugin.note_holders(pause.value(), &stragglers);
        if turn.is_cancelled() {
            return Err(gave_way());
        }
        if begun.elapsed() >= limit {
            let holders = pause.value().holders(&stragglers);
            return Err(StateError::Refused(RefusalReason::Held { limit, holders }));
        }
    }
    let taken = of(core, plugin, pause.value(), &turn)?;
    drop(pause);
    Ok(then(taken))
}

fn of(core: &Core, plugin: &Plugin, loaded: &Loaded, turn: &Transaction) -> Result<Taken, StateError> {
    let taken = now(core, loaded, || turn.is_cancelled());
    let taken =
        taken.map_err(|reason| if turn.is_cancelled() { gave_way() } else { StateError::Refused(reason) })?;
    plugin.record().state_bytes = Some(taken.frame.len() as u64);
    Ok(taken)
}

fn gave_way() -> StateError {
    StateError::Busy { busy: "a reload has come between".into() }
}

/// Has a generation written down in which no call is, or that says that this does not matter.
pub(crate) fn now(core: &Core, loaded: &Loaded, give_up: impl Fn() -> bool) -> Result<Taken, RefusalReason> {
    let limit = core.options().hook_deadline;
    let frame = save(&loaded.deputy, &loaded.instance, 0, limit, give_up)?;
    Ok(Taken { generation: loaded.number, hash: loaded.build.hash, frame: Arc::new(frame) })
}

/// Has an instance write its state in this version; 0: in its own. May be repeated, and changes nothing.
pub(crate) fn save(
    deputy: &Deputy,
    instance: &Instance,
    version: u32,
    limit: Duration,
    give_up: impl Fn() -> bool,
) -> Result<Vec<u8>, RefusalReason> {
    let hook = "save";
    let instance = instance.clone();
    let saved = deputy.begin(hook, || {}, move || instance.save(version)).wait(limit, give_up);
    let failed = |error| RefusalReason::Hook { hook, error };
    let frame = saved.map_err(|(stuck, _)| hook_stuck(hook, limit, stuck))?.map_err(failed)?;
    // What leaves a plugin is checked before it is believed: a damaged frame must not reach the next one.
    plugin_api::state::frame::check(&frame)
        .map_err(|error| failed(plugin_api::CallError::Malformed(format!("{error:#}"))))?;
    Ok(frame)
}

/// Keeps the present state of a plugin, and says when it is on disk.
pub(crate) fn keep(
    core: &Core,
    plugin: &Arc<Plugin>,
    callers: Callers,
    give_up: impl Fn() -> bool,
) -> Result<u64, StateError> {
    let begun = Instant::now();
    let (generation, bytes, change) = take(core, plugin, callers, |Taken { generation, hash, frame }| {
        (generation, frame.len() as u64, core.store.snapshot(&plugin.name, hash, frame))
    })?;
    let change = change.map_err(StateError::NotKept)?;
    core.store.wait_for(&plugin.name, change, DISK, give_up).map_err(StateError::NotKept)?;
    let took_ms = begun.elapsed().as_secs_f64() * 1e3;
    core.journal.tell(Event::Snapshotted { plugin: plugin.name.clone(), generation, bytes, took_ms });
    Ok(bytes)
}

/// The thread that keeps states every now and then.
pub(crate) struct Snapshots {
    thread: JoinHandle<()>,
    orders: Arc<(Mutex<Orders>, Condvar)>,
}

/// What the thread is told.
#[derive(Default)]
struct Orders {
    ended: bool,
    /// The options have changed.
    look_again: bool,
}

/// With nothing to keep it looks after so long whether there is.
const IDLE: Duration = Duration::from_secs(3600);

impl Snapshots {
    pub(crate) fn start(core: &Arc<Core>) -> io::Result<Option<Snapshots>> {
        if !core.options().persist {
            return Ok(None);
        }
        let orders = Arc::<(Mutex<Orders>, Condvar)>::default();
        let (core, told) = (core.clone(), orders.clone());
        let thread = std::thread::Builder::new().name("reseat-snapshots".into()).spawn(move || {
            let (orders, changed) = &*told;
            let mut last = BTreeMap::new();
            loop {
                let pause = next(&core, &mut last).saturating_duration_since(Instant::now());
                let wait = changed
                    .wait_timeout_while(lock(orders), pause, |orders| !orders.ended && !orders.look_again);
                let (mut now, _) = wait.unwrap_or_else(PoisonError::into_inner);
                if now.ended {
                    return;
                }
                now.look_again = false;
                drop(now);
                keep_all_that_are_due(&core, &mut last, || lock(orders).ended);
            }
        })?;
        Ok(Some(Snapshots { thread, orders }))
    }

    /// The options have changed.
    pub(crate) fn look_again(&self) {
        lock(&self.orders.0).look_again = true;
        self.orders.1.notify_all();
    }

    /// Ends it. A hook or a disk that does not answer is not waited for longer than this.
    pub(crate) fn end(self, limit: Duration) {
        lock(&self.orders.0).ended = true;
        self.orders.1.notify_all();
        join_within(self.thread, limit);
    }
}

/// When each plugin was looked at last.
type Last = BTreeMap<String, Instant>;

/// When the next one is due.
fn next(core: &Core, last: &mut Last) -> Instant {
    let options = core.options();
    let now = Instant::now();
    let due = |plugin: &Arc<Plugin>| {
        let every = options.snapshot_every_of(&plugin.name)?;
        Some(*last.entry(plugin.name.clone()).or_insert(now) + every)
    };
    let soonest = core.all().iter().filter_map(due).min();
    // One that is loaded meanwhile is due in so long at the soonest.
    let own = options.plugins.values().filter_map(|own| own.snapshot_every.flatten());
    let others = now + own.chain(options.snapshot_every).fold(IDLE, Duration::min);
    soonest.map_or(others, |soonest| soonest.min(others))
}

fn keep_all_that_are_due(core: &Core, last: &mut Last, give_up: impl Fn() -> bool) {
    let options = core.options();
    for plugin in core.all() {
        let Some(every) = options.snapshot_every_of(&plugin.name) else { continue };
        let now = Instant::now();
        let since = *last.entry(plugin.name.clone()).or_insert(now);
        if now.duration_since(since) >= every && !give_up() {
            last.insert(plugin.name.clone(), now);
            keep_now_and_then(core, &plugin, &give_up);
        }
    }
}

fn keep_now_and_then(core: &Core, plugin: &Arc<Plugin>, give_up: impl Fn() -> bool) {
    let serving = plugin.record().serving.clone();
    let state = serving.and_then(|serving| serving.build.manifest.state);
    if !state.is_some_and(|state| state.beside_calls) {
        return;
    }
    match keep(core, plugin, Callers::GoOn, give_up) {
        // Another time.
        Ok(_) | Err(StateError::Busy { .. } | StateError::Closed) => {}
        // The store has told of it.
        Err(StateError::NotKept(_)) => {}
        Err(error) => {
            let what = format!("the state of {} was not kept this time: {error}", plugin.name);
            core.journal.record(Event::Trouble { what });
        }
    }
}
