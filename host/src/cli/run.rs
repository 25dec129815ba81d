//! `reseat run`: a host until somebody says stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use reseat::{Host, Options, Probe, TrustedDir};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};

use super::Failure;
use super::args::{RunArgs, ServeArgs};
use super::output;
use super::settings::Settings;
use crate::serve::calls::Calls;
use crate::serve::control::{CLIENTS, Control};
use crate::serve::http;

/// Serves directories.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    output::log(args.serve.log, args.serve.quiet);
    let watch = args.dirs.iter().map(|dir| vouch(dir)).collect();
    let serving = Serving::start(&args.serve, watch)?;
    if !args.serve.quiet {
        serving.greeter().greet();
    }
    serving.until_stopped(|| {})
}

/// Vouches for a directory: the one place where the program does so. The operator has named the directory on the
/// command line, or asked to build and run the crate that it is the output of; the help says what that means.
#[allow(unsafe_code)]
pub fn vouch(dir: &Path) -> TrustedDir {
    // SAFETY: the operator's word, see above.
    unsafe { TrustedDir::new(dir) }
}

/// How long clients may take, after the host has ended, to receive what it has answered.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A host that can be reached.
pub struct Serving {
    host: Arc<Host>,
    runtime: Runtime,
    control: Control,
    http: Option<(TcpListener, SocketAddr)>,
    drain_deadline: Duration,
    /// From before anything is loaded, so that a signal during that is not lost.
    signals: (Signal, Signal),
}

impl Serving {
    /// Starts a host. Whoever wants to reach it is answered from [`Serving::until_stopped`] on.
    pub fn start(args: &ServeArgs, watch: Vec<TrustedDir>) -> Result<Serving> {
        let mut options = Options { watch, state_dir: args.state.state_dir.clone(), ..Options::default() };
        // This program is a helper, too. Its inode, and not its name: it may be replaced while it runs.
        options.probe = Some(Probe::with("/proc/self/exe", ["probe"]));
        Settings::read(args.config.as_ref())?.apply(&mut options);
        options.follow &= !args.no_watch;
        options.start_fresh = args.fresh;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("reseat-serve")
            .enable_all()
            .build()
            .context("the threads that serve cannot be started")?;
        // Before the host, so that of two hosts in one directory the second never starts.
        let control = runtime.block_on(async { Control::bind(&options.state_dir) })?;
        let http = match args.no_http {
            true => None,
            false => {
                let listener = runtime.block_on(http::bind(args.http))?;
                let address = listener.local_addr()?;
                Some((listener, address))
            }
        };
        let drain_deadline = options.drain_deadline;
        let signals = runtime.block_on(async {
            Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
        })?;
        let host = Arc::new(Host::start(options)?);
        Ok(Serving { host, runtime, control, http, drain_deadline, signals })
    }

    /// Whoever says what is loaded.
    pub fn greeter(&self) -> Greeter {
        Greeter { host: self.host.clone(), http: self.http.as_ref().map(|(_, address)| *address) }
    }

    /// Serves until SIGINT or SIGTERM, then runs `on_stop` and drains. A second signal hurries.
    pub fn until_stopped(self, on_stop: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let Serving { host, runtime, control, http, drain_deadline, signals } = self;
        let clean = runtime.block_on(async {
            let (mut interrupt, mut terminate) = signals;
            let calls = Calls::of(host.clone());
            let clients = Arc::new(Semaphore::new(CLIENTS as usize));
            let control = tokio::spawn(control.serve(calls.clone(), clients.clone()));
            let (stop, stopped) = oneshot::channel();
            let http = http.map(|(listener, _)| {
                let router = http::router(calls);
                let ended = async move { drop(stopped.await) };
                tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(ended).into_future())
            });
            next(&mut interrupt, &mut terminate).await;
            tracing::info!("stopping: calls in flight finish first; once more to hurry");
            let stopping = async {
                // At once, so that a build does not go on while calls finish.
                let own_work = tokio::task::spawn_blocking(on_stop);
                // HTTP calls in flight end with their answers.
                let _ = stop.send(());
                if let Some(http) = http {
                    let _ = tokio::time::timeout(drain_deadline, http).await;
                }
                control.abort();
                let _ = control.await;
                let _ = own_work.await;
                let clean = tokio::task::spawn_blocking(move || host.shutdown(drain_deadline)).await;
                // The calls are over, but their answers may still be on their way.
                let _ = tokio::time::timeout(LAST_ANSWERS, clients.acquire_many(CLIENTS)).await;
                clean.unwrap_or(false)
            };
            tokio::select! {
                clean = stopping => Ok::<_, Failure>(clean),
                () = next(&mut interrupt, &mut terminate) => Err(Failure::Hurried),
            }
        });
        // Whatever still runs must not keep the program.
        runtime.shutdown_background();
        if !clean? {
            eprintln!("something was still in use after {drain_deadline:?} and was left as it is");
            return Err(Failure::Unclean);
        }
        Ok(())
    }
}

/// Says what is loaded, where, and how to call it.
pub struct Greeter {
    host: Arc<Host>,
    http: Option<SocketAddr>,
}

impl Greeter {
    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn greet(&self) {
        // Serving goes on even if nobody reads this.
        let _ = std::io::stdout().write_all(output::greeting(&self.host.status(), self.http).as_bytes());
    }
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
