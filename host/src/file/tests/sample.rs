//! Libraries that look like plugins, made with the C compiler that rustc links with.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::file::{Expect, VetError, Vetted, vet_bytes};

/// What the samples are vetted against.
pub fn expect() -> Expect {
    Expect { boundary: 1, origin: None }
}

pub fn vet(bytes: &[u8]) -> Result<Vetted, VetError> {
    vet_bytes(bytes, &expect())
}

/// The manifest of the sample.
pub fn manifest() -> String {
    let arch = std::env::consts::ARCH;
    format!(
        "reseat-manifest 1\nplugin limiter 0.4.0\nboundary 1\nstate writes 1..=2 reads 1..=2\n\
         target {arch}-unknown-linux-gnu\npanic unwind\nprofile release\nrustc 1.95.0 (59807616e 2026-04-14)\n\
         features -\ninterface RateLimiter 1.1\nmethod 0123456789abcdef 1.0 check(key: &str) -> bool\n"
    )
}

/// A library that vets without complaint.
pub fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| library_with(&manifest(), DESCRIPTOR, &[]))
}

/// The usual descriptor. It needs something of the C library.
pub const DESCRIPTOR: &str = "int puts(const char *);\n\
    struct { long magic; int (*say)(const char *); } RESEAT_PLUGIN = { 1, puts };\n";

/// A library with this manifest, this C source and these linker arguments.
pub fn library_with(manifest: &str, source: &str, arguments: &[&str]) -> Vec<u8> {
    let manifest = manifest.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
    let note = format!(
        ".pushsection .note.reseat,\"a\",%note\n.balign 4\n.long 7, 2f-1f, 1\n.asciz \"RESEAT\"\n.balign 4\n\
         1: .ascii \"{manifest}\"\n2: .balign 4\n.popsection\n"
    );
    compile(&format!("__asm__({note:?});\n{source}"), arguments)
}

/// A library from this C source.
pub fn compile(source: &str, arguments: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("sample.c"), source).unwrap();
    let compiler = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wl,--build-id", "-o", "libsample.so", "sample.c"])
        .args(arguments)
        .current_dir(&directory)
        .output()
        .expect("the C compiler that rustc links with is there");
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    std::fs::read(directory.path().join("libsample.so")).unwrap()
}

/// Writes bytes to a file of ours.
pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// A random number generator that gives the same numbers in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        // xorshift64* (Vigna)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}
