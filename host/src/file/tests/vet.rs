use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::sample::{self, DESCRIPTOR, compile, expect, library, library_with, manifest, vet, write};
use crate::file::{Expect, Facts, VetError, clear_nodelete, vet_bytes, vet_path};

fn refused(bytes: &[u8]) -> VetError {
    vet(bytes).expect_err("it should be refused")
}

#[test]
fn a_plugin_is_accepted_with_its_facts() {
    let vetted = vet(library()).unwrap();
    assert_eq!(vetted.manifest.plugin, "limiter");
    let facts = vetted.facts;
    assert_eq!(facts.bytes, library().len() as u64);
    assert!(facts.needed.iter().any(|name| name.starts_with("libc.so")), "{facts:?}");
    assert_eq!(facts.build_id.as_ref().map(String::len), Some(40));
    assert_eq!((facts.nodelete, facts.static_tls, facts.tls_bytes), (None, false, 0));
    assert!(facts.unique_symbols.is_empty());
}

#[test]
fn bytes_at_an_odd_address_are_read_as_well() {
    let mut shifted = vec![0; library().len() + 1];
    shifted[1..].copy_from_slice(library());
    assert!(vet(&shifted[1..]).is_ok());
}

#[test]
fn what_keeps_a_library_from_unloading_is_noted() {
    let source = format!(
        "{DESCRIPTOR} __thread int counter; int count(void) {{ return ++counter; }}\n\
         __attribute__((constructor)) static void first(void) {{ counter = 1; }}\n\
         __asm__(\".globl one\\n.type one,@gnu_unique_object\\n.data\\n.size one,4\\none: .long 1\\n\");"
    );
    let bytes = library_with(&manifest(), &source, &["-ftls-model=initial-exec", "-Wl,-z,nodelete"]);
    let facts = vet(&bytes).unwrap().facts;
    assert_eq!(facts.unique_symbols, ["one"]);
    assert!(facts.static_tls && facts.tls_bytes >= 4, "{facts:?}");
    assert!(facts.constructors > vet(library()).unwrap().facts.constructors, "{facts:?}");
    let offset = facts.nodelete.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy.so");
    write(&path, &bytes);
    let copy = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    clear_nodelete(&copy, offset).unwrap();
    let cleared = std::fs::read(&path).unwrap();
    assert_eq!(vet(&cleared).unwrap().facts, Facts { nodelete: None, ..facts });
    assert_eq!(bytes.iter().zip(&cleared).filter(|(a, b)| a != b).count(), 1);
}

#[test]
fn a_library_without_a_section_table_is_as_good() {
    let mut bytes = library().to_vec();
    bytes[0x28..0x30].fill(0); // e_shoff
    bytes[0x3c..0x40].fill(0); // e_shnum, e_shstrndx
    assert!(vet(&bytes).is_ok());
}

#[test]
fn a_stripped_library_is_as_good() {
    let stripped = library_with(&manifest(), DESCRIPTOR, &["-s", "-Wl,--gc-sections"]);
    assert!(vet(&stripped).is_ok());
    let sysv = library_with(&manifest(), DESCRIPTOR, &["-Wl,--hash-style=sysv"]);
    assert!(vet(&sysv).is_ok());
}

#[test]
fn what_is_no_library_is_named() {
    let cases: [(&[u8], &str); 6] = [
        (b"#!/bin/sh\n", "is not a shared library: it begins with 23 21 2f 62 (text?), expected 7f 45 4c 46"),
        (b"", "is empty"),
        (b"!<arch>\nlib", "it begins with 21 3c 61 72 (a static library?)"),
        (b"MZ\x90\0", "(a Windows library?)"),
        (b"\0\0\0\0\0", "it begins with 00 00 00 00, expected"),
        (b"\x7fEL", "is cut short: the ELF header ends at byte 64, the file has 3 bytes"),
    ];
    for (bytes, said) in cases {
        let error = refused(bytes);
        assert!(error.to_string().contains(said), "{error}");
        assert!(!error.claims_to_be_plugin());
    }
    assert!(refused(b"").may_be_incomplete() && refused(&[0; 100]).may_be_incomplete());
    assert!(!refused(b"text").may_be_incomplete());
}

