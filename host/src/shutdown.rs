//! The end of a host, and of its plugins in their order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_api::Stopping;

use crate::beside;
use crate::events::{Event, Step};
use crate::gate;
use crate::host::Host;
use crate::lock::lock;
use crate::plugin::Plugin;

impl Host {
    /// Ends the host: new calls end with [`CallError::Closed`](crate::CallError::Closed), those in flight finish, all plugins are stopped
    /// and unloaded. `false`: something was still in use, or under way, after `limit`; it is left as it is, and an event
    /// says so. Its state is kept all the same, if it can be saved.
    pub fn shutdown(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Nothing new comes in; a transaction under way stops, unless it is as good as over.
        let first = self.core.close();
        for plugin in self.core.all() {
            plugin.cancel();
        }
        self.core.gathering.end();
        self.core.registrations.end_timers();
        // Each in a statement of its own: whoever is told that it ends may still look at the host.
        let intake = lock(&self.intake).take();
        let intake = intake.map(|intake| intake.end(&self.core.journal));
        let snapshots = lock(&self.snapshots).take();
        if let Some(snapshots) = snapshots {
            snapshots.end(left());
        }
        let (mut rest, mut all_ended) = (self.core.all(), true);
        while !rest.is_empty() {
            // Whoever calls others goes before them: its last hooks may still call.
            let (needed, free): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|plugin| !self.core.dependents(plugin).is_empty());
            let (now, later) = if free.is_empty() { (needed, Vec::new()) } else { (free, needed) };
            all_ended &= self.end_plugins(now, deadline);
            rest = later;
        }
        if let Some(intake) = intake {
            intake.wait(left(), &self.core.journal);
        }
        let clean = all_ended && self.core.reaper.unfinished() == 0;
        if first {
            self.core.reaper.end();
            self.core.store.close(left().max(LAST_WORDS));
            self.core.journal.close();
        }
        clean
    }
}

impl Host {
    /// Has these plugins stopped and unloaded, until the deadline. `false`: one could not be stopped, since something else
    /// is still being done with it.
    fn end_plugins(&self, plugins: Vec<Arc<Plugin>>, deadline: Instant) -> bool {
        let left = || deadline.saturating_duration_since(Instant::now());
        let (mut closed, mut busy) = (Vec::new(), Vec::new());
        for plugin in plugins {
            plugin.set_closed();
            match plugin.begin_within(Step::Publish, left()) {
                Ok(_turn) => {
                    let Some(old) = self.core.take_down(&plugin) else { continue };
                    beside::clear(&self.core, &plugin, Stopping::HostEnds);
                    closed.push((old, plugin));
                }
                Err(why) => busy.push((plugin, why)),
            }
        }
        // All of them are closed, and told, before the first is waited for.
        closed.iter_mut().for_each(|(old, plugin)| self.core.leave_now(plugin, old));
        for (mut old, plugin) in closed {
            self.core.keep_last_state(&plugin, &mut old, deadline);
            self.core.reaper.retire(plugin, old, Stopping::HostEnds, false);
        }
        while self.core.reaper.unfinished() > 0 && !left().is_zero() {
            // This thread may have called: what it has to clear away, nobody else can.
            gate::run_errands();
            std::thread::sleep(Duration::from_millis(1));
        }
        for (plugin, why) in &busy {
            let what = format!("{} was not stopped and is left as it is: {why}", plugin.name);
            self.core.journal.record(Event::Trouble { what });
            self.core.keep_state_of_what_stays(plugin);
        }
        busy.is_empty()
    }
}

/// How long the end of a host waits for a disk, at least.
const LAST_WORDS: Duration = Duration::from_secs(10);

impl Drop for Host {
    fn drop(&mut self) {
        if !self.core.is_closed() {
            self.shutdown(self.core.options().drain_deadline);
        }
    }
}
