//! `reseat dev`: an edit becomes the running code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use reseat::file::signature_of;
use reseat::{BuildFailure, CrateBuild, Host, Outcome, ReloadError, TrustedFile};

use super::Failure;
use super::args::{CargoArgs, DevArgs};
use super::build::{Build, Built};
use super::follow::Sources;
use super::output;
use super::plan::Plan;
use super::progress::{self, Busy};
use super::run::{Greeter, Serving, vouch};
use super::settings::Settings;
use super::sign::Signer;

/// How often a build or a wait for edits looks up.
const TICK: Duration = Duration::from_millis(20);
/// How often a build is given up for a newer edit. Then one is let finish, or somebody who saves all the time
/// would never see a result.
const RESTARTS: u32 = 3;

const MANIFEST: &str = "Cargo.toml";

/// Builds, serves and follows crates.
pub fn dev(args: &DevArgs) -> Result<(), Failure> {
    output::log(args.serve.log, args.serve.quiet);
    let signer = signer(args)?;
    let plans: Vec<Plan> = args.crates.iter().map(|dir| Plan::of(dir)).collect::<Result<_>>()?;
    let mut sources = Sources::watch(Vec::new())?;
    follow(&mut sources, &plans);
    // What is built is loaded from where cargo puts it; no directory is watched.
    let serving = Serving::start(&args.serve, Vec::new())?;
    let stop = Arc::new(AtomicBool::new(false));
    let bench = Bench {
        greeter: serving.greeter(),
        sources,
        plugins: vec![None; plans.len()],
        plans,
        cargo: args.cargo.clone(),
        quiet: args.serve.quiet,
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

/// Follows the sources of these crates, and the manifests of their workspaces.
fn follow(sources: &mut Sources, plans: &[Plan]) {
    sources.extend(plans.iter().flat_map(|plan| plan.sources.iter().cloned()));
    sources.extend_flat(plans.iter().map(|plan| plan.workspace.clone()));
}

/// Where crates are built, again and again.
struct Bench {
    greeter: Greeter,
    sources: Sources,
    plans: Vec<Plan>,
    /// Which plugins they make, where that is known.
    plugins: Vec<Option<String>>,
    cargo: CargoArgs,
    quiet: bool,
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
            self.plan_again();
            while let Some(group) = self.next_group(&mut dirty) {
                if let Err(error) = self.build(group, &mut dirty) {
                    progress::line(&format!("reseat: {error:#}"));
                }
                if self.is_stopped() {
                    return;
                }
                self.plan_again();
            }
            while dirty.is_empty() {
                self.greet();
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

    fn host(&self) -> &Host {
        self.greeter.host()
    }

    fn serves(&self) -> bool {
        self.host().status().plugins.iter().any(|plugin| plugin.generation.is_some())
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

    /// Follows what the crates are called and depend on now. A manifest that cargo does not understand is left to the
    /// next build, which says so.
    fn plan_again(&mut self) {
        if !std::mem::take(&mut self.replan) {
            return;
        }
        for (plan, plugin) in self.plans.iter_mut().zip(&mut self.plugins) {
            if let Ok(newer) = plan.again() {
                // It may make another plugin now.
                plugin.take_if(|_| newer.name != plan.name);
                *plan = newer;
            }
        }
        follow(&mut self.sources, &self.plans);
    }

    /// The crates that these paths belong to.
    fn affected(&mut self, edited: &BTreeSet<PathBuf>) -> BTreeSet<usize> {
        self.replan |= edited.iter().any(|path| path.ends_with(MANIFEST));
        let within = |plan: &Plan, path: &Path| {
            plan.sources.iter().any(|dir| path.starts_with(dir)) || *path == plan.workspace.join(MANIFEST)
        };
        let plans = self.plans.iter().enumerate();
        plans
            .filter(|(_, plan)| edited.iter().any(|path| within(plan, path)))
            .map(|(index, _)| index)
            .collect()
    }

    /// Takes the first of these crates, and what else of them is in its workspace.
    fn next_group(&self, dirty: &mut BTreeSet<usize>) -> Option<BTreeSet<usize>> {
        let first = *dirty.first()?;
        Some(self.take_from(dirty, &self.plans[first].workspace))
    }

    fn take_from(&self, dirty: &mut BTreeSet<usize>, workspace: &Path) -> BTreeSet<usize> {
        dirty.extract_if(.., |index| self.plans[*index].workspace == workspace).collect()
    }

    /// Builds crates of one workspace, and loads them. An edit of one of them meanwhile starts over; one of another is
    /// noted in `dirty`.
    fn build(&mut self, mut group: BTreeSet<usize>, dirty: &mut BTreeSet<usize>) -> Result<()> {
        for restarts in 0.. {
            let begun = Instant::now();
            let Some(built) = self.build_once(&group, dirty, restarts < RESTARTS)? else {
                if self.is_stopped() {
                    return Ok(());
                }
                tracing::info!("changed again: building anew");
                self.plan_again();
                let first = *group.first().expect("there is one to be built");
                group.extend(self.take_from(dirty, &self.plans[first].workspace));
                continue;
            };
            let took = begun.elapsed();
            let artifacts: Vec<_> =
                group.iter().filter_map(|index| self.take(*index, &built, took)).collect();
            self.load(&artifacts);
            break;
        }
        Ok(())
    }

    /// `None`: it was given up, because one of the crates has changed or because all is to end.
    fn build_once(
        &mut self,
        group: &BTreeSet<usize>,
        dirty: &mut BTreeSet<usize>,
        may_give_up: bool,
    ) -> Result<Option<Built>> {
        let plans: Vec<&Plan> = group.iter().map(|index| &self.plans[*index]).collect();
        let others = self.plans.iter().enumerate().filter(|(index, _)| !group.contains(index));
        let others: Vec<_> = others.map(|(_, plan)| plan.name.as_str()).collect();
        let mut build = Build::start(&plans, &others, &self.cargo, self.quiet)?;
        let names: Vec<_> = plans.iter().map(|plan| plan.name.as_str()).collect();
        let _shown = Busy::with(format!("building {}", names.join(", ")), build.last_words());
        loop {
            let built = build.poll(TICK)?;
            if self.is_stopped() {
                return Ok(None);
            }
            let edited = self.sources.during_a_build();
            dirty.extend(self.affected(&edited));
            if built.is_some() || (may_give_up && !group.is_disjoint(dirty)) {
                return Ok(built);
            }
        }
    }

    /// What was built of a crate; or says why there is nothing.
    fn take(&mut self, index: usize, built: &Built, took: Duration) -> Option<PathBuf> {
        let plan = self.plans[index].clone();
        match built.artifact(&plan.package) {
            Some(artifact) => {
                if self.plugins[index].is_none() {
                    self.plugins[index] = reseat::inspect(artifact).ok().map(|inspection| inspection.plugin);
                }
                self.tell(index, took, None);
                Some(artifact.to_owned())
            }
            None => {
                self.tell(index, took, Some(built.failure(&plan.package)));
                let what =
                    if self.serves() { "what served before serves on" } else { "nothing is served yet" };
                let dir = plan.dir.display();
                progress::line(&format!("the build of {dir} failed: {what}; waiting for an edit"));
                None
            }
        }
    }

    fn tell(&self, index: usize, took: Duration, failure: Option<BuildFailure>) {
        let (package, plugin) = (self.plans[index].name.clone(), self.plugins[index].clone());
        self.host().tell_build(CrateBuild { package, plugin, took, failure });
    }

    /// Loads what one build has made: plugins that have to do with one another take over together.
    fn load(&self, artifacts: &[PathBuf]) {
        let files: Vec<_> = artifacts.iter().filter_map(|artifact| self.sign(artifact)).collect();
        if files.is_empty() {
            return;
        }
        let names: Vec<_> = files.iter().filter_map(|file| file.path().file_name()?.to_str()).collect();
        let _shown = self.greeter.show(format!("loading {}", names.join(", ")));
        for outcome in self.host().load_all_or_retry(&files) {
            match outcome {
                Ok(unchanged @ Outcome::Unchanged { .. }) => tracing::info!("{unchanged}"),
                // Told already, as an event; what may be tried again is.
                Ok(_) | Err(ReloadError::Refused(_)) => {}
                Err(error) => progress::line(&format!("reseat: {error}")),
            }
        }
    }

    /// Vouches for a library, and signs it if that is wanted.
    fn sign(&self, artifact: &Path) -> Option<TrustedFile> {
        let file = vouch(artifact.parent()?).file(artifact.file_name()?)?;
        if let Some(signer) = &self.signer
            && let Err(error) = signer.sign(artifact, &signature_of(artifact))
        {
            progress::line(&format!("reseat: {error:#}"));
            return None;
        }
        Some(file)
    }
}
