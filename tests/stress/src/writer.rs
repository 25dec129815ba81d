//! The one thread that publishes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::callers::Random;
use crate::gate::{Retired, Slot};
use crate::value::Supply;
use crate::{STOP, hit};

/// Replaces generation after generation; returns how many.
pub fn publish<S: Supply>(slot: &'static Slot<S::Value>, supply: &mut S, time: Duration) -> u64 {
    let (start, mut random) = (Instant::now(), Random::new(1));
    let mut publishes = 0;
    // Many drain at once, so that one that waits for a thread without a core holds up no other.
    let mut draining: Vec<Retired<S::Value>> = Vec::new();
    while start.elapsed() < time && !STOP.load(Ordering::Relaxed) {
        publishes += 1;
        match random.below(1000) {
            0..5 => {
                let mut paused = slot.pause().expect("nobody else pauses it");
                drain(|limit| paused.drain(limit).is_ok());
                let old = paused.resume_with(supply.next());
                supply.end(old);
            }
            5..15 => {
                // A handover that fails: the old generation goes on.
                let mut paused = slot.pause().expect("nobody else pauses it");
                let _ = paused.drain(Duration::from_micros(random.below(30)));
            }
            15..25 => {
                let mut old = swap(slot, supply);
                drain(|limit| old.drain(limit).is_ok());
                supply.end(old);
            }
            _ => draining.push(swap(slot, supply)),
        }
        for mut old in std::mem::take(&mut draining) {
            if old.poll() {
                supply.end(old);
            } else {
                draining.push(old);
            }
        }
        if draining.len() >= 16 {
            let mut oldest = draining.swap_remove(0);
            drain(|limit| oldest.drain(limit).is_ok());
            supply.end(oldest);
        }
    }
    for mut old in draining {
        drain(|limit| old.drain(limit).is_ok());
        supply.end(old);
    }
    publishes
}

fn swap<S: Supply>(slot: &Slot<S::Value>, supply: &mut S) -> Retired<S::Value> {
    let Ok(Some(old)) = slot.swap(supply.next()) else { panic!("nobody else pauses or empties it") };
    old
}

/// A drain that does not end in time is a mistake as well: a wake-up was lost, or a frame was left.
fn drain(mut drain: impl FnMut(Duration) -> bool) {
    const PATIENCE: Duration = Duration::from_secs(20);
    if !drain(PATIENCE) {
        eprintln!("a drain has not ended within {PATIENCE:?}");
        hit();
        std::process::exit(1);
    }
}
