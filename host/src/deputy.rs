//! A thread that runs hooks of a plugin for somebody who does not want to wait for ever.
//!
//! Its end also runs whatever the hooks have registered for the end of their thread, so that a generation is
//! not kept in memory by the thread that created it.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use crate::gate;

type Job = Box<dyn FnOnce() + Send>;

/// See the module.
pub(crate) struct Deputy {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A hook has not returned in time. Its thread is left behind.
pub(crate) struct Stuck;

impl Deputy {
    pub(crate) fn start(name: &str) -> std::io::Result<Deputy> {
        let (jobs, incoming) = bounded::<Job>(1);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // So that keys of the plugins, too, are looked after when this thread ends.
            let _ = gate::current_thread();
            for job in incoming {
                job();
            }
        })?;
        Ok(Deputy { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `hook` there. After [`Stuck`] the deputy is of no more use: every further hook is stuck at once.
    pub(crate) fn run<R: Send + 'static>(
        &mut self,
        limit: Duration,
        hook: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Stuck> {
        let (answer, answered) = bounded(1);
        let job: Job = Box::new(move || {
            let _ = answer.send(hook());
        });
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        let result = if sent { answered.recv_timeout(limit).ok() } else { None };
        result.ok_or_else(|| {
            self.jobs = None;
            self.thread = None;
            Stuck
        })
    }
}

impl Drop for Deputy {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It has no job, so it ends at once; hooks cannot panic, their panics end in the plugin.
            let _ = thread.join();
        }
    }
}
