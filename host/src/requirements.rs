//! Who implements what plugins call, in which order they come and go, and what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::check;
use crate::error::PluginError;
use crate::file::{self, InterfaceManifest, InterfaceVersion, Manifest, RequirementManifest};
use crate::lazy;
use crate::lock::lock;
use crate::peer::{Calls, Target};
use crate::plugin::Plugin;
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::reload::Together;

/// How many are named of those that stand in the way.
const NAMED: usize = 5;

impl Core {
    /// Where calls of an interface lead that a plugin is to have which is being opened. If it can do without, nobody is
    /// opened for it, and nobody waited for: it is looked for again when it is called.
    pub(crate) fn provide(
        self: &Arc<Self>,
        of: &str,
        requirement: &RequirementManifest,
        together: &Together,
    ) -> Result<Target, RefusalReason> {
        let wanted = &requirement.interface;
        let patience = if requirement.optional {
            Duration::ZERO
        } else {
            self.wake(of, wanted, Some(together));
            self.options().call_wait
        };
        let plugin = self.choose(of, wanted, Some(together))?;
        let found = match together.manifest_of(&plugin) {
            Some(_) => self.reserve(&plugin, wanted),
            None => self.register(&plugin, wanted, false, patience),
        };
        let target = found.map(|found| Target::new(&plugin, found));
        target.map_err(|error| self.unmet(of, wanted, vec![error.to_string()]))
    }

    /// The same for one that serves and is just calling it: whoever has waited to be called is opened for that.
    ///
    /// # Errors
    /// [`PluginError::Busy`]: somebody implements it, and is about to change. Anything else: nobody does.
    pub(crate) fn provide_now(
        self: &Arc<Self>,
        of: &str,
        wanted: &InterfaceManifest,
    ) -> Result<Target, Option<PluginError>> {
        self.wake(of, wanted, None);
        let plugin = self.choose(of, wanted, None).map_err(|_| None)?;
        let found = self.register(&plugin, wanted, false, self.options().call_wait);
        Ok(Target::new(&plugin, found.map_err(Some)?))
    }

    /// A plugin serves: whoever calls what it implements, and has found nobody yet, is led there. So they need not look for
    /// it when they call, and wait until nothing changes there. The caller has its turn.
    pub(crate) fn lead_callers_to(&self, plugin: &Arc<Plugin>) {
        let Some(build) = plugin.record().serving.as_ref().map(|serving| serving.build.clone()) else {
            return;
        };
        for other in self.all().into_iter().filter(|other| !Arc::ptr_eq(other, plugin)) {
            for calls in calls_of(&other) {
                calls.lead_to(|wanted| {
                    implements(&build.manifest, wanted)?.ok()?;
                    let is_it = |it: &Arc<Plugin>| Arc::ptr_eq(it, plugin);
                    self.choose(&other.name, wanted, None).ok().filter(is_it)?;
                    let found = self.register_now(plugin, wanted, false).ok()?;
                    Some(Target::new(plugin, found))
                });
            }
        }
    }

    /// The plugin that implements an interface for another: the only one that serves and fits, or the one that its options
    /// name. Of plugins that change together with it, what counts is what they become.
    pub(crate) fn choose(
        &self,
        of: &str,
        wanted: &InterfaceManifest,
        together: Option<&Together>,
    ) -> Result<Arc<Plugin>, RefusalReason> {
        let (fitting, unfit) = self.implementing(of, wanted, together);
        match &fitting[..] {
            [] => Err(self.cycle(of, wanted).unwrap_or_else(|| self.unmet(of, wanted, unfit))),
            [plugin] => Ok(plugin.clone()),
            several => {
                let by = several.iter().map(|plugin| plugin.name.clone()).collect();
                Err(RefusalReason::Ambiguous { plugin: of.to_owned(), interface: wanted.name.clone(), by })
            }
        }
    }

    /// Those that implement an interface for a plugin, and why others that have it do not: of all, or of the one that the
    /// options name.
    pub(crate) fn implementing(
        &self,
        of: &str,
        wanted: &InterfaceManifest,
        together: Option<&Together>,
    ) -> (Vec<Arc<Plugin>>, Vec<String>) {
        let named = self.named(of, wanted);
        let (mut fitting, mut unfit) = (Vec::new(), Vec::new());
        for plugin in self.all() {
            let asked = plugin.name != of && named.as_ref().is_none_or(|name| *name == plugin.name);
            let serving = plugin.record().serving.clone();
            let to_be = together.and_then(|together| together.manifest_of(&plugin));
            let manifest = to_be.or(serving.as_ref().map(|serving| &serving.build.manifest));
            match manifest.filter(|_| asked).and_then(|manifest| implements(manifest, wanted)) {
                None => {}
                Some(Ok(())) => fitting.push(plugin),
                Some(Err(why)) => unfit.push(why),
            }
        }
        (fitting, unfit)
    }

    /// The plugin that the options name for this.
    pub(crate) fn named(&self, of: &str, wanted: &InterfaceManifest) -> Option<String> {
        self.options().plugins.get(of).and_then(|own| own.bind.get(&wanted.name).cloned())
    }

    pub(crate) fn unmet(&self, of: &str, wanted: &InterfaceManifest, found: Vec<String>) -> RefusalReason {
        let plugin = self.named(of, wanted);
        RefusalReason::Unmet { interface: wanted.name.clone(), version: wanted.version, plugin, found }
    }

