//! What is looked at, and where.

use std::time::{Duration, Instant};

use super::missing::missing;
use super::{OldGeneration, UnderWay, WaitingBuild, WaitingCallers, Why, counted, millis};
use crate::error::WhyError;
use crate::events::Step;
use crate::host::Host;
use crate::mode::{ON_DEMAND, PARTNERS, ReloadMode};
use crate::options::{DrainPolicy, Options};
use crate::plugin::{Plugin, Turn};
use crate::registry::Core;
use crate::requirements::some_of;

impl Host {
    /// Who waits for whom, as far as this plugin is concerned: the transaction that is under way and those it waits for,
    /// callers at its closed gate, builds that are not taken in yet, requirements that are missing, generations that do not go.
    ///
    /// Waits for nobody who waits, and changes nothing. While the host ends it says what holds that up.
    ///
    /// # Errors
    /// The host does not know such a plugin.
    pub fn why(&self, plugin: &str) -> Result<Why, WhyError> {
        let unknown = || WhyError::NoSuchPlugin { name: plugin.into(), known: self.core.names() };
        let plugin = self.core.find(plugin).ok_or_else(unknown)?;
        Ok(of(&self.core, &plugin))
    }
}

/// Looks at one plugin.
fn of(core: &Core, plugin: &Plugin) -> Why {
    let options = core.options();
    let (missing, circle) = missing(core, &plugin.name);
    let why = Why {
        plugin: plugin.name.clone(),
        generation: plugin.serving_number(),
        under_way: under_way(&options, plugin),
        callers: callers(plugin),
        build: build(core, &options, plugin),
        missing,
        circle,
        required_by: core.dependents(plugin),
        old: old(core, plugin),
        last_refusal: plugin.record().last_refusal.clone(),
        lines: Vec::new(),
    };
    why.told()
}

fn under_way(options: &Options, plugin: &Plugin) -> Option<UnderWay> {
    let Turn { step, since, cancelled, holders, .. } = plugin.under_way()?;
    // With the gate open nobody is waited for there.
    let holders = holders.filter(|_| plugin.slot.is_paused());
    let is_between = options.mode_of(&plugin.name) == ReloadMode::BetweenScopes;
    let at_the_gate = matches!(step, Step::Drain | Step::Publish);
    let scopes = plugin.scopes.holding() as u64;
    let scopes = (is_between && at_the_gate && holders.is_none() && scopes > 0).then_some(scopes);
    let (waits_for, at_most) = match step {
        Step::Probe => (Some("the helper process that tries the build"), None),
        Step::Observe => (Some("an observer"), None),
        Step::Open => (Some("the constructors of the library"), Some(options.hook_deadline)),
        Step::Create | Step::Restore | Step::Check => {
            (Some("a hook of the new build"), Some(options.hook_deadline))
        }
        Step::Save if holders.is_none() => {
            (Some("`save` of the generation that serves"), Some(options.hook_deadline))
        }
        Step::Drain if holders.is_some() => (None, limit_of_a_drain(options, plugin)),
        _ => (None, None),
    };
    Some(UnderWay {
        step,
        since_ms: millis(since.elapsed()),
        cancelled,
        // `check` is two hooks, each with its own.
        at_most_ms: at_most.filter(|_| step != Step::Check).map(millis),
        holders,
        scopes,
        waits_for: waits_for.map(str::to_owned),
    })
}

fn limit_of_a_drain(options: &Options, plugin: &Plugin) -> Option<Duration> {
    let is_limited = options.drain_policy_of(&plugin.name) != DrainPolicy::Wait;
    is_limited.then(|| options.drain_deadline_of(&plugin.name))
}

fn callers(plugin: &Plugin) -> Option<WaitingCallers> {
    let waiting = plugin.slot.waiting() as u64;
    (waiting > 0).then(|| WaitingCallers { waiting, at_most_ms: millis(plugin.slot.wait_limit()) })
}

/// A build that was told to wait, if what it waits for is still in its way.
fn build(core: &Core, options: &Options, plugin: &Plugin) -> Option<WaitingBuild> {
    let (awaiting, reloaded, is_deferred, is_new) = {
        let record = plugin.record();
        let awaiting = record.awaiting.clone()?;
        let is_new = record.serving.as_ref().is_some_and(|serving| serving.build.hash != awaiting.hash);
        (awaiting, record.reloaded, record.deferred.is_some(), is_new)
    };
    let (name, mode) = (&plugin.name, options.mode_of(&plugin.name));
    let until = match awaiting.what {
        ON_DEMAND if is_new && mode == ReloadMode::OnDemand => {
            format!("somebody asks for it: `{name}` is reloaded on demand")
        }
        "never" if is_new && mode == ReloadMode::Never => {
            format!("the next host: `{name}` is never reloaded")
        }
        "cooldown" if is_new => {
            let (cooldown, since) = (options.cooldown_of(name), reloaded?);
            let left = (since + cooldown).checked_duration_since(Instant::now())?;
            format!("{cooldown:?} have passed since the last reload of it: {:.1} s more", left.as_secs_f64())
        }
        "scopes" if is_new && plugin.scopes.holding() > 0 => {
            let scopes = plugin.scopes.holding() as u64;
            format!(
                "no scope holds it: {} {}",
                counted(scopes, "scope"),
                if scopes == 1 { "does" } else { "do" }
            )
        }
        PARTNERS if is_new => {
            let callers = core.callers(plugin);
            format!("builds of {} come that fit, to take over together", some_of(&callers))
        }
        "first-call" if is_deferred => format!("somebody calls it: `{name}` is opened then"),
        _ => return None,
    };
    Some(WaitingBuild { file: awaiting.file, kind: awaiting.what.to_owned(), until })
}

fn old(core: &Core, plugin: &Plugin) -> Vec<OldGeneration> {
    let leaving = core.reaper.ask(&plugin.name);
    let old = plugin.record().old.clone();
    let mut old: Vec<_> = old
        .into_iter()
        .map(|old| {
            let found = leaving.iter().find(|one| one.number == old.number);
            OldGeneration {
                generation: old.number,
                version: old.version,
                phase: old.phase,
                since_ms: found.map(|one| millis(one.since)),
                holders: found.and_then(|one| one.holders.clone()),
                reason: old.reason,
            }
        })
        .collect();
    old.sort_by_key(|one| one.generation);
    old
}
