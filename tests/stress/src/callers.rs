//! Threads that call in every way there is.

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::gate::{self, Guard, Lease, Slot};
use crate::value::Value;
use crate::{STOP, hit};

/// All of them.
pub struct Callers {
    threads: Vec<JoinHandle<u64>>,
}

impl Callers {
    /// Waits for them; how many calls they have made.
    pub fn join(self) -> u64 {
        let calls: u64 =
            self.threads.into_iter().map(|thread| thread.join().expect("no caller panics")).sum();
        calls + SIGNAL_CALLS.load(Ordering::Relaxed)
    }
}

/// How deep calls are nested at most.
const DEPTH: u64 = 12;

/// More threads than cores, so that some are preempted inside of calls.
const CALLERS: usize = 3;

pub fn start<V: Value>(slot: &'static Slot<V>) -> Callers {
    let (sender, receiver) = sync_channel(64);
    signals::install(slot);
    let mut threads: Vec<_> = (0..CALLERS)
        .map(|number| {
            let leases = sender.clone();
            std::thread::spawn(move || call_at_random(slot, number, &leases))
        })
        .collect();
    threads.push(std::thread::spawn(move || hold_leases(&receiver)));
    threads.push(std::thread::spawn(move || come_and_go(slot)));
    threads.push(std::thread::spawn(sample));
    threads.push(std::thread::spawn(signals::send));
    Callers { threads }
}

fn call<V: Value>(guard: &V) {
    if !guard.call() {
        hit();
    }
}

fn call_at_random<V: Value>(slot: &'static Slot<V>, number: usize, leases: &SyncSender<Lease<V>>) -> u64 {
    let mut random = Random::new(number as u64 + 2);
    // Where a signal handler enters, the thread must have been as deep in calls before: depth allocates.
    drop((0..DEPTH + 2).map(|_| slot.enter().expect("open within the limit")).collect::<Vec<_>>());
    signals::aim(number, gettid());
    let mut calls = 0;
    while !STOP.load(Ordering::Relaxed) {
        calls += 1;
        match random.below(64) {
            0 => nested(slot, &mut random),
            1 => {
                let lease = slot.lease().expect("open within the limit");
                let _ = leases.try_send(lease);
            }
            2 => slot.lease().expect("open within the limit").call(|value| {
                call(value);
                // Nested in the lease's call: counted, and must go where the lease is.
                let inner = slot.enter().expect("nested calls pass");
                call(&*inner);
            }),
            3 => drop(slot.try_enter().map(|guard| call(&*guard))),
            _ => call(&*slot.enter().expect("open within the limit")),
        }
    }
    signals::aim(number, 0);
    calls
}

/// Calls in calls, left in any order.
fn nested<V: Value>(slot: &'static Slot<V>, random: &mut Random) {
    let mut guards: Vec<Guard<'_, V>> = Vec::new();
    for _ in 0..random.below(DEPTH) {
        if random.below(3) == 0 && !guards.is_empty() {
            guards.swap_remove(random.below(guards.len() as u64) as usize);
        } else {
            guards.push(slot.enter().expect("open, or nested"));
        }
        guards.iter().for_each(|guard| call(&**guard));
        if let [first, .., last] = &guards[..] {
            // A call tree is in one generation.
            if !std::ptr::eq(&raw const **first, &raw const **last) {
                hit();
            }
        }
    }
}

/// Leases that outlive the guards and threads that they come from. Whoever holds some must not stand at a gate
/// that waits for them, so this thread enters nothing.
fn hold_leases<V: Value>(leases: &Receiver<Lease<V>>) -> u64 {
    let (mut held, mut random, mut calls) = (Vec::new(), Random::new(77), 0);
    while !STOP.load(Ordering::Relaxed) {
        if let Ok(lease) = leases.recv_timeout(Duration::from_millis(1)) {
            call(&*lease);
            held.push(lease.clone());
            held.push(lease);
        }
        calls += held.len() as u64;
        held.iter().for_each(|lease| call(&**lease));
        if held.len() > 8 || random.below(4) == 0 {
            held.clear();
        }
    }
    calls
}

/// Threads that live for a few calls, the last of them from a destructor of a thread-local.
fn come_and_go<V: Value>(slot: &'static Slot<V>) -> u64 {
    struct CallsAtTheEnd(Box<dyn Fn()>);
    impl Drop for CallsAtTheEnd {
        fn drop(&mut self) {
            self.0();
        }
    }
    std::thread_local! { static LAST: RefCell<Option<CallsAtTheEnd>> = const { RefCell::new(None) }; }
    let mut calls = 0;
    while !STOP.load(Ordering::Relaxed) {
        calls += 2;
        let before_the_gate = calls % 4 == 0;
        let short = std::thread::spawn(move || {
            let last = move || call(&*slot.enter().expect("open within the limit"));
            // Registered before the gate's own thread-local or after it: destroyed after it or before.
            if before_the_gate {
                LAST.set(Some(CallsAtTheEnd(Box::new(last))));
                last();
            } else {
                last();
                LAST.set(Some(CallsAtTheEnd(Box::new(last))));
            }
        });
        short.join().expect("no caller panics");
    }
    calls
}

/// Much more often than a host does.
fn sample() -> u64 {
    while !STOP.load(Ordering::Relaxed) {
        gate::sample_ages(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(100));
    }
    0
}

fn gettid() -> i32 {
    // SAFETY: it takes nothing.
    unsafe { libc::gettid() }
}

static SIGNAL_CALLS: AtomicU64 = AtomicU64::new(0);

/// Calls from signal handlers, some thousand in a second.
mod signals {
    use super::*;

    /// Who gets signals. Whoever sends one holds the lock, so that nobody gets one after taking itself out.
    static TARGETS: Mutex<[i32; CALLERS]> = Mutex::new([0; CALLERS]);

    pub fn aim(number: usize, thread: i32) {
        TARGETS.lock().expect("nobody panics with it")[number] = thread;
    }

    static SLOT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

    pub fn install<V: Value>(slot: &'static Slot<V>) {
        SLOT.store(std::ptr::from_ref(slot).cast_mut().cast(), Ordering::Relaxed);
        let handler: extern "C" fn(i32) = handle::<V>;
        // SAFETY: the handler calls nothing but what the gate allows there.
        unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
    }

    extern "C" fn handle<V: Value>(_: i32) {
        // SAFETY: `install` has put a slot of this type there, which lives for ever.
        let slot: &'static Slot<V> = unsafe { &*SLOT.load(Ordering::Relaxed).cast() };
        gate::hold_errands(|| {
            if let Ok(guard) = slot.try_enter() {
                call(&*guard);
                SIGNAL_CALLS.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    pub fn send() -> u64 {
        while !STOP.load(Ordering::Relaxed) {
            for &thread in
                TARGETS.lock().expect("nobody panics with it").iter().filter(|&&thread| thread != 0)
            {
                // SAFETY: a signal that we handle, to a thread of ours, which waits for the lock before it ends.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        0
    }
}

/// xorshift64 (Marsaglia 2003): quick, and the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if limit == 0 { 0 } else { self.0 % limit }
    }
}
