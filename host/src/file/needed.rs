//! The libraries that a plugin needs, and whether the dynamic linker would find them.
//!
//! This follows the linker's search order as far as it can be known from outside: the run path of the file,
//! `LD_LIBRARY_PATH`, the linker's cache, its configuration and the usual directories. It errs towards
//! "found".

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::elf;

use super::elf::Library;
use super::error::VetError;

/// A library needs at most this many others.
const LIMIT: usize = 1024;

/// The names of the libraries that a library needs.
pub(super) fn names(library: &Library<'_>) -> Result<Vec<String>, VetError> {
    let damaged = |what| VetError::Damaged { what, marked: false };
    let mut names = Vec::new();
    for offset in library.entries(elf::DT_NEEDED) {
        let name = library.string(offset).filter(|name| !name.is_empty() && name.len() < 4096);
        let name = name.and_then(|name| str::from_utf8(name).ok());
        names.push(name.ok_or(damaged("the name of a library that it needs cannot be read"))?.to_owned());
        if names.len() > LIMIT {
            return Err(damaged("it needs more than 1024 libraries"));
        }
    }
    Ok(names)
}

/// Checks that each of these would be found when `library` is opened from a private copy.
pub(super) fn check(library: &Library<'_>, names: &[String], origin: Option<&Path>) -> Result<(), VetError> {
    let run_path = RunPath::of(library);
    for name in names {
        let is_found = match name.contains('/') {
            true => Path::new(name).exists(),
            false => is_in(&run_path.absolute, name) || system_finds(name),
        };
        if !is_found {
            return Err(missing(name, &run_path, origin));
        }
    }
    Ok(())
}

fn is_in<'a>(directories: impl IntoIterator<Item = &'a PathBuf>, name: &str) -> bool {
    directories.into_iter().any(|directory| directory.join(name).exists())
}

fn missing(name: &str, run_path: &RunPath, origin: Option<&Path>) -> VetError {
    let library = name.to_owned();
    let beside =
        origin.and_then(Path::parent).map(|directory| run_path.beside(directory)).unwrap_or_default();
    if let Some(directory) = beside.into_iter().find(|directory| directory.join(name).exists()) {
        return VetError::LibraryBeside { library, directory };
    }
    let searched = run_path.absolute.len() + usual_directories().len() + configured_directories().len();
    VetError::MissingLibrary { library, searched: if name.contains('/') { 0 } else { searched } }
}

/// Where the file itself says that its libraries are.
struct RunPath {
    absolute: Vec<PathBuf>,
    /// What follows `$ORIGIN`.
    relative: Vec<String>,
}

impl RunPath {
    fn of(library: &Library<'_>) -> Self {
        let tag = if library.entry(elf::DT_RUNPATH).is_some() { elf::DT_RUNPATH } else { elf::DT_RPATH };
        let mut path = RunPath { absolute: Vec::new(), relative: Vec::new() };
        let text = library.entry(tag).and_then(|offset| library.string(offset)).unwrap_or_default();
        for directory in String::from_utf8_lossy(text).split(':').take(LIMIT) {
            let relative = directory.strip_prefix("$ORIGIN").or_else(|| directory.strip_prefix("${ORIGIN}"));
            match relative {
                Some(rest) => path.relative.push(rest.trim_start_matches('/').to_owned()),
                None if directory.starts_with('/') => path.absolute.push(directory.into()),
                None => {}
            }
        }
        path
    }

    fn beside(&self, directory: &Path) -> Vec<PathBuf> {
        self.relative.iter().map(|rest| directory.join(rest)).collect()
    }
}

/// Whether the system's settings lead to a library of this name. What costs more is asked later; what cannot
/// be read simply does not help to find anything.
fn system_finds(name: &str) -> bool {
    is_in(&usual_directories(), name)
        || is_in(&configured_directories(), name)
        || is_cached(name)
        || is_open(name)
}

fn usual_directories() -> BTreeSet<PathBuf> {
    let roots = ["/lib", "/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64"];
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let variable = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let listed =
        variable.as_bytes().split(|byte| matches!(byte, b':' | b';')).filter(|path| !path.is_empty());
    let usual = roots.iter().flat_map(|root| [PathBuf::from(root), Path::new(root).join(&triple)]);
    usual.chain(listed.map(|path| PathBuf::from(OsStr::from_bytes(path)))).collect()
}

fn configured_directories() -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    configured(Path::new("/etc/ld.so.conf"), 0, &mut directories);
    directories
}

/// Whether the linker's cache knows it: the cache holds the path of each library, with a NUL behind it.
fn is_cached(name: &str) -> bool {
    let entry = format!("/{name}\0");
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    cache.windows(entry.len()).any(|window| window == entry.as_bytes())
}

/// Whether it is open in this process: then it is not searched for.
fn is_open(name: &str) -> bool {
    let mapped = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    mapped.lines().any(|line| line.rsplit('/').next() == Some(name))
}

/// Adds the directories that a file of the linker's configuration lists. `include` names files, with `*`.
fn configured(file: &Path, depth: usize, directories: &mut BTreeSet<PathBuf>) {
    let text = fs::read_to_string(file).unwrap_or_default();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("include ") {
            Some(pattern) if depth < 4 => {
                for included in expand(&file.with_file_name(""), Path::new(pattern.trim())) {
                    configured(&included, depth + 1, directories);
                }
            }
            _ if line.starts_with('/') => {
                directories.insert(line.into());
            }
            _ => {}
        }
    }
}

/// The files that a pattern such as `/etc/ld.so.conf.d/*.conf` stands for.
fn expand(base: &Path, pattern: &Path) -> Vec<PathBuf> {
    let pattern = base.join(pattern);
    let name = pattern.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let Some((head, tail)) = name.split_once('*') else { return vec![pattern] };
    let Some(Ok(listing)) = pattern.parent().map(fs::read_dir) else { return Vec::new() };
    let matches = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with(head) && name.ends_with(tail)
    };
    listing.filter_map(Result::ok).map(|entry| entry.path()).filter(matches).collect()
}
