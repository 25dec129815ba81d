//! Options that change while a host runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::ReloadError;
use crate::events::Event;
use crate::host::Host;
use crate::mode::ReloadMode;
use crate::options::Options;
use crate::outcome::Outcome;
use crate::plugin::Plugin;
use crate::registry::Core;
use crate::reload;

/// What became of new options, see [`Host::reconfigure`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Reconfigured {
    /// What differs and takes effect only in the next host, by the names of the fields.
    pub in_the_next_host: Vec<&'static str>,
    /// The plugins whose configuration has changed, and what became of beginning again with it.
    pub begun_again: Vec<(String, Result<Outcome, ReloadError>)>,
}

impl Host {
    /// What holds now.
    pub fn options(&self) -> Options {
        (*self.core.options()).clone()
    }

    /// Has other options from now on.
    ///
    /// ```no_run
    /// # let host = reseat::Host::start(reseat::Options::default())?;
    /// use std::time::Duration;
    ///
    /// let options = reseat::Options { drain_deadline: Duration::from_secs(1), ..host.options() };
    /// let became = host.reconfigure(options);
    /// assert!(became.in_the_next_host.is_empty() && became.begun_again.is_empty());
    /// # Ok::<(), reseat::StartError>(())
    /// ```
    ///
    /// What a transaction, a wait or a snapshot goes by holds for the next one: deadlines and limits, `drain_policy`,
    /// `mode`, `scope_wait`, `gather`, `cooldown`, `probe`, `probation`, `canary`, `snapshot_every`, `measure_calls`, `max_lingering`, `lazy`
    /// for plugins that appear, and what is otherwise for single plugins. A plugin whose `config` has changed begins again with it: the build that serves, as by
    /// [`Host::reload`], with its state. If it refuses, it serves on with what it had, and the new one is what the next
    /// build gets.
    ///
    /// With other `trusted_keys`, and where the `mode` of a plugin is another or what it may `bind`, what lies in the directories that are followed is looked at again: what is signed by one of
    /// them is loaded, what is not is told of. What serves serves on; it has to be unloaded by whoever wants that.
    ///
    /// What only a start can change stays as it is, and is named: `watch`, `follow`, `watcher`, `state_dir`, `persist`, `proving`,
    /// `start_fresh`, `rescan_every`, `adopt_after`, `second_witness`. So do the `observers`, which cannot be compared
    /// and are not named.
    ///
    /// Blocks for as long as the plugins take that begin again, one after another.
    pub fn reconfigure(&self, options: Options) -> Reconfigured {
        let core = &self.core;
        let (merged, in_the_next_host) = merge(&core.options(), options);
        let before = core.set_options(merged);
        let now = core.options();
        for plugin in core.all() {
            apply(&plugin, &now);
        }
        self.snapshots_anew();
        let is_otherwise = |plugin: &Arc<Plugin>| {
            let (own, was) = (now.plugins.get(&plugin.name), before.plugins.get(&plugin.name));
            before.mode_of(&plugin.name) != now.mode_of(&plugin.name)
                || own.map(|own| &own.bind) != was.map(|was| &was.bind)
        };
        if before.trusted_keys != now.trusted_keys || core.all().iter().any(is_otherwise) {
            self.look_again();
        }
        core.journal.record(Event::Reconfigured {
            in_the_next_host: in_the_next_host.iter().map(|name| (*name).to_owned()).collect(),
        });
        let names: BTreeSet<&String> = before.config.keys().chain(now.config.keys()).collect();
        let changed = names.into_iter().filter(|name| before.config.get(*name) != now.config.get(*name));
        let begun_again = changed.filter_map(|name| begin_again(core, name)).collect();
        Reconfigured { in_the_next_host, begun_again }
    }
}

/// What may change, from `new`; the rest as it is, with the names of what differs.
fn merge(now: &Options, new: Options) -> (Options, Vec<&'static str>) {
    let mut stays = Vec::new();
    let mut note = |name, differs: bool| {
        if differs {
            stays.push(name);
        }
    };
    let absolute = std::path::absolute(&new.state_dir).unwrap_or_else(|_| new.state_dir.clone());
    note("watch", new.watch != now.watch);
    note("follow", new.follow != now.follow);
    note("watcher", new.watcher != now.watcher);
    note("state_dir", absolute != now.state_dir);
    note("persist", new.persist != now.persist);
    note("proving", new.proving != now.proving);
    note("start_fresh", new.start_fresh != now.start_fresh);
    note("rescan_every", new.rescan_every != now.rescan_every);
    note("adopt_after", new.adopt_after != now.adopt_after);
    note("second_witness", new.second_witness != now.second_witness);
    let merged = Options {
        watch: now.watch.clone(),
        follow: now.follow,
        watcher: now.watcher.clone(),
        state_dir: now.state_dir.clone(),
        persist: now.persist,
        proving: now.proving,
        start_fresh: now.start_fresh,
        rescan_every: now.rescan_every,
        adopt_after: now.adopt_after,
        second_witness: now.second_witness,
        observers: now.observers.clone(),
        ..new
    };
    (merged, stays)
}

/// What a plugin has been given of the options.
fn apply(plugin: &Plugin, options: &Options) {
    plugin.slot.set_wait_limit(options.call_wait);
    plugin.slot.set_max_waiters(options.max_waiting);
    plugin.scopes.count(options.mode_of(&plugin.name) == ReloadMode::BetweenScopes);
    // A probation under way ends as it has begun.
    let on_probation = plugin.record().on_probation.is_some();
    if let Ok(held) = plugin.slot.lease()
        && held.tables.is_metered() != options.measure_calls
        && !on_probation
    {
        held.meter.time_only_some();
        match options.measure_calls {
            true => held.tables.begin_metering(),
            false => held.tables.end_metering(),
        }
    }
}

fn begin_again(core: &Arc<Core>, name: &str) -> Option<(String, Result<Outcome, ReloadError>)> {
    let plugin = core.find(name).filter(|plugin| plugin.is_loaded())?;
    Some((name.to_owned(), reload::begin_serving_again(core, &plugin, None)))
}
