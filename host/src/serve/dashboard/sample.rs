//! Looks at the host once a second, so that a page that is opened has the last minutes; while there are pages, also soon
//! after each event.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reseat::Recorded;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::history::{History, Look};
use crate::serve::calls::Calls;
use crate::serve::feed::{Feed, now_ms};

const SECOND: Duration = Duration::from_secs(1);
/// How long after an event the next look is: what happens at once is seen at once.
const SOON: Duration = Duration::from_millis(50);
/// With more plugins than that, pages are told of a second's rates less often.
const PLUGINS_A_SECOND: usize = 16;
/// How long after pages were told they are told of the next event, for every so many plugins: a page draws all of them.
const PACE: Duration = Duration::from_millis(250);

/// What has been seen. A clone sees the same.
#[derive(Clone)]
pub struct Sampler {
    history: Arc<Mutex<History>>,
    /// Changes when there is something to be shown; closed when the host has ended.
    pub looks: watch::Receiver<u64>,
}

impl Sampler {
    /// Begins to look. Call it within a tokio runtime.
    pub fn start(calls: Calls, feed: &Feed) -> Sampler {
        let history = Arc::new(Mutex::new(History::begin(now_ms())));
        let (told, looks) = watch::channel(0);
        if let Some(news) = feed.subscribe() {
            let past = calls.host().recent_events();
            let last = past.last().map_or(0, |recorded| recorded.sequence);
            let lookout = Lookout { calls, history: history.clone(), heard: past, last, told };
            tokio::spawn(lookout.keep(news));
        }
        Sampler { history, looks }
    }

    /// What is known now, as JSON with drawings of this width. Takes some milliseconds.
    pub fn message(&self, width: u32) -> Arc<str> {
        lock(&self.history).message(width)
    }
}

/// Who looks.
struct Lookout {
    calls: Calls,
    history: Arc<Mutex<History>>,
    /// Events since the last look.
    heard: Vec<Recorded>,
    last: u64,
    told: watch::Sender<u64>,
}

impl Lookout {
    async fn keep(mut self, mut news: Receiver<Recorded>) {
        let mut seconds = interval(SECOND);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut soon, mut told) = (None, Instant::now());
        let mut plugins = 0;
        for second in 0_usize.. {
            loop {
                tokio::select! {
                    _ = seconds.tick() => break,
                    () = sleep_until(soon.unwrap_or_else(Instant::now)), if soon.is_some() => {
                        soon = None;
                        plugins = self.look(false).await;
                        told = self.tell();
                    }
                    recorded = news.recv() => match recorded {
                        Ok(recorded) => {
                            self.hear(recorded);
                            // One receiver is our own.
                            if self.told.receiver_count() > 1 {
                                soon.get_or_insert_with(|| (Instant::now() + SOON).max(told + pause(plugins)));
                            }
                        }
                        Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    },
                }
            }
            plugins = self.look(true).await;
            if second.is_multiple_of(lots(plugins)) {
                told = self.tell();
            }
        }
    }

    fn hear(&mut self, recorded: Recorded) {
        if recorded.sequence > self.last {
            self.last = recorded.sequence;
            self.heard.push(recorded);
        }
    }

    /// How many plugins there are.
    async fn look(&mut self, is_second: bool) -> usize {
        let (history, heard) = (self.history.clone(), std::mem::take(&mut self.heard));
        let looked = self.calls.ask(move |host| {
            let look = Look { at_ms: now_ms(), status: host.status(), figures: host.figures() };
            let mut history = lock(&history);
            heard.iter().for_each(|recorded| history.hear(recorded));
            history.see(look, is_second);
            history.plugins()
        });
        // It fails only when the whole program ends.
        looked.await.unwrap_or_default()
    }

    /// When that was.
    fn tell(&self) -> Instant {
        self.told.send_modify(|looks| *looks += 1);
        Instant::now()
    }
}

fn lots(plugins: usize) -> usize {
    plugins.div_ceil(PLUGINS_A_SECOND).max(1)
}

/// How long pages are left alone, whatever happens.
fn pause(plugins: usize) -> Duration {
    PACE * u32::try_from(lots(plugins)).unwrap_or(u32::MAX)
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_plugins_a_page_draws_the_longer_it_is_left_alone() {
        assert_eq!([0, 1, 16, 17, 50].map(pause), [1, 1, 1, 2, 4].map(|lots| PACE * lots));
    }
}
