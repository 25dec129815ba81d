//! The host's blocking calls, for clients that must not block.

use std::sync::Arc;

use reseat::{CallError, DispatchError, GenerationError, Host};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{JoinError, spawn_blocking};

/// How many calls run at a time; further ones wait for their turn. Well below the number of threads that may block,
/// so that plugins that hang never keep anybody from asking for the status or for a reload.
const CALLS: usize = 256;
/// How much of arguments is read at a time, in KiB: 256 MiB.
const READING: usize = 256 << 10;

/// A host with a limit on the calls that run in it.
#[derive(Clone)]
pub struct Calls {
    host: Arc<Host>,
    turns: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

impl Calls {
    pub fn of(host: Arc<Host>) -> Calls {
        let (turns, reading) = (Semaphore::new(CALLS), Semaphore::new(READING));
        Calls { host, turns: Arc::new(turns), reading: Arc::new(reading) }
    }

    /// Waits until so many bytes of arguments may be read, and holds them until the room is dropped.
    pub async fn room(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes.div_ceil(1024).min(READING)).ok()?;
        self.reading.acquire_many(kib).await.ok()
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Calls a method, as a scope of its own. A client that goes away while it waits for its turn never calls.
    pub async fn call(
        &self,
        plugin: String,
        method: String,
        arguments: String,
    ) -> Result<Result<String, CallError>, JoinError> {
        self.in_turn(move |host| host.call_as_scope(&plugin, &method, &arguments)).await
    }

    /// The same, in this generation.
    pub async fn call_at(
        &self,
        plugin: String,
        generation: u64,
        method: String,
        arguments: String,
    ) -> Result<Result<String, GenerationError>, JoinError> {
        self.in_turn(move |host| host.call_at(&plugin, generation, &method, &arguments)).await
    }

    /// Calls what is registered, likewise.
    pub async fn dispatch(
        &self,
        kind: String,
        key: String,
        arguments: String,
    ) -> Result<Result<String, DispatchError>, JoinError> {
        self.in_turn(move |host| host.dispatch(&kind, &key, &arguments)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = self.turns.clone().acquire_owned().await;
        let host = self.host.clone();
        spawn_blocking(move || {
            // Until the plugin has answered, not until the client has gone.
            let _turn = turn;
            call(&host)
        })
        .await
    }

    /// Asks the host for anything but a call.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let host = self.host.clone();
        spawn_blocking(move || question(&host)).await
    }
}
