//! Ratios that mean something on a machine that others use, too.
//!
//! All contestants run once in every round, one right after the other, each time in another order. A ratio is
//! taken within a round, so that what slows the whole round down cancels out; the median over the rounds is
//! what is reported. Time is the CPU time of the calling threads, so that being preempted does not count.
//!
//! What does not cancel out is a neighbour on the other half of a core: it slows a loop that waits for its own
//! results less than one that keeps the core busy. So the median of the calmest third of the rounds, those that took
//! the least time in all, is reported as well.

use std::sync::Barrier;

/// Runs so many calls and returns what they took, in ns of CPU time per call.
pub type Contestant<'a> = (String, Box<dyn Fn() -> f64 + 'a>);

/// What came out, in ns per call, by contestant and round.
pub struct Rounds {
    names: Vec<String>,
    taken: Vec<Vec<f64>>,
}

impl Rounds {
    /// Runs them all, so many times.
    pub fn run(rounds: usize, contestants: Vec<Contestant<'_>>) -> Rounds {
        let mut taken = vec![Vec::with_capacity(rounds); contestants.len()];
        for (_, run) in &contestants {
            run(); // caches, branch predictors, page faults
        }
        for round in 0..rounds {
            for i in 0..contestants.len() {
                let which = (i + round) % contestants.len();
                taken[which].push(contestants[which].1());
            }
        }
        Rounds { names: contestants.into_iter().map(|(name, _)| name).collect(), taken }
    }

    fn of(&self, name: &str) -> &[f64] {
        let which = self.names.iter().position(|known| known == name).expect("a contestant");
        &self.taken[which]
    }

    /// How long a round took, whoever was slow in it.
    fn length(&self, round: usize) -> f64 {
        self.taken.iter().map(|taken| taken[round]).sum()
    }

    /// The median, in ns.
    pub fn nanos(&self, name: &str) -> f64 {
        median(self.of(name).to_vec())
    }

    /// The median of the rounds' ratios, and that of the calmest third of them.
    pub fn ratio(&self, name: &str, base: &str) -> Ratio {
        let (base, other) = (self.of(base), self.of(name));
        let mut rounds: Vec<usize> = (0..base.len()).collect();
        rounds.sort_by(|&a, &b| self.length(a).total_cmp(&self.length(b)));
        let ratios: Vec<f64> = rounds.iter().map(|&round| other[round] / base[round]).collect();
        Ratio { calm: median(ratios[..ratios.len().div_ceil(3)].to_vec()), all: median(ratios) }
    }
}

/// How many times slower than the base.
#[derive(Clone, Copy)]
pub struct Ratio {
    pub all: f64,
    pub calm: f64,
}

/// The middle of them.
pub fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of them does not exceed.
pub fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// Lets so many threads do `calls` calls each, at once; ns of CPU time per call.
pub fn on_threads(threads: usize, calls: u64, work: impl Fn(u64) + Sync) -> f64 {
    if threads == 1 {
        return timed(calls, &work);
    }
    let start = Barrier::new(threads);
    let total: f64 = std::thread::scope(|scope| {
        let run = || {
            work(calls / 50); // its first call is another matter
            start.wait();
            timed(calls, &work)
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().map(|thread| thread.join().expect("no call fails")).sum()
    });
    total / threads as f64
}

fn timed(calls: u64, work: impl Fn(u64)) -> f64 {
    let before = cpu_nanos();
    work(calls);
    (cpu_nanos() - before) as f64 / calls as f64
}

/// The CPU time of the calling thread.
fn cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
