//! From builds that have been looked at to the transaction in which they take over: whose turn it is, what is left out, and
//! who comes first.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::admit::{Candidate, acceptable};
use super::set::{Set, Stopped};
use super::together::Member;
use super::wait::tell;
use super::{Reload, Stop, Together, stop};
use crate::beside;
use crate::error::ReloadError;
use crate::events::Step;
use crate::file::{ContentHash, Incoming};
use crate::outcome::Outcome;
use crate::plugin::Transaction;
use crate::refusal::{Refusal, RefusalReason};
use crate::registry::Core;
use crate::store::Tried;

type Result<T> = std::result::Result<T, ReloadError>;
/// What has been found out about builds.
type Passed = Vec<(ContentHash, Tried)>;

/// A candidate on its way through, without what has become a member of the transaction.
struct Part {
    /// Its place among those who are told of the outcome.
    at: usize,
    candidate: Candidate,
}

/// Has builds take over, all of them at one moment, or none; the outcomes are in the order of the candidates.
///
/// What serves already, and what waits for somebody to ask for it, is left out. So is, of those whose files were only noticed, what
/// does not fit the others: it waits.
pub(super) fn take_over(core: &Arc<Core>, candidates: Vec<Candidate>) -> Vec<Result<Outcome>> {
    let mut outcomes: Vec<Option<Result<Outcome>>> = candidates.iter().map(|_| None).collect();
    match turns(core, &candidates) {
        Err(error) => outcomes.iter_mut().for_each(|outcome| *outcome = Some(Err(again(&error)))),
        Ok(turns) => {
            let parts = candidates.into_iter().enumerate().map(|(at, candidate)| Part { at, candidate });
            let mut taken = Taken { core, outcomes: &mut outcomes };
            taken.run(parts.zip(turns).collect());
        }
    }
    outcomes.into_iter().map(|outcome| outcome.expect("each is told of its outcome")).collect()
}

/// The turn of each, in the order of their names, so that two who want several do not wait for one another.
fn turns(core: &Core, candidates: &[Candidate]) -> Result<Vec<Transaction>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|one, other| candidates[*one].plugin.name.cmp(&candidates[*other].plugin.name));
    let mut turns: Vec<Option<Transaction>> = candidates.iter().map(|_| None).collect();
    for at in order {
        let Candidate { plugin, wish, .. } = &candidates[at];
        turns[at] = Some(match wish.may_wait {
            true => plugin.begin_within(Step::Vet, core.options().call_wait)?,
            false => plugin.begin(Step::Vet)?,
        });
    }
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    Ok(turns.into_iter().flatten().collect())
}

/// The same for another who waited for it.
fn again(error: &ReloadError) -> ReloadError {
    match error {
        ReloadError::Busy { plugin, step, since } => {
            ReloadError::Busy { plugin: plugin.clone(), step: *step, since: *since }
        }
        _ => ReloadError::Closed,
    }
}

struct Taken<'a> {
    core: &'a Arc<Core>,
    outcomes: &'a mut [Option<Result<Outcome>>],
}

