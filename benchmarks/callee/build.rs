//! Links without debug information, as plugins are shipped: how long a reload takes depends on the file's size.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--strip-debug");
}
