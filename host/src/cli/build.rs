//! One `cargo build`, shown as cargo shows it, that can be given up.

use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use cargo_metadata::{CrateType, Message, MetadataCommand, Package, TargetKind};
use rustix::process::{Pid, Signal, kill_process_group};

/// What is built, and how.
#[derive(Clone)]
pub struct Plan {
    /// The crate's directory.
    pub dir: PathBuf,
    /// Its manifest.
    manifest: PathBuf,
    /// Its package id.
    package: cargo_metadata::PackageId,
    /// The directories of the crate and of everything it depends on by path.
    pub sources: Vec<PathBuf>,
    release: bool,
    features: Option<String>,
}

impl Plan {
    /// Asks cargo what this crate is.
    ///
    /// # Errors
    /// It is no crate, or not one that makes a plugin.
    pub fn of(dir: &Path, release: bool, features: Option<&str>) -> Result<Plan> {
        let manifest = dir.join("Cargo.toml");
        let manifest = manifest.canonicalize().with_context(|| {
            format!("{} has no Cargo.toml: name the directory of a plugin crate", dir.display())
        })?;
        let mut command = MetadataCommand::new();
        command.manifest_path(&manifest).cargo_path(cargo());
        let metadata =
            command.exec().with_context(|| format!("cargo does not understand {}", manifest.display()))?;
        let package = metadata
            .packages
            .iter()
            .find(|package| package.manifest_path.as_std_path() == manifest)
            .with_context(|| {
                format!("{} has no package: name the plugin's own directory", manifest.display())
            })?;
        anyhow::ensure!(
            package.targets.iter().any(|target| target.crate_types.contains(&CrateType::CDyLib)),
            "{} makes no library that can be loaded: its Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`",
            package.name
        );
        Ok(Plan {
            dir: dir.to_owned(),
            package: package.id.clone(),
            sources: sources(&metadata, package),
            manifest,
            release,
            features: features.map(str::to_owned),
        })
    }

    /// Asks once more: the manifest has changed.
    ///
    /// # Errors
    /// As for [`Plan::of`].
    pub fn again(&self) -> Result<Plan> {
        Plan::of(&self.dir, self.release, self.features.as_deref())
    }

    /// Starts a build.
    pub fn start(&self) -> Result<Build> {
        let mut command = Command::new(cargo());
        command.args(["build", "--lib", "--message-format=json-render-diagnostics", "--manifest-path"]);
        command.arg(&self.manifest);
        if self.release {
            command.arg("--release");
        }
        if let Some(features) = &self.features {
            command.args(["--features", features]);
        }
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_for_us(name)) {
            command.env_remove(name);
        }
        // A group of its own, so that it can be given up with its compilers.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().context("cargo cannot be started: is it in PATH?")?;
        let output = child.stdout.take().expect("piped");
        let package = self.package.clone();
        let artifact = std::thread::Builder::new()
            .name("reseat-cargo".into())
            .spawn(move || artifact(output, &package))
            .context("no thread for cargo's messages")?;
        Ok(Build { child, artifact: Some(artifact) })
    }
}

/// The directories of the package and of its path dependencies.
fn sources(metadata: &cargo_metadata::Metadata, package: &Package) -> Vec<PathBuf> {
    let local = |id: &cargo_metadata::PackageId| {
        metadata.packages.iter().find(|package| package.id == *id && package.source.is_none())
    };
    let nodes = metadata.resolve.as_ref().map_or(&[][..], |resolve| &resolve.nodes);
    let mut found = vec![&package.id];
    let mut next = 0;
    while let Some(&id) = found.get(next) {
        next += 1;
        let Some(node) = nodes.iter().find(|node| node.id == *id) else { continue };
        for dependency in &node.dependencies {
            if local(dependency).is_some() && !found.contains(&dependency) {
                found.push(dependency);
            }
        }
    }
    let directory =
        |package: &Package| package.manifest_path.parent().map(|dir| dir.as_std_path().to_owned());
    found.into_iter().filter_map(local).filter_map(directory).collect()
}

fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Whether `cargo run` has told this to the program that it runs: it is not meant for a cargo that the program
/// runs in turn.
fn is_for_us(name: &std::ffi::OsStr) -> bool {
    const OURS: [&str; 6] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "CARGO_CFG_"];
    OURS.iter().any(|ours| name.to_string_lossy().starts_with(ours))
}

/// The library among cargo's messages.
fn artifact(output: impl std::io::Read, package: &cargo_metadata::PackageId) -> Option<PathBuf> {
    let mut found = None;
    // Read to the end: cargo must not find its pipe closed.
    for message in Message::parse_stream(BufReader::new(output)).map_while(Result::ok) {
        if let Message::CompilerArtifact(artifact) = message
            && artifact.package_id == *package
            && artifact.target.kind.contains(&TargetKind::CDyLib)
        {
            found = artifact.filenames.into_iter().find(|file| file.extension() == Some("so"));
        }
    }
    found.map(Into::into)
}

/// A build under way. Dropped, it is given up.
pub struct Build {
    child: Child,
    artifact: Option<JoinHandle<Option<PathBuf>>>,
}

impl Build {
    /// The library, once cargo has ended; `Some(None)` if the build failed. `None`: it goes on.
    pub fn poll(&mut self, limit: Duration) -> Result<Option<Option<PathBuf>>> {
        // The child's output ends with it, so its reader tells of the end without a signal handler.
        let reader = self.artifact.as_ref().expect("polled until it has ended");
        let deadline = std::time::Instant::now() + limit;
        while !reader.is_finished() {
            if std::time::Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let artifact = self.artifact.take().and_then(|reader| reader.join().ok()).flatten();
        let status = self.child.wait().context("cargo cannot be waited for")?;
        Ok(Some(artifact.filter(|_| status.success())))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.artifact.is_none() {
            return; // it has ended and was waited for
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