#[test]
fn an_ordinary_library_is_refused_without_a_claim() {
    let error = refused(&compile("int answer(void) { return 42; }", &[]));
    assert!(matches!(error, VetError::NoManifest { .. }), "{error}");
    assert!(!error.claims_to_be_plugin() && !error.may_be_incomplete());
    let error = refused(&compile(r#"const char mark[] = "RESEAT"; "#, &[]));
    assert!(error.claims_to_be_plugin(), "{error}");
}

#[test]
fn a_plugin_cut_short_says_so_and_claims_to_be_one() {
    let error = refused(&library()[..library().len() - 1]);
    let text = error.to_string();
    assert!(text.starts_with("is cut short: the section header table ends at byte "), "{text}");
    assert!(text.ends_with("it is still being written or was copied in part"), "{text}");
    assert!(error.claims_to_be_plugin() && error.may_be_incomplete());
}

#[test]
fn other_elf_files_are_named() {
    let patched = |at: usize, value: u8| {
        let mut bytes = library().to_vec();
        bytes[at] = value;
        refused(&bytes).to_string()
    };
    let (ours, other) = (std::env::consts::ARCH, if cfg!(target_arch = "aarch64") { 62 } else { 183 });
    let text = patched(0x12, other);
    assert!(text.contains(&format!("this machine is {ours}")), "{text}");
    assert!(patched(0x12, 99).starts_with("is built for ELF machine "));
    assert!(patched(0x10, 2).contains("it is an executable: build it with crate-type cdylib"));
    assert!(patched(0x10, 1).contains("it is an object file: build it with"));
    assert!(patched(4, 1).contains("a 32-bit ELF file"));
    assert!(patched(5, 2).contains("another byte order"));
    let program = library_with(
        &manifest(),
        &format!("{DESCRIPTOR} int main(void) {{ return 0; }}"),
        &["-no-pie", "-nostartfiles", "-shared", "-Wl,-z,norelro"],
    );
    assert!(vet(&program).is_ok(), "it is a library after all");
}

#[test]
fn the_manifest_decides_whether_it_fits() {
    let cases = [
        (
            "boundary 1",
            "boundary 2",
            "is built for boundary 2, this host speaks 1: rebuild the plugin against the host's plugin-api",
        ),
        ("panic unwind", "panic abort", "is built with panic=abort"),
        ("-linux-gnu", "-linux-musl", "is built for target "),
        ("-unknown-linux-gnu", "-apple-darwin", "is built for target "),
        ("plugin limiter", "plugin LIMITER", "has an unusable manifest: line 2"),
    ];
    for (before, after, said) in cases {
        let error = refused(&library_with(&manifest().replace(before, after), DESCRIPTOR, &[]));
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.claims_to_be_plugin() && !error.may_be_incomplete());
    }
}

#[test]
fn two_manifests_are_one_too_many() {
    let mut source = String::from(DESCRIPTOR);
    source += "__asm__(\".pushsection .note.more,\\\"a\\\",%note\\n.balign 4\\n.long 7,4,1\\n.asciz \\\"RESEAT\\\"\\n\
               .balign 4\\n.long 0\\n.popsection\\n\");";
    let error = refused(&library_with(&manifest(), &source, &[]));
    assert!(matches!(error, VetError::SeveralManifests { found: 2 }), "{error}");
}

#[test]
fn the_descriptor_has_to_be_exported() {
    let cases = [
        ("int other;", "no such symbol"),
        ("extern long RESEAT_PLUGIN; long *used(void) { return &RESEAT_PLUGIN; }", "the symbol is undefined"),
        ("__attribute__((visibility(\"hidden\"))) long RESEAT_PLUGIN = 1;", "no such symbol"),
        ("__asm__(\".data\\n.globl RESEAT_PLUGIN\\nRESEAT_PLUGIN: .long 1\\n\");", "the symbol is empty"),
        (
            "__asm__(\".globl RESEAT_PLUGIN\\n.set RESEAT_PLUGIN,0x7fffffff\\n.size RESEAT_PLUGIN,8\\n\");",
            "outside",
        ),
    ];
    for (source, said) in cases {
        let error = refused(&library_with(&manifest(), source, &[]));
        assert!(error.to_string().contains(said), "{source}: {error}");
    }
}

#[test]
fn a_needed_library_that_is_nowhere_is_named() {
    let mut bytes = library().to_vec();
    let name = bytes.windows(10).position(|window| window == b"libc.so.6\0").unwrap();
    bytes[name..name + 9].copy_from_slice(b"libq.so.6");
    let error = refused(&bytes);
    assert!(error.to_string().starts_with("needs libq.so.6, which was not found in "), "{error}");
}

#[test]
fn a_needed_library_beside_the_plugin_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    write(&directory.path().join("libbeside.so"), &compile("int beside;", &["-Wl,-soname,libbeside.so"]));
    let link = |run_path: &str| {
        let run_path = format!("-Wl,-rpath,{run_path}");
        library_with(&manifest(), DESCRIPTOR, &["-Wl,--no-as-needed", "-L", dir, "-lbeside", &run_path])
    };
    let origin = Expect { boundary: 1, origin: Some(directory.path().join("libsample.so")) };
    let error = vet_bytes(&link("$ORIGIN"), &origin).unwrap_err();
    assert!(error.to_string().contains("only found beside it in"), "{error}");
    assert!(vet_bytes(&link(dir), &origin).is_ok(), "an absolute run path is searched");
}

#[test]
fn only_regular_files_of_ours_are_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let fifo = at("fifo.so");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let refused = |path: &Path| vet_path(path, &expect()).unwrap_err();
    assert_eq!(refused(&fifo).to_string(), "is a FIFO, expected a regular file");
    assert_eq!(refused(directory.path()).to_string(), "is a directory, expected a regular file");
    assert_eq!(refused(Path::new("/dev/null")).to_string(), "is a device, expected a regular file");
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.so")).unwrap();
    assert_eq!(refused(&at("socket.so")).to_string(), "is a socket, expected a regular file");
    assert!(refused(&at("absent.so")).to_string().starts_with("cannot be read: "));

    let path = at("libsample.so");
    write(&path, library());
    assert!(vet_path(&path, &expect()).is_ok());
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o666);
    let error = refused(&path);
    assert!(error.to_string().starts_with("is writable by others (mode 0666; chmod o-w)"), "{error}");
    assert!(error.claims_to_be_plugin());
    mode(&path, 0o664);
    mode(directory.path(), 0o777);
    let error = refused(&path).to_string();
    assert!(error.starts_with("lies in ") && error.contains("is writable by others (mode 0777"), "{error}");
    // A link elsewhere does not hide it.
    let other = tempfile::tempdir().unwrap();
    let link = other.path().join("link.so");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(refused(&link).to_string(), error);
    mode(directory.path(), 0o700);
    assert!(vet_path(&link, &expect()).is_ok());
}

#[test]
fn a_huge_file_is_refused_without_reading_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("huge.so");
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = vet_path(&path, &expect()).unwrap_err();
    assert!(matches!(error, VetError::TooLarge { .. }), "{error}");
}

#[test]
fn the_sample_is_what_the_other_tests_think() {
    assert!(sample::library().len() > 4096);
}
