//! What the parts of a host share: its plugins by name, and the ways in which a file gets to one of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::builds::FailedBuild;
use crate::error::ReloadError;
use crate::events::{Event, Step};
use crate::file::{self, Manifest, StagingDir, StateVersions};
use crate::gate::{Retired, Stragglers};
use crate::journal::Journal;
use crate::lock::lock;
use crate::mode::ReloadMode;
use crate::observer::Moment;
use crate::opening::Openings;
use crate::options::{Options, TrustedFile};
use crate::outcome::Outcome;
use crate::plugin::{Build, Loaded, Plugin};
use crate::reaper::{LEAVE_AFTER, Reaper};
use crate::refusal::{Refusal, RefusalReason};
use crate::registrations::Ledger;
use crate::reload::{self, Gathering, Settled, Wish};
use crate::snapshot::{self, Taken};
use crate::store::{Store, StoreError};

/// Told of a build that serves, and whether its plugin did not before.
pub(crate) type OnLoad = Box<dyn Fn(&Manifest, bool) + Send + Sync>;

/// What the parts of a host share.
pub(crate) struct Core {
    options: RwLock<Arc<Options>>,
    pub(crate) staging: StagingDir,
    pub(crate) journal: Arc<Journal>,
    pub(crate) reaper: Reaper,
    pub(crate) store: Store,
    pub(crate) registrations: Arc<Ledger>,
    pub(crate) captures: bool,
    /// By package.
    pub(crate) failed_builds: Mutex<BTreeMap<String, FailedBuild>>,
    plugins: Mutex<BTreeMap<String, Arc<Plugin>>>,
    /// Builds that wait for a moment for what changes with them.
    pub(crate) gathering: Gathering,
    pub(crate) openings: Openings,
    /// Builds that wait for others, by plugin.
    pub(crate) waiting: Mutex<BTreeMap<String, Manifest>>,
    /// Told when a build begins to serve.
    pub(crate) on_load: OnceLock<OnLoad>,
    started: AtomicBool,
    closed: AtomicBool,
    changes: AtomicU64,
}

impl Core {
    pub(crate) fn new(
        options: Options,
        staging: StagingDir,
        journal: Arc<Journal>,
        reaper: Reaper,
    ) -> Result<Arc<Core>, StoreError> {
        let captures = crate::ffi::self_test();
        let store = Store::open(&options, journal.clone())?;
        let core = Arc::new(Core {
            options: RwLock::new(Arc::new(options)),
            staging,
            journal,
            reaper,
            store,
            registrations: Arc::default(),
            captures,
            failed_builds: Mutex::default(),
            gathering: Gathering::default(),
            openings: Openings::default(),
            waiting: Mutex::default(),
            on_load: OnceLock::new(),
            plugins: Mutex::default(),
            started: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        });
        core.registrations.belong_to(&core);
        Ok(core)
    }

    /// What holds now. Whoever looks twice may see two different things.
    pub(crate) fn options(&self) -> Arc<Options> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This holds from now on; what has held.
    pub(crate) fn set_options(&self, options: Options) -> Arc<Options> {
        let before = std::mem::replace(
            &mut *self.options.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(options),
        );
        self.note_change();
        before
    }

