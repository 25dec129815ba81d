//! Files that change at about the same time, of plugins that call one another: they take over together.
//!
//! Nobody is told which files a build has written. So a change of a plugin that others call, or that calls others, is kept back for
//! [`Options::gather`](crate::Options::gather), and whatever else of the kind has changed by then comes along. Plugins
//! that have nothing to do with others never wait here.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::admit::Candidate;
use super::take_over::take_over;
use crate::error::ReloadError;
use crate::events::Step;
use crate::lock::lock;
use crate::outcome::Outcome;
use crate::plugin::{Build, Plugin};
use crate::registry::Core;

/// Whoever waits for an outcome.
type Told = Sender<Result<Outcome, ReloadError>>;

/// How many times the pause files may go on coming until those that are there go without the others.
const PAUSES: u32 = 20;

/// How long those who are kept back wait at most for a file that is being looked at.
const LOOK: Duration = Duration::from_secs(5);

/// So that those meet who wait for one another.
const LEAST: Duration = Duration::from_millis(10);

/// Candidates that are kept back.
#[derive(Default)]
pub(crate) struct Gathering {
    here: Mutex<Here>,
    came: Condvar,
}

#[derive(Default)]
struct Here {
    kept: Vec<(Told, Candidate)>,
    /// How many files are being looked at that have changed, and may come.
    coming: usize,
}

/// A file that is being looked at, for as long as nobody knows whether it comes. Whoever is kept back waits for it.
pub(super) struct Coming(Arc<Core>);

impl Coming {
    pub(super) fn to(core: &Arc<Core>) -> Coming {
        lock(&core.gathering.here).coming += 1;
        Coming(core.clone())
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let gathering = &self.0.gathering;
        lock(&gathering.here).coming -= 1;
        gathering.came.notify_all();
    }
}

impl Gathering {
    /// Waits for others, and takes over with them. The first who comes does it for all.
    pub(super) fn join(
        &self,
        core: &Arc<Core>,
        candidate: Candidate,
        coming: Coming,
    ) -> Result<Outcome, ReloadError> {
        let (outcome, told) = bounded(1);
        let plugin = candidate.plugin.name.clone();
        let is_first = {
            let mut here = lock(&self.here);
            here.kept.push((outcome, candidate));
            here.kept.len() == 1
        };
        drop(coming);
        if is_first {
            let mut sets = sets(core, self.wait_for_others(core));
            let last = sets.pop();
            std::thread::scope(|scope| {
                // One set that waits for its callers holds up no other.
                for set in sets {
                    let thread = std::thread::Builder::new().name("reseat-reload".into());
                    drop(thread.spawn_scoped(scope, || into_take_over(core, set)));
                }
                last.into_iter().for_each(|set| into_take_over(core, set));
            });
        }
        // Without a thread nobody has begun: it is tried again at once.
        let busy = || ReloadError::Busy { plugin, step: Step::Vet, since: Duration::ZERO };
        told.recv().unwrap_or_else(|_| Err(busy()))
    }

    /// The host is closed: nobody is waited for any more.
    pub(crate) fn end(&self) {
        let _here = lock(&self.here);
        self.came.notify_all();
    }

    /// Until nobody has come for so long, and nobody is on the way: to look at a file takes the longer the larger it is.
    fn wait_for_others(&self, core: &Core) -> Vec<(Told, Candidate)> {
        let (pause, begun) = (core.options().gather.max(LEAST), Instant::now());
        let mut here = lock(&self.here);
        loop {
            let before = here.kept.len();
            let is_alone = |here: &Here| here.kept.len() == before && !core.is_closed();
            let left = (pause * PAUSES).saturating_sub(begun.elapsed());
            let waited = self.came.wait_timeout_while(here, pause.min(left), |here| is_alone(here));
            here = waited.unwrap_or_else(PoisonError::into_inner).0;
            let left = LOOK.saturating_sub(begun.elapsed());
            let may_come = |here: &mut Here| is_alone(here) && here.coming > 0;
            let waited = self.came.wait_timeout_while(here, left, may_come);
            here = waited.unwrap_or_else(PoisonError::into_inner).0;
            if here.kept.len() == before || core.is_closed() {
                return std::mem::take(&mut here.kept);
            }
        }
    }
}

