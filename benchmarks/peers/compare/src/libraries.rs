//! The libraries that are called, copied to a directory where everybody may write.
//!
//! Most peers put copies of a library beside it, and watch that directory. So they get one that goes away
//! with the program.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use tempfile::TempDir;

static STAGED: OnceLock<TempDir> = OnceLock::new();

/// Copies the callee from there, and the libraries that were built beside this program.
pub fn stage(callee: &Path) {
    let staged = tempfile::tempdir().expect("a temporary directory can be made");
    let beside = std::env::current_exe().expect("Linux knows");
    for library in [callee, &beside.with_file_name(HOT_LIB), &beside.with_file_name(RELIB_MODULE)] {
        let name = library.file_name().expect("a library is a file");
        fs::copy(library, staged.path().join(name)).expect("scripts/bench-peers has built it");
    }
    STAGED.set(staged).expect("only once");
}

/// Where they are.
pub fn dir() -> &'static Path {
    STAGED.get().expect("they are staged").path()
}

/// Removes them again; a static is never dropped.
pub fn remove() {
    fs::remove_dir_all(dir()).expect("it is ours");
}

/// The callee that is called through a table, by name, and by reseat.
pub const CALLEE: &str = "libcallee.so";
/// The callee of hot-lib-reloader and hotload.
pub const HOT_LIB: &str = "libhot_lib.so";
/// The callee of relib.
pub const RELIB_MODULE: &str = "librelib_module.so";
