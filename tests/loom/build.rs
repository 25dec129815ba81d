//! Turns the gate's atomics into loom's, in this crate only.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(reseat_loom)");
    println!("cargo:rustc-check-cfg=cfg(reseat_loom_sampled)");
    println!("cargo:rustc-cfg=reseat_loom");
    if std::env::var_os("CARGO_FEATURE_SAMPLED").is_some() {
        println!("cargo:rustc-cfg=reseat_loom_sampled");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
