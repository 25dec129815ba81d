//! `reseat dev`: an edit becomes the running code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reseat::file::signature_of;
use reseat::{Outcome, ReloadError};

use super::Failure;
use super::args::DevArgs;
use super::build::Plan;
use super::follow::Sources;
use super::output;
use super::run::{Greeter, Serving, vouch};
use super::settings::Settings;
use super::sign::Signer;

/// How often a build or a wait for edits looks up.
const TICK: Duration = Duration::from_millis(20);
/// How often a build is given up for a newer edit. Then one is let finish, or somebody who saves all the time
/// would never see a result.
const RESTARTS: u32 = 3;

/// Builds, serves and follows crates.
pub fn dev(args: &DevArgs) -> Result<(), Failure> {
    output::log(args.serve.log, args.serve.quiet);
    let signer = signer(args)?;
    let plans: Vec<Plan> = args
        .crates
        .iter()
        .map(|dir| Plan::of(dir, args.release, args.features.as_deref()))
        .collect::<Result<_>>()?;
    let roots: BTreeSet<PathBuf> = plans.iter().flat_map(|plan| plan.sources.iter().cloned()).collect();
    let sources = Sources::watch(roots.into_iter().collect())?;
    // What is built is loaded from where cargo puts it; no directory is watched.
    let serving = Serving::start(&args.serve, Vec::new())?;
    let stop = Arc::new(AtomicBool::new(false));
    let bench = Bench {
        greeter: serving.greeter(),
        sources,
        plans,
        signer,
        stop: stop.clone(),
        // Then it need not be said.
        greeted: args.serve.quiet.then_some(true),
        replan: false,
    };
    let thread = std::thread::Builder::new()
        .name("reseat-dev".into())
        .spawn(move || bench.work())
        .context("no thread for builds")?;
    serving.until_stopped(move || {
        stop.store(true, Ordering::Relaxed);
        // A build under way is given up.
        let _ = thread.join();
    })
}

/// Whoever signs what is built. It would be refused otherwise, build after build, if the settings name keys.
fn signer(args: &DevArgs) -> Result<Option<Signer>, Failure> {
    let signer = args.sign.as_deref().map(|key| Signer::read(key, false)).transpose()?;
    let settings = Settings::from(args.serve.config.as_deref())?;
    let ids: Vec<_> = settings.trusted_keys().iter().map(|key| key.id().to_string()).collect();
    let Some(signer) = signer else {
        return match ids.is_empty() {
            true => Ok(None),
            false => Err(Failure::Usage(anyhow!(
                "the settings name trusted_keys, so what is built here would be refused: name a key to sign it with, --sign KEY, or other settings, --config FILE"
            ))),
        };
    };
    let id = signer.id()?;
    if !ids.is_empty() && !ids.contains(&id) {
        let trusted = ids.join(", ");
        return Err(Failure::Usage(anyhow!("key {id} is not among the trusted_keys: {trusted}")));
    }
    Ok(Some(signer))
}

/// Where crates are built, again and again.
struct Bench {
    greeter: Greeter,
    sources: Sources,
    plans: Vec<Plan>,
    /// Signs what is built, if signatures are asked for.
    signer: Option<Signer>,
    stop: Arc<AtomicBool>,
    /// Whether something was served when the greeting was said.
    greeted: Option<bool>,
    /// A manifest has changed: there may be other sources.
    replan: bool,
}

impl Bench {
    fn work(mut self) {
        let mut dirty: BTreeSet<usize> = (0..self.plans.len()).collect();
        loop {
            while let Some(index) = dirty.pop_first() {
                match self.build(index, &mut dirty) {
                    Ok(()) => {}
                    Err(error) => eprintln!("reseat: {error:#}"),
                }
                if self.is_stopped() {
                    return;
                }
            }
            self.greet();
            self.plan_again();
            while dirty.is_empty() {
                if self.is_stopped() {
                    return;
                }
                let edited = self.sources.next(TICK);
                dirty = self.affected(&edited);
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn serves(&self) -> bool {
        self.greeter.host().status().plugins.iter().any(|plugin| plugin.generation.is_some())
    }

    /// Says once where it serves, and once how to call what is served: the first build may have failed.
    fn greet(&mut self) {
        if self.greeted == Some(true) {
            return;
        }
        let serves = self.serves();
        if self.greeted != Some(serves) {
            self.greeter.greet();
            self.greeted = Some(serves);
        }
    }

    /// Follows what the crates depend on now. A manifest that cargo does not understand is left to the next build,
    /// which says so.
    fn plan_again(&mut self) {
        if !std::mem::take(&mut self.replan) {
            return;
        }
        for plan in &mut self.plans {
            if let Ok(newer) = plan.again() {
                *plan = newer;
            }
        }
        let roots: BTreeSet<PathBuf> =
            self.plans.iter().flat_map(|plan| plan.sources.iter().cloned()).collect();
        self.sources.extend(roots);
    }

    /// The crates that these paths belong to.
    fn affected(&mut self, edited: &BTreeSet<PathBuf>) -> BTreeSet<usize> {
        self.replan |= edited.iter().any(|path| path.ends_with("Cargo.toml"));
        let within = |plan: &Plan, path: &Path| plan.sources.iter().any(|dir| path.starts_with(dir));
        let plans = self.plans.iter().enumerate();
        plans
            .filter(|(_, plan)| edited.iter().any(|path| within(plan, path)))
            .map(|(index, _)| index)
            .collect()
    }

    /// Builds one crate and loads it. An edit of the same crate meanwhile starts over; one of another is noted in
    /// `dirty`.
    fn build(&mut self, index: usize, dirty: &mut BTreeSet<usize>) -> Result<()> {
        for restarts in 0.. {
            let mut build = self.plans[index].start()?;
            let artifact = loop {
                let artifact = build.poll(TICK)?;
                if self.is_stopped() {
                    return Ok(());
                }
                let edited = self.sources.during_a_build();
                dirty.extend(self.affected(&edited));
                if artifact.is_some() {
                    break artifact;
                }
                if restarts < RESTARTS && dirty.remove(&index) {
                    break None;
                }
            };
            match artifact {
                None => tracing::info!("changed again: building anew"),
                Some(Some(artifact)) => {
                    self.load(&artifact);
                    return Ok(());
                }
                Some(None) => {
                    let what =
                        if self.serves() { "what served before serves on" } else { "nothing is served yet" };
                    eprintln!(
                        "the build of {} failed: {what}; waiting for an edit",
                        self.plans[index].dir.display()
                    );
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn load(&self, artifact: &Path) {
        let (Some(dir), Some(name)) = (artifact.parent(), artifact.file_name()) else { return };
        let Some(file) = vouch(dir).file(name) else { return };
        if let Some(signer) = &self.signer
            && let Err(error) = signer.sign(artifact, &signature_of(artifact))
        {
            return eprintln!("reseat: {error:#}");
        }
        match self.greeter.host().load(&file) {
            Ok(unchanged @ Outcome::Unchanged { .. }) => tracing::info!("{unchanged}"),
            // Told already, as an event.
            Ok(_) | Err(ReloadError::Refused(_)) => {}
            Err(error) => eprintln!("reseat: {error}"),
        }
    }
}
