use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use reseat::{
    Event, Events, Handle, Host, Interface, Options, Phase, PluginStatus, Step, TrustedDir, TrustedFile,
};
use tempfile::TempDir;

pub use crate::library::Build;
use crate::waiting::{DEADLINE, until};

/// A directory of its own, and a host that watches `plugins/` in it.
pub struct Scene {
    pub host: Arc<Host>,
    dir: TempDir,
    trusted: TrustedDir,
    next: AtomicUsize,
}

/// A host that watches `plugins/` in a directory, and keeps its state in `state/`.
pub fn options(dir: &Path) -> Options {
    // SAFETY: only tests write there, and only builds of our fixtures.
    let trusted = unsafe { TrustedDir::new(dir.join("plugins")) };
    Options {
        watch: vec![trusted],
        state_dir: dir.join("state"),
        // Whatever a test is about, stacks must agree with what the host counts.
        second_witness: true,
        // Builds are judged where that is what a test is about.
        probation: None,
        ..Options::default()
    }
}

/// What an old generation has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Unloaded,
    /// And why.
    Lingering(String),
}

impl Scene {
    /// A host that has loaded these fixtures.
    #[track_caller]
    pub fn with(fixtures: &[&str]) -> Scene {
        Scene::with_options(fixtures, |_| {})
    }

    /// The same, with other options.
    #[track_caller]
    pub fn with_options(fixtures: &[&str], change: impl FnOnce(&mut Options)) -> Scene {
        // Mode 0700, and on one file system.
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for part in ["plugins", "shelf", "holds"] {
            std::fs::create_dir(dir.path().join(part)).expect("it can be written");
        }
        let mut options = options(dir.path());
        let trusted = options.watch[0].clone();
        change(&mut options);
        for fixture in fixtures {
            let build = Build::of(fixture);
            put(&trusted.path().join(build.file_name()), &build);
        }
        let host = Arc::new(Host::start(options).expect("the host starts"));
        let scene = Scene { host, dir, trusted, next: AtomicUsize::new(0) };
        for fixture in fixtures {
            let file = scene.plugins().join(Build::of(fixture).file_name());
            let serves = |p: &PluginStatus| p.file == file && p.generation.is_some();
            scene.eventually(|s| s.host.status().plugins.iter().any(serves));
        }
        scene
    }

    /// One more host for the same directories, after this one's was shut down.
    pub fn next_host(&self, change: impl FnOnce(&mut Options)) -> Host {
        self.try_next_host(change).expect("the host starts")
    }

    /// As above, if it starts.
    pub fn try_next_host(&self, change: impl FnOnce(&mut Options)) -> Result<Host, reseat::StartError> {
        let mut options =
            Options { watch: vec![self.trusted.clone()], state_dir: self.state(), ..Options::default() };
        change(&mut options);
        Host::start(options)
    }

    /// Puts a build where the host sees it, in place of the build before, by renaming.
    pub fn install(&self, build: impl Into<Build>) -> Expecting {
        let build = build.into();
        let expecting = self.expecting(&build.file_name());
        std::fs::rename(self.shelve(&build), &expecting.file).expect("one file system");
        expecting
    }

    /// Writes a build into another directory of the same file system.
    pub fn shelve(&self, build: &Build) -> PathBuf {
        let path = self.path("shelf").join(self.fresh());
        put(&path, build);
        path
    }

    /// Subscribes to what will become of the file of this name.
    pub fn expecting(&self, file_name: &str) -> Expecting {
        Expecting { file: self.plugins().join(file_name), events: self.host.events() }
    }

