use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::scene::Scene;

/// Threads that call without pause until they are told to stop.
pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    calls: AtomicU64,
}

impl Callers {
    /// `one` makes what each thread does again and again; an error of it ends the thread and fails the test.
    pub fn start<F>(count: usize, one: impl Fn(usize) -> F) -> Callers
    where
        F: FnMut() -> Result<(), String> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let threads = (0..count).map(|number| {
            let (shared, mut call) = (shared.clone(), one(number));
            let run = move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    call()?;
                    shared.calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            };
            std::thread::Builder::new().name(format!("caller-{number}")).spawn(run).expect("a thread")
        });
        let threads = threads.collect();
        Callers { shared, threads }
    }

    /// How many calls have been answered.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been.
    #[track_caller]
    pub fn go_on(&self, scene: &Scene, more: u64) {
        let goal = self.calls() + more;
        let over = || self.threads.iter().any(JoinHandle::is_finished);
        scene.eventually(|_| self.calls() >= goal || over());
    }

    /// Stops them; returns how many calls have been answered.
    ///
    /// # Panics
    /// With what failed, if anything has.
    #[track_caller]
    pub fn finish(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => panic!("a caller has failed: {failure}"),
                Err(_) => panic!("a caller has panicked"),
            }
        }
        self.calls()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
