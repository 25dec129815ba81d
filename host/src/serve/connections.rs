//! The connections of HTTP clients: how many there may be, and how long they may say nothing.
//!
//! Invariants:
//! 1. There are never more than [`CONNECTIONS`]. When all places are taken, the connection that has shown no token for
//!    longest gives up its own; a new one is closed only if all others have shown it. So strangers keep nobody away who
//!    has the token.
//! 2. Every wait for a client is limited: for a head by [`HEAD_PATIENCE`], which is also how long a connection may idle;
//!    for a body by whoever reads it; for an answer to be taken by [`UNREAD`]. A call itself may take as long as it does.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How many clients may be connected at a time.
const CONNECTIONS: usize = 512;
/// How long the head of a request may take, from the moment at which it may be sent.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long and how large a head may be, in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// How long an answer may lie unread.
const UNREAD: Duration = Duration::from_secs(30);

/// Answers clients until `stop`, and then those that have been heard.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_LIMIT);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Strangers::default();
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted.and_then(|(stream, _)| prepared(stream)) {
            Ok(stream) => stream,
            Err(error) => {
                // It has gone already, or this process is out of descriptors: others will be closed.
                tracing::debug!("an HTTP client: {error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let Some(place) = place(&places, &strangers).await else { continue };
        let (newcomer, sent_away) = strangers.welcome();
        let leaving = Leaving(newcomer.clone());
        let service = TowerToHyperService::new(router.clone().layer(Extension(newcomer)));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _held = (leaving, place);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!("an HTTP client: {error}");
                },
                () = sent_away => {}
            }
        });
    }
    drop(listener);
    strangers.send_all_away();
    graceful.shutdown().await;
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    // The kernel gives up by itself on a client that does not read.
    set_tcp_user_timeout(&stream, u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX))?;
    Ok(stream)
}

/// A place, if need be that of a stranger.
async fn place(places: &Arc<Semaphore>, strangers: &Strangers) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Some(place);
    }
    strangers.send_oldest_away().then_some(())?;
    places.clone().acquire_owned().await.ok()
}

/// The connections that have not shown the token yet, in the order in which they came.
#[derive(Clone, Default)]
struct Strangers(Arc<Mutex<Register>>);

#[derive(Default)]
struct Register {
    last: u64,
    /// Dropped, the connection is closed.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Strangers {
    /// A new connection, and what ends when it is to be closed.
    fn welcome(&self) -> (Newcomer, impl Future<Output = ()> + use<>) {
        let (keep, kept) = oneshot::channel();
        let mut register = self.lock();
        register.last += 1;
        let number = register.last;
        register.waiting.insert(number, keep);
        let sent_away = async {
            if kept.await.is_ok() {
                pending().await
            }
        };
        (Newcomer { number, strangers: self.clone() }, sent_away)
    }

    fn send_oldest_away(&self) -> bool {
        self.lock().waiting.pop_first().is_some()
    }

    fn send_all_away(&self) {
        self.lock().waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, to whoever looks at its requests.
#[derive(Clone)]
pub struct Newcomer {
    number: u64,
    strangers: Strangers,
}

impl Newcomer {
    /// It has shown the token: it is not closed for others.
    pub fn is_known(&self) {
        if let Some(keep) = self.strangers.lock().waiting.remove(&self.number) {
            // It may be ending just now.
            let _ = keep.send(());
        }
    }
}

/// Takes a connection that ends off the register.
struct Leaving(Newcomer);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.strangers.lock().waiting.remove(&self.0.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_stranger_gives_up_its_place_and_who_is_known_does_not() {
        let strangers = Strangers::default();
        let (first, first_sent) = strangers.welcome();
        let (_second, second_sent) = strangers.welcome();
        first.is_known();
        assert!(strangers.send_oldest_away());
        tokio::select! {
            biased;
            () = first_sent => panic!("it is known"),
            () = second_sent => {}
        }
        assert!(!strangers.send_oldest_away());
    }
}