impl Taken<'_> {
    fn run(&mut self, parts: Vec<(Part, Transaction)>) {
        let mut together = Together { members: Vec::new() };
        let mut left = Vec::new();
        for (part, turn) in parts {
            let Candidate { plugin, build, .. } = &part.candidate;
            together.members.push(Member::new(turn, plugin.clone(), build.clone()));
            left.push(part);
        }
        self.leave_out(&mut left, &mut together, |core, one, _| what_there_is_to_do(core, one));
        // Each that is left out may have been what another fits with.
        let is_left = |together: &Together| together.members.len();
        let mut before = usize::MAX;
        while is_left(&together) > 1 && is_left(&together) < before {
            before = is_left(&together);
            self.leave_out(&mut left, &mut together, |_, one, part| waits_for_others(one, part));
        }
        if left.is_empty() {
            return;
        }
        match in_order(self.core, &together) {
            Ok(order) => sort(&mut left, &mut together, &order),
            Err(path) => {
                let stop = stop(Step::Vet, RefusalReason::Circle { path });
                return self.refuse(&left, Stopped { at: 0, stop });
            }
        }
        let incoming = left.iter_mut().filter_map(|part| part.candidate.incoming.take()).collect();
        let first = &left[0].candidate.progress;
        // A panic is a mistake in the host; what had been done was undone while it unwound.
        let done = first.contain(|| Ok(run(self.core, &left, &together, incoming)));
        match done {
            Ok(Ok((outcomes, passed))) => {
                drop(together);
                // Off everybody's path: it is written to disk.
                passed.into_iter().for_each(|(hash, tried)| self.core.store.note_passed(hash, tried));
                left.iter()
                    .zip(outcomes)
                    .for_each(|(part, outcome)| self.outcomes[part.at] = Some(Ok(outcome)));
            }
            Ok(Err(stopped)) => self.refuse(&left, stopped),
            Err(ReloadError::Refused(Refusal { step, reason, .. })) => {
                self.refuse(&left, Stopped { at: 0, stop: Stop { step, reason } });
            }
            Err(error) => left.iter().for_each(|part| self.outcomes[part.at] = Some(Err(again(&error)))),
        }
        for Part { at, candidate } in &left {
            let may_come = |outcome: &Result<Outcome>| match outcome {
                Err(ReloadError::Refused(Refusal { reason: RefusalReason::Ambiguous { .. }, .. })) => true,
                Err(ReloadError::Refused(refusal)) => refusal.reason.is_passing(),
                _ => false,
            };
            if candidate.wish.dry_run || !self.outcomes[*at].as_ref().is_some_and(may_come) {
                self.core.note_waits_no_more(&candidate.plugin.name);
            }
        }
    }

    /// Takes out of the set what has an outcome already.
    fn leave_out(
        &mut self,
        parts: &mut Vec<Part>,
        together: &mut Together,
        outcome: impl Fn(&Arc<Core>, &Reload<'_>, &Part) -> Option<std::result::Result<Outcome, Stop>>,
    ) {
        let look = |(at, part): (usize, &Part)| {
            let Candidate { settled, wish, progress, .. } = &part.candidate;
            let one = Reload::of(self.core, together, at, settled, wish.clone(), progress);
            // A panic is a mistake in the host, as below.
            match progress.contain(|| Ok(outcome(self.core, &one, part))) {
                Ok(outcome) => {
                    let outcome = outcome?.map_err(|stop| ReloadError::Refused(progress.refusal(stop)));
                    Some((at, outcome))
                }
                Err(mistake) => Some((at, Err(mistake))),
            }
        };
        let found: Vec<_> = parts.iter().enumerate().filter_map(look).collect();
        for (at, outcome) in found.into_iter().rev() {
            let part = parts.remove(at);
            drop(together.members.remove(at));
            self.outcomes[part.at] = Some(outcome);
        }
    }

    /// One has been stopped, and so have been the others.
    fn refuse(&mut self, parts: &[Part], stopped: Stopped) {
        let Stopped { at, stop: stopped } = stopped;
        let step = stopped.step;
        let refusal = parts[at].candidate.progress.refusal(stopped);
        for (_, part) in parts.iter().enumerate().filter(|(other, _)| *other != at) {
            let refusal = part.candidate.progress.refusal(stop(step, refusal.of_partner()));
            self.outcomes[part.at] = Some(Err(ReloadError::Refused(refusal)));
        }
        self.outcomes[parts[at].at] = Some(Err(ReloadError::Refused(refusal)));
    }
}

/// Whether a candidate is what serves already, or is not to take over before somebody asks for it.
fn what_there_is_to_do(core: &Arc<Core>, one: &Reload<'_>) -> Option<std::result::Result<Outcome, Stop>> {
    let (plugin, build) = (one.plugin, &one.build);
    let serving = one.serving.as_ref().map(|serving| serving.number);
    if let Some(generation) =
        serving.filter(|now| one.wish.back.as_ref().is_some_and(|back| back.from != *now))
    {
        return Some(Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation }));
    }
    let unchanged =
        one.serving.as_ref().filter(|serving| serving.build.hash == build.hash && !one.wish.force);
    if let Some(serving) = unchanged {
        // It may have been moved: `claim` has seen that nothing is left where it was.
        let mut record = plugin.record();
        if record.is_followed_at(&build.file) {
            // What was refused is not there any more.
            record.last_refusal = None;
        }
        record.file.clone_from(&build.file);
        record.awaiting = None;
        drop(record);
        beside::superseded(core, plugin, build);
        return Some(Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation: serving.number }));
    }
    let (what, until) = one.is_held_back()?;
    if let Err(stop) = one.fits() {
        return Some(Err(stop));
    }
    if one.serving.is_none() {
        plugin.record().deferred = Some(one.origin.clone());
        core.note_change();
    }
    tell(core, plugin, build, what, until);
    Some(Ok(acceptable(plugin, build)))
}