/// Has those take over that have to do with one another, and tells whoever waits for it.
fn into_take_over(core: &Arc<Core>, set: Vec<(Told, Candidate)>) {
    let (told, candidates): (Vec<_>, Vec<_>) = set.into_iter().unzip();
    for (outcome, told) in take_over(core, candidates).into_iter().zip(told) {
        let _ = told.send(outcome);
    }
}

/// Parts those who have nothing to do with one another.
pub(super) fn sets<T>(core: &Core, all: Vec<(T, Candidate)>) -> Vec<Vec<(T, Candidate)>> {
    let mut groups = Groups::default();
    for (_, candidate) in &all {
        groups.of(&candidate.plugin.name);
        for (one, other) in links(core, &candidate.build, &all) {
            groups.join(&one, &other);
        }
    }
    for plugin in core.all() {
        let serving = plugin.record().serving.clone();
        let calls = serving.iter().flat_map(|serving| serving.calls.all());
        calls.filter_map(|(_, target)| target).for_each(|target| groups.join(&plugin.name, &target.name));
    }
    let mut sets: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for one in all {
        sets.entry(groups.of(&one.1.plugin.name)).or_default().push(one);
    }
    sets.into_values().collect()
}

/// Whom a build calls, of those who come with it and of those who serve.
fn links<T>(core: &Core, build: &Build, all: &[(T, Candidate)]) -> Vec<(String, String)> {
    let implements = |it: &Build, name: &str| it.manifest.interface(name).is_some();
    let mut links = Vec::new();
    for requirement in &build.manifest.requires {
        let name = &requirement.interface.name;
        let coming = all.iter().filter(|(_, one)| implements(&one.build, name));
        let coming = coming.map(|(_, one)| one.plugin.name.clone());
        let serve = core.all().into_iter().filter(|plugin| {
            let serving = plugin.record().serving.clone();
            serving.is_some_and(|serving| implements(&serving.build, name))
        });
        let by = coming.chain(serve.map(|plugin| plugin.name.clone()));
        links.extend(by.map(|by| (build.manifest.plugin.clone(), by)));
    }
    links
}

/// Plugins by name, in groups that grow together.
#[derive(Default)]
struct Groups {
    numbers: BTreeMap<String, usize>,
    /// For each, another one of its group that is nearer to the one that stands for it, which leads to itself.
    leads_to: Vec<usize>,
}

impl Groups {
    fn of(&mut self, name: &str) -> usize {
        let next = self.leads_to.len();
        let mut number = *self.numbers.entry(name.to_owned()).or_insert(next);
        if number == next {
            self.leads_to.push(next);
        }
        while self.leads_to[number] != number {
            // Halves the way for the next who asks.
            self.leads_to[number] = self.leads_to[self.leads_to[number]];
            number = self.leads_to[number];
        }
        number
    }

    fn join(&mut self, one: &str, other: &str) {
        let (one, other) = (self.of(one), self.of(other));
        self.leads_to[other] = one;
    }
}

impl Core {
    /// Whether a plugin that serves calls others, or is called by them, now or with this build of it. One that does not
    /// serve yet is no change of anything: it comes when all that it needs is there.
    pub(super) fn is_linked(&self, plugin: &Plugin, build: &Build) -> bool {
        if !plugin.is_loaded() {
            return false;
        }
        let implements = |name: &str| build.manifest.interface(name).is_some();
        let waits_for_it = || {
            let waiting = lock(&self.waiting);
            let mut wanted = waiting.values().flat_map(|manifest| &manifest.requires);
            wanted.any(|requirement| implements(&requirement.interface.name))
        };
        !build.manifest.requires.is_empty() || !self.callers(plugin).is_empty() || waits_for_it()
    }
}

#[cfg(test)]
mod tests {
    use super::Groups;

    #[test]
    fn a_long_chain_is_one_group_whichever_end_it_is_joined_from() {
        const LENGTH: usize = 100_000;
        for backwards in [false, true] {
            let mut groups = Groups::default();
            for at in 1..LENGTH {
                let at = if backwards { LENGTH - at } else { at };
                groups.join(&(at - 1).to_string(), &at.to_string());
            }
            let (first, last) = (groups.of("0"), groups.of(&(LENGTH - 1).to_string()));
            assert_eq!(first, last);
            assert_ne!(groups.of("another"), first);
        }
    }
}
