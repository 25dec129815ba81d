//! The boundary, seen from the host: opening a library, calling its hooks, keeping the books on what it
//! would leave behind. Knows nothing of threads' turns, drains or policies.
//!
//! This is one of the three places in the crate where `unsafe` may appear (the others are the gate's core
//! and the kernel call in `file::lease`).
#![allow(unsafe_code)]

mod capture;
mod contract;
mod hooks;
mod image;
mod loader;
mod memory;
mod os_linux;
mod region;
mod registrations;
mod second_check;
mod self_test;
mod sync;
mod witness;

pub(crate) use contract::{Counters, Peers, Surroundings};
pub(crate) use hooks::{Dynamic, Hooks, Instance, MAX_INTERFACES, Tables, dynamic_call};
pub(crate) use image::{Closed, Gone, Image, OpenError, Remnant};
pub(crate) use region::{Exhibit, RegionError, Regions};
pub(crate) use registrations::{Entry, Registrar, Table};
pub(crate) use self_test::self_test;
pub(crate) use witness::TOGETHER;

use std::path::Path;

use crate::options::TrustedFile;

/// Closes every descriptor but the three standard ones. For a process that has just begun.
pub(crate) fn close_inherited_descriptors() {
    // SAFETY: called by a helper's `main` before anything was opened, see `probe::serve`.
    unsafe { os_linux::close_descriptors_from(3) }
}

/// Opens the private copy of a file that somebody has vouched for, checks its descriptor and attaches it.
///
/// # Errors
/// It is not what its file said; then it has been closed again.
pub(crate) fn open_trusted(
    _origin: &TrustedFile,
    copy: &Path,
    plugin: &str,
    number: u64,
    manifest_hash: u64,
    around: Surroundings,
) -> Result<Image, OpenError> {
    // SAFETY: the origin is proof that somebody vouched for what the copy was made of.
    unsafe { Image::open(copy, plugin, number, manifest_hash, around) }
}