    /// How often it has changed who can be called by whom: what was looked for in vain need not be looked for again before
    /// it does.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// A plugin serves, or does no more, or waits for its first call; or the options are others.
    pub(crate) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What was there at the start is loaded.
    pub(crate) fn note_start(&self) {
        self.started.store(true, Ordering::SeqCst);
        self.tell_observers(&Moment::Prepare);
    }

    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::SeqCst)
    }

    /// Returns when all observers were told.
    pub(crate) fn tell_observers(&self, moment: &Moment) {
        let options = self.options();
        options.observers.tell(moment, options.hook_deadline, &self.journal);
    }

    /// Closes the host for newcomers; whether it was open.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Plugin>> {
        lock(&self.plugins).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Plugin>> {
        lock(&self.plugins).values().cloned().collect()
    }

    /// The names of what is loaded.
    pub(crate) fn names(&self) -> Vec<String> {
        self.all().iter().filter(|plugin| plugin.is_loaded()).map(|plugin| plugin.name.clone()).collect()
    }

    /// A plugin's configuration, as JSON.
    pub(crate) fn config(&self, plugin: &str) -> String {
        self.options().config.get(plugin).map_or_else(|| "{}".into(), ToString::to_string)
    }

    /// Goes past a step at which a test may want something to go wrong.
    #[cfg(feature = "faults")]
    pub(crate) fn pass(&self, step: Step) -> Result<(), RefusalReason> {
        self.options().faults.pass(step)
    }

    /// Goes past a step.
    #[cfg(not(feature = "faults"))]
    pub(crate) fn pass(&self, _: Step) -> Result<(), RefusalReason> {
        Ok(())
    }

    /// The plugin that a build belongs to. The first file that claims a name keeps it, for as long as it is there
    /// and serves.
    pub(crate) fn claim(&self, build: &Build) -> Result<Arc<Plugin>, (Arc<Plugin>, RefusalReason)> {
        let name = &build.manifest.plugin;
        let plugin = lock(&self.plugins)
            .entry(name.clone())
            .or_insert_with(|| {
                let Options { call_wait, max_waiting, .. } = *self.options();
                let plugin = Plugin::new(name.clone(), build.file.clone(), call_wait, max_waiting);
                plugin.scopes.count(self.options().mode_of(name) == ReloadMode::BetweenScopes);
                plugin
            })
            .clone();
        let (owner, waits) = {
            let record = plugin.record();
            let deferred = record.deferred.as_ref().map(|file| file.path().to_owned());
            (deferred.clone().unwrap_or(record.file.clone()), deferred.is_some())
        };
        let taken = owner != build.file && (waits || plugin.is_loaded()) && owner.exists();
        if taken {
            return Err((plugin, RefusalReason::NameTaken { plugin: name.clone(), by: owner }));
        }
        Ok(plugin)
    }

    pub(crate) fn load(self: &Arc<Self>, file: &TrustedFile, wish: Wish) -> Result<Outcome, ReloadError> {
        let result = self.settle(file).and_then(|settled| self.admit(settled, wish));
        if let Err(ReloadError::Refused(refusal)) = &result {
            self.report(refusal);
        }
        result
    }

    /// Several files at one moment, or none of them: what has become of each.
    pub(crate) fn load_together(
        self: &Arc<Self>,
        files: Vec<(TrustedFile, Wish)>,
    ) -> Vec<Result<Outcome, ReloadError>> {
        let settled = files.into_iter().map(|(file, wish)| Ok((self.settle(&file)?, wish)));
        let results = match settled.collect::<Result<Vec<_>, _>>() {
            Ok(_) if self.is_closed() => vec![Err(ReloadError::Closed)],
            Ok(files) => reload::admit_together(self, files),
            Err(error) => vec![Err(error)],
        };
        self.report_all(&results);
        results
    }

    /// Several files, of which those take over at one moment who have to do with one another. What has become of each.
    pub(crate) fn load_all(self: &Arc<Self>, files: &[TrustedFile]) -> Vec<Result<Outcome, ReloadError>> {
        let results = self.take_all(files);
        self.report_all(&results);
        results
    }

    /// The same; what is refused is for the caller to tell.
    pub(crate) fn take_all(self: &Arc<Self>, files: &[TrustedFile]) -> Vec<Result<Outcome, ReloadError>> {
        let wish = Wish { may_stay_behind: true, ..Wish::default() };
        let mut results: Vec<_> = files.iter().map(|_| Err(ReloadError::Closed)).collect();
        let mut settled = Vec::new();
        for (at, file) in files.iter().enumerate().filter(|_| !self.is_closed()) {
            match self.settle(file) {
                Ok(file) => settled.push((at, (file, wish.clone()))),
                Err(error) => results[at] = Err(error),
            }
        }
        let (places, settled): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
        let outcomes = reload::admit_all(self, settled);
        outcomes.into_iter().zip(places).for_each(|(outcome, at)| results[at] = outcome);
        results
    }

    pub(crate) fn report_all(&self, results: &[Result<Outcome, ReloadError>]) {
        for result in results {
            if let Err(ReloadError::Refused(refusal)) = result {
                self.report(refusal);
            }
        }
    }

    pub(crate) fn admit(self: &Arc<Self>, settled: Settled, wish: Wish) -> Result<Outcome, ReloadError> {
        if self.is_closed() {
            return Err(ReloadError::Closed);
        }
        reload::admit(self, settled, wish)
    }

    /// Whether so little lingers that one more generation may be opened.
    pub(crate) fn may_open_another(&self) -> Result<(), RefusalReason> {
        let (limit, lingering) = (self.options().max_lingering, self.reaper.lingering());
        let (generations, bytes) = (lingering.len(), lingering.iter().map(|one| one.bytes).sum());
        match lingering.first() {
            Some(oldest) if generations >= limit.generations || bytes >= limit.bytes => {
                let oldest =
                    format!("generation {} of {}: {}", oldest.generation, oldest.plugin, oldest.reason);
                Err(RefusalReason::Lingering { generations, bytes, oldest })
            }
            _ => Ok(()),
        }
    }

    /// Waits until nobody writes to the file.
    pub(crate) fn settle(&self, file: &TrustedFile) -> Result<Settled, ReloadError> {
        let noticed = Instant::now();
        let mut settling = file::Settling::start(file.path());
        let refuse = |reason: RefusalReason| {
            ReloadError::Refused(Refusal {
                plugin: None,
                file: file.path().to_owned(),
                step: Step::Settle,
                serving: None,
                reason,
            })
        };
        loop {
            match settling.poll(Instant::now()) {
                file::Progress::Ready(open) => {
                    return Ok(Settled::there(open, file.clone(), noticed));
                }
                file::Progress::Wait(pause) if noticed.elapsed() < self.options().drain_deadline => {
                    std::thread::sleep(pause.min(Duration::from_millis(20)));
                }
                file::Progress::Wait(_) => {
                    let waited = noticed.elapsed();
                    let why = format!(
                        "it is still being written to after {waited:.1?}: wait for the build to finish"
                    );
                    return Err(refuse(RefusalReason::NotSettled(why)));
                }
                file::Progress::Gone => {
                    return Err(refuse(RefusalReason::NotSettled("there is no such file".into())));
                }
                file::Progress::Unreadable(source) => {
                    return Err(refuse(RefusalReason::Vet(file::VetError::Unreadable { source })));
                }
                file::Progress::NotAFile(kind) => {
                    return Err(refuse(RefusalReason::Vet(file::VetError::NotAFile { kind })));
                }
            }
        }
    }

    /// Tells of a refusal; but not of what only says that there is nothing of what somebody has asked for.
    pub(crate) fn report(&self, refusal: &Refusal) {
        if let RefusalReason::NoPrevious | RefusalReason::NoCandidate { .. } = refusal.reason {
            return;
        }
        let plugin = match &refusal.plugin {
            Some(name) => self.find(name),
            // It does not get so far as to say whose it is, but lies where that plugin's builds do.
            None => self.all().into_iter().find(|plugin| plugin.record().is_followed_at(&refusal.file)),
        };
        if let Some(plugin) = &plugin {
            plugin.record().last_refusal = Some(format!("{}: {}", refusal.step, refusal.reason));
        }
        let serving = refusal.serving.or_else(|| plugin.as_ref()?.serving_number());
        self.journal.record(Event::Refused {
            plugin: refusal.plugin.clone().or_else(|| Some(plugin?.name.clone())),
            file: refusal.file.clone(),
            step: refusal.step,
            kind: refusal.reason.kind(),
            reason: refusal.reason.to_string(),
            serving,
        });
    }

    /// Empties a plugin's slot. The caller has the turn.
    pub(crate) fn take_down(&self, plugin: &Arc<Plugin>) -> Option<Retired<Loaded>> {
        let old = plugin.slot.close().ok().flatten()?;
        {
            let mut record = plugin.record();
            record.serving = None;
            (record.kept, record.previous, record.on_probation) = (None, None, None);
        }
        self.note_change();
        plugin.regions.clear();
        self.registrations.forget(&plugin.name);
        Some(old)
    }

    /// Has a plugin that was taken down end the calls that last, if there are any after a moment.
    pub(crate) fn leave_now(&self, plugin: &Plugin, old: &mut Retired<Loaded>) {
        if old.drain(LEAVE_AFTER).is_err() {
            old.value().leave_now(&plugin.name, &self.journal);
        }
    }

    /// Keeps the state of a generation that was taken down, for the next host, when nobody is in it any more. If it is
    /// still in use at the deadline, the state that was kept before stays.
    pub(crate) fn keep_last_state(&self, plugin: &Plugin, old: &mut Retired<Loaded>, deadline: Instant) {
        let Some(state) = old.value().build.manifest.state.filter(|_| self.options().persist) else { return };
        let left = deadline.saturating_duration_since(Instant::now());
        let drained = old.drain(left);
        self.keep_as_the_last(plugin, self.saved(old.value(), drained, state));
    }

    /// The same for a plugin whose turn cannot be had, and which serves on. The host is closed, so nothing takes over from it
    /// any more; if something has just begun to, it has closed the gate first or finds it closed.
    pub(crate) fn keep_state_of_what_stays(&self, plugin: &Plugin) {
        const MOMENT: Duration = Duration::from_millis(100);
        let serving = plugin.record().serving.clone().filter(|_| self.options().persist);
        let Some(state) = serving.and_then(|serving| serving.build.manifest.state) else { return };
        let saved = plugin.slot.pause().map_err(|error| error.to_string()).and_then(|mut pause| {
            let drained = pause.drain(MOMENT);
            self.saved(pause.value(), drained, state)
        });
        self.keep_as_the_last(plugin, saved);
    }

    /// The state of a generation that nobody new enters, if nobody is in it any more, or need not be.
    fn saved(
        &self,
        it: &Loaded,
        drained: Result<(), Stragglers>,
        state: StateVersions,
    ) -> Result<Taken, String> {
        match drained {
            Err(stragglers) if !state.beside_calls => Err(it.holders(&stragglers)),
            _ => snapshot::now(self, it, || false).map_err(|reason| reason.to_string()),
        }
    }

    fn keep_as_the_last(&self, plugin: &Plugin, saved: Result<Taken, String>) {
        // It is written by the time at which the store is closed.
        let kept = saved.and_then(|Taken { hash, frame, .. }| self.store.snapshot(&plugin.name, hash, frame));
        if let Err(why) = kept {
            let what = format!(
                "the last state of {} is not kept, the next host begins with the one before: {why}",
                plugin.name
            );
            self.journal.record(Event::Trouble { what });
        }
    }
}
