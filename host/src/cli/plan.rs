//! What is built, and from which sources.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{CargoOpt, CrateType, MetadataCommand, Package, PackageId};

/// A crate that makes a plugin.
#[derive(Clone)]
pub struct Plan {
    /// The crate's directory, as it was named.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: PathBuf,
    /// Its package.
    pub package: PackageId,
    /// Its package's name.
    pub name: String,
    /// Crates of one workspace are built together.
    pub workspace: PathBuf,
    /// The directories of the crate and of everything it depends on by path.
    pub sources: Vec<PathBuf>,
}

impl Plan {
    /// Asks cargo what this crate is.
    ///
    /// # Errors
    /// It is no crate, or not one that makes a plugin.
    pub fn of(dir: &Path) -> Result<Plan> {
        let manifest = dir.join("Cargo.toml");
        let manifest = manifest.canonicalize().with_context(|| {
            format!("{} has no Cargo.toml: name the directory of a plugin crate", dir.display())
        })?;
        let mut command = MetadataCommand::new();
        command.manifest_path(&manifest).cargo_path(cargo());
        // Whatever is built with: what an optional dependency needs is followed, too.
        command.features(CargoOpt::AllFeatures);
        // What only other systems need is neither followed nor downloaded.
        command.other_options(["--filter-platform".to_owned(), plugin_api::render::TARGET.to_owned()]);
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
            name: package.name.to_string(),
            workspace: metadata.workspace_root.as_std_path().to_owned(),
            sources: sources(&metadata, package),
            manifest,
        })
    }

    /// Asks once more: the manifest has changed.
    ///
    /// # Errors
    /// As for [`Plan::of`].
    pub fn again(&self) -> Result<Plan> {
        Plan::of(&self.dir)
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

/// The cargo that this was started by, or the one in the path.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}