    /// Loads the plugins that have waited for somebody to call them, if they implement this; but for those whose turn the
    /// caller has, since they are about to be loaded.
    fn wake(self: &Arc<Self>, of: &str, wanted: &InterfaceManifest, together: Option<&Together>) {
        let is_other = |plugin: &&Arc<Plugin>| {
            plugin.name != of && together.is_none_or(|together| together.manifest_of(plugin).is_none())
        };
        for plugin in self.all().iter().filter(is_other) {
            let deferred = plugin.record().deferred.as_ref().map(|file| file.path().to_owned());
            let build = deferred.and_then(|file| check::read(&file).ok());
            if build.is_some_and(|build| matches!(implements(&build.manifest, wanted), Some(Ok(())))) {
                // If it is refused, that is told, and nobody implements it.
                let _ = lazy::load_first(self, plugin);
            }
        }
    }

    /// The plugins of which a generation that serves, or stays beside that, cannot do without this one.
    pub(crate) fn dependents(&self, on: &Plugin) -> Vec<String> {
        let mut dependents = Vec::new();
        for plugin in self.all() {
            if calls_of(&plugin).any(|calls| calls.require(on)) {
                dependents.push(plugin.name.clone());
            }
        }
        dependents
    }

    /// The plugins whose serving generations call this one.
    pub(crate) fn callers(&self, of: &Plugin) -> Vec<String> {
        let all = self.all().into_iter();
        let calls_it = |plugin: &Arc<Plugin>| {
            calls_of(plugin).any(|calls| {
                let mut calls = calls.all();
                calls.any(|(_, target)| target.is_some_and(|target| std::ptr::eq(&*target, of)))
            })
        };
        all.filter(calls_it).map(|plugin| plugin.name.clone()).collect()
    }

    /// A build waits until somebody implements what it calls.
    pub(crate) fn note_waiting(&self, manifest: &Manifest) {
        lock(&self.waiting).insert(manifest.plugin.clone(), manifest.clone());
    }

    /// It does not wait any more.
    pub(crate) fn note_waits_no_more(&self, plugin: &str) {
        lock(&self.waiting).remove(plugin);
    }

    /// The circle that would have to be broken first, if one leads from what `of` wants back to it.
    fn cycle(&self, of: &str, wanted: &InterfaceManifest) -> Option<RefusalReason> {
        let waiting = lock(&self.waiting);
        // Of many that wait, few implement the one that is looked for.
        let mut by_interface = BTreeMap::<&str, Vec<&Manifest>>::new();
        for (interface, it) in waiting.values().flat_map(|it| it.interfaces.iter().map(move |i| (i, it))) {
            by_interface.entry(&interface.name).or_default().push(it);
        }
        let implementing = |wanted: &InterfaceManifest| {
            let known = by_interface.get(wanted.name.as_str()).into_iter().flatten().copied();
            let wanted = wanted.clone();
            known.filter(move |it| matches!(implements(it, &wanted), Some(Ok(()))))
        };
        let mut path = vec![(of.to_owned(), wanted.name.clone())];
        let mut seen = BTreeSet::new();
        let mut next = wanted.clone();
        loop {
            let by = implementing(&next).find(|it| it.plugin != of);
            let by = by.filter(|by| seen.insert(by.plugin.clone()))?;
            let back = waiting.get(of).map(|own| &own.interfaces).into_iter().flatten();
            let back: Vec<_> = back.map(|interface| interface.name.as_str()).collect();
            for requirement in by.requires.iter().filter(|requirement| !requirement.optional) {
                let name = &requirement.interface.name;
                if back.contains(&name.as_str()) {
                    path.push((by.plugin.clone(), name.clone()));
                    return Some(RefusalReason::Circle { path });
                }
            }
            let onward = by.requires.iter().find(|requirement| {
                !requirement.optional && implementing(&requirement.interface).next().is_some()
            })?;
            path.push((by.plugin.clone(), onward.interface.name.clone()));
            next = onward.interface.clone();
        }
    }
}

/// What a plugin's generations call: that of the one that serves, and of those beside it.
fn calls_of(plugin: &Plugin) -> impl Iterator<Item = Arc<Calls>> + use<> {
    let serving = plugin.record().serving.as_ref().map(|serving| serving.calls.clone());
    serving.into_iter().chain(plugin.beside.calls())
}

/// Whether a build implements an interface as it is wanted; `None`: not at all.
pub(crate) fn implements(manifest: &Manifest, wanted: &InterfaceManifest) -> Option<Result<(), String>> {
    let theirs = manifest.interface(&wanted.name)?;
    let InterfaceVersion { major, minor } = theirs.version;
    if major == wanted.version.major && minor < wanted.version.minor {
        let Manifest { plugin, version, .. } = manifest;
        return Some(Err(format!("{plugin} {version} implements {} {}", theirs.name, theirs.version)));
    }
    let compared = file::compare(wanted, theirs, &manifest.plugin, &manifest.version);
    Some(compared.map(drop).map_err(|difference| difference.to_string()))
}

/// The first of those that stand in the way, and how many others do.
pub(crate) fn some_of(names: &[String]) -> String {
    let (first, others) = names.split_at(names.len().min(NAMED));
    let others = match others.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    format!("{}{others}", first.join(", "))
}
