//! The helper's side: takes one build through the steps of a reload, in a process that may die of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, Signal};

use super::{Report, Request};
use crate::events::Step;
use crate::ffi::{self, Hooks, Regions, Surroundings, Table};
use crate::options::TrustedFile;
use crate::peer::Nobody;
use crate::registrations::Ledger;
use crate::snapshot::Frame;

/// What a helper program does: answers the one request that is on its standard input. Call this first in its `main`:
/// it closes every descriptor but the standard ones.
pub fn serve() -> ExitCode {
    let outcome = Helper::begin().and_then(|(helper, request, state)| helper.answer(&request, state));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whoever is told how far it has come.
struct Helper {
    reports: File,
    /// The plugin's, to be looked at.
    regions: Arc<Regions>,
}

impl Helper {
    fn begin() -> Result<(Helper, Request, Option<Frame>)> {
        // What the host had open is none of a build's business.
        ffi::close_inherited_descriptors();
        let reports = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
        // What the build prints goes where it can be quoted.
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        let mut input = BufReader::new(io::stdin().lock());
        let mut line = String::new();
        input.read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line)
            .context("this is run by a host, which writes the request; by hand it does nothing")?;
        let state = match request.state {
            Some(size) => {
                let mut state = Vec::new();
                input.read_to_end(&mut state)?;
                if state.len() as u64 != size {
                    bail!("the state has {} bytes, announced were {size}", state.len());
                }
                Some(Arc::new(state))
            }
            None => None,
        };
        let regions = Regions::visit(&request.plugin, &request.regions)?;
        limit(&request)?;
        Ok((Helper { reports, regions }, request, state))
    }

    fn say(&mut self, report: &Report) -> Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        Ok(self.reports.write_all(&line)?)
    }

    /// Takes the build through the steps.
    fn answer(mut self, request: &Request, state: Option<Frame>) -> Result<()> {
        match self.rehearse(request, state) {
            Ok(()) => self.say(&Report::Done),
            Err(error) => self.say(&Report::Refused(format!("{error:#}"))),
        }
    }

    fn rehearse(&mut self, request: &Request, state: Option<Frame>) -> Result<()> {
        self.say(&Report::At(Step::Open))?;
        // The host has vouched for the file before it started this.
        let origin = TrustedFile::watched(request.library.clone());
        let around = Surroundings {
            counters: Arc::default(),
            regions: self.regions.clone(),
            peers: Arc::new(Nobody),
            // Looked at as in a host, and nobody calls.
            registrations: Table::new(&request.plugin, 0, Arc::new(Ledger::default())),
        };
        let image =
            ffi::open_trusted(&origin, &request.library, &request.plugin, 0, request.manifest_hash, around)?;
        let hooks = Hooks::new(image);
        let with_state = state.is_some();
        let instance = match state {
            Some(state) => {
                self.say(&Report::At(Step::Restore))?;
                hooks.restore(&request.config, state).context("restore failed")?
            }
            None => {
                self.say(&Report::At(Step::Create))?;
                hooks.create(&request.config).context("create failed")?
            }
        };
        drop(hooks);
        self.say(&Report::At(Step::Check))?;
        instance.self_check().context("self_check failed")?;
        instance.image().check_regions()?;
        if with_state {
            self.say(&Report::At(Step::Save))?;
            instance.save(0).context("save failed")?;
        }
        self.say(&Report::At(Step::Retire))?;
        instance.destroy().context("its destructor failed")?;
        if let Ok(image) = instance.into_hooks().into_image() {
            image.book().run_on_this_thread();
            // Whether it can be unloaded is seen in the host; here it matters that its finalizers do no harm.
            let _ = image.close();
        }
        Ok(())
    }
}

/// What the build may use up.
fn limit(request: &Request) -> Result<()> {
    let set = |resource, limit| {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        rustix::process::setrlimit(resource, limit)
    };
    set(Resource::As, request.memory)?;
    set(Resource::Cpu, request.seconds)?;
    set(Resource::Fsize, request.memory)?;
    set(Resource::Core, 0)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_nonzero().get() as u32 != request.parent)
    {
        bail!("the host has gone");
    }
    Ok(())
}
