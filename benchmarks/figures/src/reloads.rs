//! How soon new code answers, and what callers notice of it.

use std::ffi::{CString, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use callee_interface::Callee;
use harness::rounds::{median, quantile};
use harness::table;
use reseat::{Handle, Host, Options, Probe, TrustedDir};

const RELOADS: usize = 200;
/// What a plugin's file takes.
const BYTES: usize = 1_500_000;

/// Prints all of it.
pub fn print() {
    let bare = Watched::start(None);
    let tried = Watched::start(Some(probe()));
    let (mut opened, mut renamed, mut probed) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..RELOADS {
        let build = build(number);
        opened.push(bare.open(&build));
        renamed.push(bare.rename(&build));
        probed.push(tried.rename(&build));
    }
    let base = median(opened);
    table::note("dlopen, dlsym and a call of a file of 1.5 MB, p50", &table::shown(base));
    for (what, times, limit) in [
        ("from its rename to the first call of the new code", renamed, 3e6),
        ("the same, tried in a helper process before", probed, 15e6),
    ] {
        table::time(&format!("{what}, p50"), median(times.clone()), limit);
        table::time(&format!("— the slowest of {RELOADS}"), quantile(times.clone(), 1.0), 50e6);
        table::note("— against dlopen alone, p50", &format!("{:.1}×", median(times) / base));
    }
    noticed(&bare);
}

/// This program is its own helper.
fn probe() -> Probe {
    Probe::with(std::env::current_exe().expect("Linux knows"), ["probe"])
}

/// A build of 1.5 MB like no other.
fn build(number: usize) -> Vec<u8> {
    let library = std::env::current_exe().expect("Linux knows").with_file_name("libcallee.so");
    let mut bytes = fs::read(library).expect("cargo build -p callee was run");
    bytes.resize(bytes.len().max(BYTES), 0);
    bytes.extend(number.to_le_bytes());
    bytes
}

/// A host that watches a directory.
struct Watched {
    dir: tempfile::TempDir,
    _host: Host,
    handle: Handle<dyn Callee>,
}

impl Watched {
    fn start(probe: Option<Probe>) -> Watched {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let plugins = dir.path().join("plugins");
        fs::create_dir(&plugins).expect("it is ours");
        fs::write(plugins.join("libcallee.so"), build(RELOADS)).expect("it is ours");
        // SAFETY: only this program writes there.
        let trusted = unsafe { TrustedDir::new(&plugins) };
        let state_dir = dir.path().join("state");
        let options =
            Options { watch: vec![trusted], state_dir, probe, probation: None, ..Options::default() };
        let host = Host::start(options).expect("the host starts");
        let handle = host.plugin("callee").expect("it is loaded");
        Watched { dir, _host: host, handle }
    }

    fn shelve(&self, build: &[u8]) -> PathBuf {
        let path = self.dir.path().join("next.so");
        fs::write(&path, build).expect("it is ours");
        path
    }

    /// What nothing can be quicker than, in ns.
    fn open(&self, build: &[u8]) -> f64 {
        let path = self.shelve(build);
        let name = CString::new(path.as_os_str().as_bytes()).expect("no zero in it");
        let start = Instant::now();
        // SAFETY: the callee, whose function of this name has this type; it is closed when nothing of it runs.
        unsafe {
            let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            assert!(!library.is_null(), "it can be opened");
            let step = libc::dlsym(library, c"callee_step".as_ptr());
            let step = std::mem::transmute::<*mut c_void, extern "C" fn(u64, u64) -> u64>(step);
            std::hint::black_box(step(1, 1));
            let taken = start.elapsed().as_nanos() as f64;
            libc::dlclose(library);
            taken
        }
    }

    /// From a rename until the new code answers, in ns.
    fn rename(&self, build: &[u8]) -> f64 {
        let shelved = self.shelve(build);
        let before = self.handle.enter().expect("it is loaded").generation();
        let start = Instant::now();
        fs::rename(shelved, self.plugin()).expect("one file system");
        loop {
            let guard = self.handle.enter().expect("it is loaded");
            if guard.generation() != before {
                std::hint::black_box(guard.step(1, 1)).expect("it does not fail");
                return start.elapsed().as_nanos() as f64;
            }
            drop(guard);
            // As a caller would who has other things to do.
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn plugin(&self) -> PathBuf {
        Path::new(self.dir.path()).join("plugins/libcallee.so")
    }
}

/// How soon new code answers when cargo has ended, which puts its library in place some time before.
pub fn print_builds() {
    const BUILDS: usize = 40;
    let directory =
        std::env::current_exe().expect("Linux knows").parent().expect("in a directory").to_owned();
    let state = tempfile::tempdir().expect("a temporary directory can be made");
    // SAFETY: what cargo puts there is built from this workspace.
    let trusted = unsafe { TrustedDir::new(directory) };
    let state_dir = state.path().join("state");
    let probe = Some(probe());
    let options = Options { watch: vec![trusted], state_dir, probe, probation: None, ..Options::default() };
    let host = Host::start(options).expect("the host starts");
    let handle: Handle<dyn Callee> = host.plugin("callee").expect("it is loaded");
    let times = (0..BUILDS).map(|number| {
        let before = handle.enter().expect("it is loaded").generation();
        // Another constant in its source.
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--quiet", "-p", "callee"]).current_dir(WORKSPACE);
        let stamp = format!("{number} {}", std::process::id());
        let status = cargo.env("CALLEE_BUILD", stamp).status().expect("cargo can be started");
        assert!(status.success(), "it builds");
        let start = Instant::now();
        while handle.enter().expect("it is loaded").generation() == before {
            std::thread::sleep(Duration::from_micros(50));
        }
        start.elapsed().as_nanos() as f64
    });
    let times: Vec<f64> = times.collect();
    table::note(
        "from the end of `cargo build` to the first call of the new code, p50",
        &table::shown(median(times.clone())),
    );
    table::time(&format!("— the slowest of {BUILDS}"), quantile(times, 1.0), 50e6);
}

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What a thread that calls without pause notices of reloads.
fn noticed(watched: &Watched) {
    const ROUNDS: usize = 10;
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let quiet = slowest(watched, || std::thread::sleep(Duration::from_millis(400)));
        let busy = slowest(watched, || {
            let start = Instant::now();
            let mut number = 0;
            while start.elapsed() < Duration::from_millis(400) {
                number += 1;
                watched.rename(&build(RELOADS + 1 + 1000 * round + number));
            }
        });
        ratios.push(busy / quiet);
    }
    let ratio = median(ratios);
    let what = "99.9 of 100 calls beside reloads one after the other, against the same without";
    table::ratio(what, harness::rounds::Ratio { all: ratio, calm: ratio }, 2.0);
}

/// 99.9 of 100 calls took no longer, in ns, while `meanwhile` ran.
fn slowest(watched: &Watched, meanwhile: impl FnOnce()) -> f64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut times = Vec::with_capacity(10_000_000);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let answer = watched.handle.enter().and_then(|guard| guard.step(1, 1));
                std::hint::black_box(answer).expect("it is loaded");
                times.push(start.elapsed().as_nanos() as f64);
            }
            times
        });
        meanwhile();
        stop.store(true, Ordering::Relaxed);
        quantile(caller.join().expect("it does not panic"), 0.999)
    })
}