    /// A handle of a plugin that is loaded.
    #[track_caller]
    pub fn handle<I: Interface + ?Sized>(&self, plugin: &str) -> Handle<I> {
        self.host.plugin(plugin).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Waits until it is so.
    #[track_caller]
    pub fn eventually(&self, mut is_so: impl FnMut(&Scene) -> bool) {
        assert!(until(DEADLINE, || is_so(self)), "it has not become so within {DEADLINE:?}");
    }

    /// Waits until a generation has been unloaded.
    #[track_caller]
    pub fn unloaded(&self, plugin: &str, generation: u64) {
        self.eventually(|s| s.verdict_of(plugin, generation) == Some(Verdict::Unloaded));
    }

    /// Waits until a generation lingers for a reason in which all these words occur.
    #[track_caller]
    pub fn lingers(&self, plugin: &str, generation: u64, words: &[&str]) {
        self.eventually(|s| match s.verdict_of(plugin, generation) {
            Some(Verdict::Lingering(reason)) => words.iter().all(|word| reason.contains(word)),
            _ => false,
        });
    }

    /// What the host has last said of the end of a generation.
    pub fn verdict_of(&self, plugin: &str, generation: u64) -> Option<Verdict> {
        self.events().into_iter().rev().find_map(|event| match event {
            Event::Unloaded { plugin: p, generation: g, .. } if p == plugin && g == generation => {
                Some(Verdict::Unloaded)
            }
            Event::Lingering { plugin: p, generation: g, reason, .. } if p == plugin && g == generation => {
                Some(Verdict::Lingering(reason))
            }
            _ => None,
        })
    }

    /// The status of a plugin.
    #[track_caller]
    pub fn status(&self, plugin: &str) -> PluginStatus {
        let mut plugins = self.host.status().plugins.into_iter();
        plugins.find(|status| status.name == plugin).unwrap_or_else(|| panic!("no plugin {plugin}"))
    }

    /// The generation that serves.
    #[track_caller]
    pub fn generation(&self, plugin: &str) -> Option<u64> {
        self.status(plugin).generation
    }

    /// Waits until nothing but the serving generation of each plugin is in memory.
    #[track_caller]
    pub fn settled(&self) {
        let serving = |p: &PluginStatus| p.generations.iter().all(|g| g.phase == Phase::Serving);
        self.eventually(|s| s.host.status().plugins.iter().all(serving) && s.staged() == s.serving());
    }

    fn serving(&self) -> usize {
        self.host.status().plugins.iter().filter(|p| p.generation.is_some()).count()
    }

    /// How many private copies there are.
    pub fn staged(&self) -> usize {
        let run = self.state().join("run").join(std::process::id().to_string());
        let libraries = |dir: std::fs::ReadDir| {
            dir.flatten().filter(|e| e.path().extension().is_some_and(|extension| extension == "so")).count()
        };
        std::fs::read_dir(run).map_or(0, libraries)
    }

    /// What has happened lately.
    pub fn events(&self) -> Vec<Event> {
        self.host.recent_events().into_iter().map(|recorded| recorded.event).collect()
    }

    /// Whether anything was refused lately.
    pub fn refusals(&self) -> Vec<String> {
        let all = self.events().into_iter();
        all.filter(|event| matches!(event, Event::Refused { .. })).map(|event| event.to_string()).collect()
    }

    /// The directory that the host watches.
    pub fn plugins(&self) -> &Path {
        self.trusted.path()
    }

    /// A file in it, vouched for.
    pub fn trusted(&self, file_name: &str) -> TrustedFile {
        self.trusted.file(file_name).expect("a bare name")
    }

    /// The host's own directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Something else in the scene's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A place for a call to wait at.
    pub fn hold(&self) -> Hold {
        Hold(self.path("holds").join(self.fresh()))
    }

    fn fresh(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

/// What a person needs who reads why a test has failed.
impl std::fmt::Display for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what has happened:\n")?;
        for recorded in self.host.recent_events() {
            writeln!(f, "  {} {}", recorded.sequence, recorded.event)?;
        }
        f.write_str("how it stands:\n")?;
        for plugin in self.host.status().plugins {
            let PluginStatus { name, generations, busy, last_refusal, .. } = plugin;
            writeln!(f, "  {name}: {generations:?}, busy: {busy:?}, last refusal: {last_refusal:?}")?;
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self}");
        }
    }
}

/// Something is about to happen to a file.
pub struct Expecting {
    pub file: PathBuf,
    events: Events,
}

/// Why a file was refused.
#[derive(Debug)]
pub struct Refused {
    pub plugin: Option<String>,
    pub step: Step,
    pub reason: String,
    /// Which generation serves on.
    pub serving: Option<u64>,
}

impl Refused {
    /// Checks the step, and that all these words occur in the reason.
    #[track_caller]
    pub fn at(self, step: Step, words: &[&str]) -> Refused {
        assert_eq!(self.step, step, "{self:?}");
        for word in words {
            assert!(self.reason.contains(word), "{word:?} is not in {self:?}");
        }
        self
    }
}

impl Expecting {
    /// Waits until the file serves, and returns its generation.
    #[track_caller]
    pub fn published(mut self) -> u64 {
        match self.outcome() {
            Ok(generation) => generation,
            Err(refused) => panic!("{}: {refused:?}", self.file.display()),
        }
    }

    /// Waits until the file is refused.
    #[track_caller]
    pub fn refused(mut self) -> Refused {
        match self.outcome() {
            Ok(generation) => panic!("it serves, as generation {generation}"),
            Err(refused) => refused,
        }
    }

    /// Whichever comes first.
    #[track_caller]
    pub fn outcome(&mut self) -> Result<u64, Refused> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(event) = self.events.next_within(left) else {
                panic!("nothing became of {} within {DEADLINE:?}", self.file.display());
            };
            match event {
                Event::Loaded { file, generation, .. } | Event::Reloaded { file, generation, .. }
                    if file == self.file =>
                {
                    return Ok(generation);
                }
                Event::Refused { file, plugin, step, reason, serving, .. } if file == self.file => {
                    return Err(Refused { plugin, step, reason, serving });
                }
                _ => {}
            }
        }
    }
}

/// A place where a call waits, see `reseat_tests::held`. Dropping it lets the call go.
pub struct Hold(PathBuf);

impl Hold {
    /// A place that has to be known before there is a scene.
    pub fn at(path: PathBuf) -> Hold {
        Hold(path)
    }

    /// What the call is told.
    pub fn until(&self) -> String {
        self.0.to_str().expect("temporary paths are text").to_owned()
    }

    /// Waits until somebody waits there.
    #[track_caller]
    pub fn entered(&self) {
        let sign = format!("{}.in", self.until());
        assert!(until(DEADLINE, || Path::new(&sign).exists()), "nobody has come within {DEADLINE:?}");
    }

    /// Lets them go.
    pub fn release(&self) {
        // The directory is gone if the scene ended first; so is whoever waited, or the test has failed anyway.
        let _ = std::fs::File::create(&self.0);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

/// Writes a build to a path, readable and executable by us alone.
pub fn put(path: &Path, build: &Build) {
    std::fs::write(path, build.bytes()).expect("the scene's directory can be written");
}
