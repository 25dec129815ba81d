//! Links the fixtures without debug information: they are copied, hashed and loaded hundreds of times.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-examples=-Wl,--strip-debug");
}
