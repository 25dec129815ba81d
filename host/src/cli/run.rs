//! `reseat run`: a host until somebody says stop.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use reseat::{Event, Host, TrustedDir};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::Failure;
use super::args::{RunArgs, ServeArgs};
use super::live::{Following, Origin, tell_of_nobodys_tables};
use super::progress::Busy;
use super::signals::{Signals, Wish, reread};
use super::time::now_ms;
use super::{notify, output};
use crate::serve::access::{Entrance, Sign};
use crate::serve::calls::Calls;
use crate::serve::control::{CLIENTS, Control};
use crate::serve::dashboard::Dashboard;
use crate::serve::feed::Feed;
use crate::serve::metrics::Metrics;
use crate::serve::token::TokenFile;
use crate::serve::{connections, http};

/// Serves directories.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    output::log(args.serve.log, args.serve.quiet);
    if let Some(file) = args.dirs.iter().find(|dir| dir.exists() && !dir.is_dir()) {
        return Err(anyhow::anyhow!("{} is no directory: name the one that it is in", file.display()).into());
    }
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
    http: Option<Entrance>,
    drain_deadline: Duration,
    /// From before anything is loaded, so that a signal during that is not lost.
    signals: Signals,
    /// Directories that are not followed: read when somebody says so.
    unfollowed: Arc<[TrustedDir]>,
    origin: Arc<Origin>,
    /// What sees the settings change.
    _followed: Option<Following>,
}

impl Serving {
    /// Starts a host. Whoever wants to reach it is answered from [`Serving::until_stopped`] on.
    pub fn start(args: &ServeArgs, watch: Vec<TrustedDir>) -> Result<Serving> {
        let origin = Origin::new(args, watch);
        let options = origin.options()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("reseat-serve")
            .enable_all()
            .build()
            .context("the threads that serve cannot be started")?;
        // Before the host, so that of two hosts in one directory the second never starts.
        let control = runtime.block_on(async { Control::bind(&options.state_dir) })?;
        let http = match args.no_http {
            true => {
                TokenFile::clear(&options.state_dir)?;
                None
            }
            false => {
                let opened = Entrance::open(args.http, args.http_remote, &options.state_dir);
                Some(runtime.block_on(opened)?)
            }
        };
        let drain_deadline = options.drain_deadline;
        let signals = runtime.block_on(async { Signals::catch() })?;
        let unfollowed = if options.follow { Arc::default() } else { options.watch.clone().into() };
        let host = Arc::new(Host::start(options)?);
        tell_of_nobodys_tables(&host);
        let origin = Arc::new(origin);
        let settings = origin.clone().follow(&host);
        let settings =
            settings.inspect_err(|error| tracing::warn!("the settings are not followed: {error:#}"));
        let followed = settings.ok();
        Ok(Serving {
            host,
            runtime,
            control,
            http,
            drain_deadline,
            signals,
            unfollowed,
            origin,
            _followed: followed,
        })
    }

    /// Whoever says what is loaded.
    pub fn greeter(&self) -> Greeter {
        Greeter { host: self.host.clone(), http: self.http.as_ref().map(Entrance::sign) }
    }

    /// Serves until SIGINT or SIGTERM, then runs `on_stop` and drains. A second signal hurries. Meanwhile, SIGHUP reads
    /// the directories again.
    pub fn until_stopped(self, on_stop: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let Serving {
            host,
            runtime,
            control,
            http,
            drain_deadline,
            mut signals,
            unfollowed,
            origin,
            _followed,
        } = self;
        let counted = Metrics::of(&host).context("events cannot be counted: no thread for it")?;
        let feed = Feed::start(host.events()).context("nobody can be told of events: no thread for it")?;
        let clean = runtime.block_on(async {
            let calls = Calls::of(host.clone());
            let clients = Arc::new(Semaphore::new(CLIENTS as usize));
            let control = tokio::spawn(control.serve(calls.clone(), feed.clone(), clients.clone()));
            // Dropped when nobody new is to be answered.
            let (going_on, mut ending) = watch::channel(());
            let http = http.map(|Entrance { listener, access, file, .. }| {
                let dashboard = Dashboard::open(calls.clone(), feed, ending.clone());
                let router = http::router(calls, counted, dashboard, access);
                let ended = async move { drop(ending.changed().await) };
                (tokio::spawn(connections::serve(listener, router, ended)), file)
            });
            notify::ready();
            let mut rereading = JoinSet::new();
            while let Wish::Reread = signals.next().await {
                rereading.spawn(tell_and_reread(host.clone(), origin.clone(), unfollowed.clone()));
            }
            rereading.abort_all();
            notify::stopping(drain_deadline * 2 + LAST_ANSWERS);
            tracing::info!("stopping: calls in flight finish first; once more to hurry");
            let stopping = async {
                // At once, so that a build does not go on while calls finish.
                let own_work = spawn_blocking(on_stop);
                // HTTP calls in flight end with their answers.
                drop(going_on);
                if let Some((http, token)) = http {
                    let _ = tokio::time::timeout(drain_deadline, http).await;
                    // While the directory is still claimed: another host's would be removed otherwise.
                    drop(token);
                }
                control.abort();
                let _ = control.await;
                let _ = own_work.await;
                let clean = spawn_blocking(move || host.shutdown(drain_deadline)).await;
                // The calls are over, but their answers may still be on their way.
                let _ = tokio::time::timeout(LAST_ANSWERS, clients.acquire_many(CLIENTS)).await;
                clean.unwrap_or(false)
            };
            tokio::select! {
                clean = stopping => Ok::<_, Failure>(clean),
                () = signals.stop() => Err(Failure::Hurried),
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

/// What a transaction is doing, and who keeps it from going on.
pub fn held(busy: &str, holders: Option<&str>) -> String {
    match holders.filter(|_| busy.starts_with("drain")) {
        Some(holders) => format!("{busy}: {holders}"),
        None => busy.to_owned(),
    }
}

/// Says what is loaded, where, and how to call it.
pub struct Greeter {
    host: Arc<Host>,
    http: Option<Sign>,
}

impl Greeter {
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Shows what the host is at, while it is at it.
    pub fn show(&self, what: String) -> Busy {
        let (host, begun) = (self.host.clone(), now_ms());
        Busy::with(what, move || {
            let plugins = host.status().plugins.into_iter();
            let (plugin, busy) = plugins.filter_map(|plugin| Some((plugin.name, plugin.busy?))).next()?;
            let events = host.recent_events().into_iter().rev();
            let holders = events.take_while(|recorded| recorded.at_ms >= begun).find_map(|recorded| {
                match recorded.event {
                    Event::Draining { plugin: of, holders, .. } if of == plugin => Some(holders),
                    _ => None,
                }
            });
            Some(held(&busy, holders.as_deref()))
        })
    }

    pub fn greet(&self) {
        // Serving goes on even if nobody reads this.
        let _ =
            std::io::stdout().write_all(output::greeting(&self.host.status(), self.http.as_ref()).as_bytes());
    }
}

async fn tell_and_reread(host: Arc<Host>, origin: Arc<Origin>, unfollowed: Arc<[TrustedDir]>) {
    notify::reloading();
    let reread = move || {
        origin.reread(&host);
        reread(&host, &unfollowed);
    };
    let _ = spawn_blocking(reread).await;
    notify::ready();
}
