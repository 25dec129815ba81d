//! Turns the gate's atomics into loom's, in this crate only.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(reseat_loom)");
    println!("cargo:rustc-cfg=reseat_loom");
    println!("cargo:rerun-if-changed=build.rs");
}