/// Whether a build of which nobody has asked for does not fit what would serve beside it, but may fit another time.
fn waits_for_others(one: &Reload<'_>, part: &Part) -> Option<std::result::Result<Outcome, Stop>> {
    let wish = &part.candidate.wish;
    if !wish.noticed && !wish.may_stay_behind {
        return None;
    }
    let fits = one.fits().and_then(|()| one.find_whom_it_calls());
    let waits =
        |stop: &Stop| matches!(stop.reason, RefusalReason::Alone { .. } | RefusalReason::Unmet { .. });
    fits.err().filter(waits).map(Err)
}

/// The steps, and what is to be noted of those who have passed.
fn run(
    core: &Arc<Core>,
    parts: &[Part],
    together: &Together,
    incoming: Vec<Incoming>,
) -> std::result::Result<(Vec<Outcome>, Passed), Stopped> {
    let members = parts.iter().enumerate().map(|(at, part)| {
        let Candidate { settled, wish, progress, .. } = &part.candidate;
        Reload::of(core, together, at, settled, wish.clone(), progress)
    });
    let set = Set::of(members.collect());
    let outcomes = set.run(incoming)?;
    let passed = set.members().iter().filter_map(|one| Some((one.build.hash, one.passed.get()?)));
    Ok((outcomes, passed.collect()))
}

/// The members, each behind those that it calls: behind those that it can do without as far as there is no circle.
///
/// # Errors
/// They cannot do without one another, in a circle.
fn in_order(core: &Arc<Core>, together: &Together) -> std::result::Result<Vec<usize>, Vec<(String, String)>> {
    if together.members.len() == 1 {
        return Ok(vec![0]); // nobody calls itself
    }
    let calls = together.members.iter().map(|member| {
        let found = member.build.manifest.requires.iter().filter_map(|requirement| {
            let wanted = &requirement.interface;
            // Whoever is missing is told of when all is looked at in earnest.
            let called = core.choose(&member.plugin.name, wanted, Some(together)).ok()?;
            let at = together.members.iter().position(|other| Arc::ptr_eq(&other.plugin, &called))?;
            Some(Called { at, by: wanted.name.clone(), optional: requirement.optional })
        });
        found.collect()
    });
    let mut calls: Vec<Vec<Called>> = calls.collect();
    loop {
        let mut walk = Walk { calls: &calls, path: Vec::new(), seen: BTreeSet::new(), order: Vec::new() };
        let circle = match (0..together.members.len()).try_for_each(|at| walk.visit(at)) {
            Ok(()) => return Ok(walk.order),
            Err(circle) => circle,
        };
        match circle.iter().find(|(at, call)| calls[*at][*call].optional) {
            Some(&(at, call)) => drop(calls[at].remove(call)),
            None => {
                let name = |at: usize| together.members[at].plugin.name.clone();
                return Err(circle
                    .iter()
                    .map(|(at, call)| (name(*at), calls[*at][*call].by.clone()))
                    .collect());
            }
        }
    }
}

/// Another member that one calls.
struct Called {
    at: usize,
    /// By which interface.
    by: String,
    optional: bool,
}

/// From callers down to those whom they call.
struct Walk<'a> {
    /// Whom each calls.
    calls: &'a [Vec<Called>],
    /// Who calls, and which of its calls that is.
    path: Vec<(usize, usize)>,
    seen: BTreeSet<usize>,
    order: Vec<usize>,
}

impl Walk<'_> {
    /// # Errors
    /// It leads back to itself, by these calls.
    fn visit(&mut self, at: usize) -> std::result::Result<(), Vec<(usize, usize)>> {
        if let Some(from) = self.path.iter().position(|(known, _)| *known == at) {
            return Err(self.path[from..].to_vec());
        }
        if !self.seen.insert(at) {
            return Ok(());
        }
        for (call, called) in self.calls[at].iter().enumerate() {
            self.path.push((at, call));
            self.visit(called.at)?;
            self.path.pop();
        }
        self.order.push(at);
        Ok(())
    }
}

fn sort(parts: &mut Vec<Part>, together: &mut Together, order: &[usize]) {
    let mut all: Vec<_> = parts.drain(..).zip(together.members.drain(..)).map(Some).collect();
    for at in order {
        let (part, member) = all[*at].take().expect("each has one place");
        parts.push(part);
        together.members.push(member);
    }
}
