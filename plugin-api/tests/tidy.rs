//! House rules that a machine can check: parts of `abi_stable` that must not be used.
//!
//! Some keep references into a library and crash the process after it is unloaded, some exit the host on a panic
//! of a plugin, some free on one side what the other has allocated.

use std::path::{Path, PathBuf};

const NEVER: &[(&str, &str)] = &[
    ("RootModule", "its loaders keep the library open, and references into it, for ever"),
    ("lib_header_from_path", "it keeps the library open for ever"),
    ("lib_header_from_raw_library", "it keeps references into the library"),
    ("abi_header_from_path", "it keeps the library open for ever"),
    ("export_root_module", "see RootModule"),
    ("init_root_module", "it keeps references into the library in a global"),
    ("check_layout(", "its checker is a global that keeps references into the library"),
    ("ensure_layout", "its checker is a global that keeps references into the library"),
    (
        "check_layout_compatibility(",
        "its checker is a global that keeps references into the library: use check_layout_compatibility_with_globals",
    ),
    ("sabi_extern_fn", "it exits the process on a panic"),
    ("sabi_trait", "it exits the process on a panic"),
    ("extern_fn_panic_handling", "it exits the process on a panic"),
    ("nonexhaustive", "its enums carry a vtable of the library that made them"),
    ("NonExhaustive", "its enums carry a vtable of the library that made them"),
    ("leak_into_prefix", "it leaks one table per generation"),
    ("DynTrait", "its vtable lives in the library that made it"),
    ("RString", "dropping one after its library is gone crashes, even empty: lower it as a String"),
    ("RVec", "dropping one after its library is gone crashes, even empty: lower it as a Vec"),
    ("RBox", "its destructor is in the library that made it"),
    ("RArc", "its destructor is in the library that made it"),
    ("RCow", "its owned form is an RString or an RVec"),
    ("RHashMap", "its vtable lives in the library that made it"),
    ("RSmallBox", "its destructor is in the library that made it"),
];

#[test]
fn nothing_is_used_that_keeps_or_crashes_a_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let mut files = Vec::new();
    for part in ["host", "plugin-api", "example-plugin", "tests"] {
        collect(&root.join(part), &mut files);
    }
    let this = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tidy.rs");
    assert!(files.contains(&this), "the search finds this file");

    let mut found = String::new();
    for file in files.iter().filter(|file| **file != this) {
        let text = std::fs::read_to_string(file).expect("a source file is UTF-8");
        for (number, line) in text.lines().enumerate() {
            // Comments may say why something is not used.
            let code = line.split("//").next().unwrap_or_default();
            for (never, why) in NEVER.iter().filter(|(never, _)| code.contains(never)) {
                found += &format!("{}:{}: `{never}`: {why}\n", file.display(), number + 1);
            }
        }
    }
    assert!(found.is_empty(), "parts of abi_stable that must not be used:\n{found}");
}

#[test]
fn abi_stable_is_pinned_and_without_its_loaders() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("the workspace has a manifest");
    let line =
        manifest.lines().find(|line| line.starts_with("abi_stable ")).expect("abi_stable is a dependency");
    assert!(line.contains("\"=0.11.3\""), "its layouts are part of the boundary: {line}");
    assert!(line.contains("default-features = false"), "{line}");
}

/// All Rust sources below a directory.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
