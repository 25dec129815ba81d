//! The contract between builds does not change by accident: every type of `abi.rs`, with sizes, offsets and
//! function types, is compared with the text that was written down for this boundary version.

use std::any::type_name;
use std::fmt::Write as _;
use std::path::PathBuf;

use plugin_api::abi::*;

/// Writes one struct down. Its fields are matched without `..`, so that a new one cannot be forgotten here.
macro_rules! structure {
    // What may grow at its end: the size is not part of the contract.
    (growing $text:ident, $name:ident { $($field:tt),* }) => {
        writeln!($text, "\n{} / {}", stringify!($name), align_of::<$name>()).unwrap();
        structure!(@fields $text, $name, $name { $($field),* });
    };
    ($text:ident, $name:ident { $($field:tt),* }) => {
        structure!($text, $name, $name { $($field),* });
    };
    ($text:ident, $path:ident, $ty:ty { $($field:tt),* }) => {
        writeln!($text, "\n{} # {} / {}", plain(type_name::<$ty>()), size_of::<$ty>(), align_of::<$ty>()).unwrap();
        structure!(@fields $text, $path, $ty { $($field),* });
    };
    (@fields $text:ident, $path:ident, $ty:ty { $($field:tt),* }) => {
        #[allow(clippy::redundant_pattern_matching)]
        let _ = |value: $ty| { let $path { $($field: _),* } = value; };
        $(
            let ty = plain(field_type(|value: &$ty| &value.$field));
            writeln!($text, "  {} @ {}: {ty}", stringify!($field), std::mem::offset_of!($ty, $field)).unwrap();
        )*
    };
}

fn field_type<T, F: ?Sized>(_: impl Fn(&T) -> &F) -> &'static str {
    type_name::<F>()
}

/// A type's name without paths and lifetimes, which compilers write in different ways.
fn plain(name: &str) -> String {
    let mut plain = String::new();
    for part in name.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_' && c != ':') {
        let start = part.rfind("::").map_or(0, |at| at + 2);
        plain.push_str(&part[start..]);
    }
    plain.replace("<'_>", "").replace("<'_, ", "<")
}

fn contract() -> String {
    let mut text = String::new();
    writeln!(text, "boundary version {BOUNDARY_VERSION}").unwrap();
    writeln!(text, "magic {:02x?}, symbol {DESCRIPTOR_SYMBOL}", MAGIC).unwrap();
    for (name, Status(value)) in [
        ("OK", Status::OK),
        ("FAILED", Status::FAILED),
        ("PANICKED", Status::PANICKED),
        ("MALFORMED", Status::MALFORMED),
        ("UNSUPPORTED", Status::UNSUPPORTED),
        ("NOT_LOADED", Status::NOT_LOADED),
        ("CLOSED", Status::CLOSED),
        ("TIMED_OUT", Status::TIMED_OUT),
        ("CROWDED", Status::CROWDED),
    ] {
        writeln!(text, "status {value} {name}").unwrap();
    }
    for (name, ty) in [
        ("DynamicFn", type_name::<DynamicFn>()),
        ("ThreadExitFn", type_name::<ThreadExitFn>()),
        ("ThreadStartFn", type_name::<ThreadStartFn>()),
    ] {
        writeln!(text, "{name} = {}", plain(ty)).unwrap();
    }
    for (name, RawStopping(value)) in [
        ("NEVER_SERVED", RawStopping::NEVER_SERVED),
        ("REPLACED", RawStopping::REPLACED),
        ("ROLLED_BACK", RawStopping::ROLLED_BACK),
        ("REMOVED", RawStopping::REMOVED),
        ("HOST_ENDS", RawStopping::HOST_ENDS),
    ] {
        writeln!(text, "stopping {value} {name}").unwrap();
    }
    structure!(text, Status { 0 });
    structure!(text, RawStopping { 0 });
    structure!(text, Reply, Reply<u64> { status, value });
    structure!(text, Reply, Reply<()> { status, value });
    structure!(text, Transfer { append, tail });
    structure!(text, RawSlice { start, len });
    structure!(text, RawState { start, len, owner, release });
    structure!(text, RawRegion { start, serves, number, is_new });
    structure!(text, RawBefore { start, len, layout, owner, release });
    structure!(text, RawCallback { context, call });
    structure!(text, RawPeer { peer, enter, leave });
    structure!(text, RawEntered { methods, instance, note, generation, guard });
    structure!(text, RawGuard { 0, 1 });
    structure!(text, RawMethod { name, fingerprint, call });
    structure!(text, InterfaceExport { name, major, minor, methods, dynamic });
    structure!(text, InstanceRef { 0 });
    structure!(text, GenerationRef { 0 });
    structure!(growing text, Descriptor {
        magic, boundary, size, manifest_hash, contract_layout, host_layout, contract, interfaces, heap
    });
    structure!(text, HeapUse { blocks, bytes });
    structure!(growing text, PluginContract {
        attach, create, restore, save, started, self_check, leave_now, stopping, destroy, detach
    });
    structure!(growing text, HostContract {
        log_enabled, log, counter, at_thread_exit, key_create, key_delete, thread_create, cancel_flag, region,
        region_before, peer, register, withdraw
    });
    text
}

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/abi-{BOUNDARY_VERSION}.txt"))
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_contract_has_not_changed_without_its_version() {
    let (now, path) = (contract(), golden());
    if std::env::var_os("WRITE_CONTRACT").is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let write = "run this test with WRITE_CONTRACT=1 to write it down";
    let Ok(then) = std::fs::read_to_string(&path) else {
        panic!("boundary version {BOUNDARY_VERSION} is new: {write}, as {}", path.display());
    };
    if now == then {
        return;
    }
    let appended = is_appended(&then, &now);
    let advice = if appended {
        format!(
            "everything that was there still is: if plugins and hosts without the new parts still work, {write}"
        )
    } else {
        format!(
            "what was there has changed, and builds of boundary version {BOUNDARY_VERSION} would misread each other: \
             take it back, or raise BOUNDARY_VERSION in abi.rs, {write}, and tell authors in the changelog to rebuild"
        )
    };
    panic!("the contract in abi.rs is not the one in {}.\n{advice}\n\nNow it is:\n\n{now}", path.display());
}

/// Whether all lines are still there, in their order.
fn is_appended(then: &str, now: &str) -> bool {
    let mut now = now.lines();
    then.lines().all(|line| now.any(|other| other == line))
}

#[test]
fn every_public_item_of_the_contract_is_written_down() {
    let source = include_str!("../src/abi.rs");
    let text = contract();
    let names: Vec<_> = source
        .lines()
        .filter_map(|line| {
            ["pub struct ", "pub type ", "pub const "].iter().find_map(|kind| line.strip_prefix(kind))
        })
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .filter(|name| !["BOUNDARY_VERSION", "MAGIC", "DESCRIPTOR_SYMBOL"].contains(name))
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let there = |line: &str| line.split([' ', '<']).next() == Some(name);
        assert!(text.lines().any(there), "`{name}` of abi.rs is not compared in tests/abi.rs");
    }
}

#[test]
fn an_appended_line_is_told_from_a_changed_one() {
    assert!(is_appended("a\nb", "a\nb\nc"));
    assert!(is_appended("a\nb", "a\nc\nb"));
    assert!(!is_appended("a\nb", "a\nB\nc"));
    assert!(!is_appended("a\nb", "b\na"));
}
