//! Records which compiler and target built this crate, so that every manifest can say so.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").expect("cargo sets RUSTC for build scripts");
    let version = Command::new(rustc).arg("-V").output().expect("the compiler that builds us answers -V");
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.trim().strip_prefix("rustc ").unwrap_or(version.trim());
    println!("cargo:rustc-env=RESEAT_RUSTC={version}");
    println!("cargo:rustc-env=RESEAT_TARGET={}", std::env::var("TARGET").expect("cargo sets TARGET"));
}
