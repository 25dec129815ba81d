//! What a generation is, and how its end is noticed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::gate::Retired;

/// A generation.
pub trait Value: Send + Sync + 'static {
    /// What one call does; false if the generation has ended.
    fn call(&self) -> bool;
}

/// Where generations come from and go to.
pub trait Supply {
    type Value: Value;
    fn next(&mut self) -> Self::Value;
    /// A generation that has drained, or is said to have.
    fn end(&mut self, retired: Retired<Self::Value>);
    /// What should be gone by now, and is not.
    fn left_behind(&mut self) -> usize;
}

/// Generations that are flags.
pub struct Flags {
    /// Ended, but not yet freed, so that whoever is late finds a flag and not garbage.
    ended: VecDeque<Retired<Flag>>,
}

#[derive(Default)]
pub struct Flag {
    raised: AtomicBool,
    calls: AtomicU64,
}

impl Flags {
    pub fn new() -> Self {
        Flags { ended: VecDeque::new() }
    }
}

impl Value for Flag {
    fn call(&self) -> bool {
        let before = !self.raised.load(Ordering::Relaxed);
        // What a call does must come before the end, too, so it is looked at there.
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls | 1, Ordering::Relaxed);
        before && !self.raised.load(Ordering::Relaxed)
    }
}

impl Supply for Flags {
    type Value = Flag;

    fn next(&mut self) -> Flag {
        Flag::default()
    }

    fn end(&mut self, retired: Retired<Flag>) {
        const KEPT: usize = 10_000;
        retired.value().raised.store(true, Ordering::Relaxed);
        self.ended.push_back(retired);
        if self.ended.len() > KEPT {
            let oldest = self.ended.pop_front().expect("there are some");
            assert!(oldest.into_inner().is_ok(), "it has drained");
        }
    }

    fn left_behind(&mut self) -> usize {
        self.ended.drain(..).map(Retired::into_inner).filter(Result::is_err).count()
    }
}

/// Generations that are libraries, each opened under a name of its own, as the loader asks for.
pub struct Libraries {
    dir: tempfile::TempDir,
    original: PathBuf,
    opened: u64,
}

pub struct Opened {
    /// Closed when this is dropped.
    _library: Library,
    answer: extern "C" fn(u64) -> u64,
}

impl Libraries {
    pub fn new(original: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        Libraries { dir, original: original.to_owned(), opened: 0 }
    }
}

impl Value for Opened {
    fn call(&self) -> bool {
        (self.answer)(2) == 2 * 3 * 5 * 7 * 11
    }
}

impl Supply for Libraries {
    type Value = Opened;

    fn next(&mut self) -> Opened {
        self.opened += 1;
        let path = self.dir.path().join(format!("{}.so", self.opened));
        std::fs::copy(&self.original, &path).expect("the library can be copied");
        // SAFETY: the library is ours; it has no constructors that do anything.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.expect("it opens");
        // SAFETY: that is its type; and the pointer is kept beside the library.
        let answer = unsafe { *library.get::<extern "C" fn(u64) -> u64>(b"answer\0").expect("it has it") };
        std::fs::remove_file(&path).expect("it is there");
        Opened { _library: library, answer }
    }

    fn end(&mut self, retired: Retired<Opened>) {
        // Its destructor closes the library. Who is still inside dies of it, here or there.
        assert!(retired.into_inner().is_ok(), "it has drained");
    }

    fn left_behind(&mut self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
        let dir = self.dir.path().to_str().expect("temporary paths are text");
        let mut mapped: Vec<_> =
            maps.lines().filter_map(|line| line.find(dir).map(|at| &line[at..])).collect();
        mapped.dedup();
        mapped.len() - 1 // all but the one that is current
    }
}
