//! Links without debug information: the fixtures are copied, hashed and loaded hundreds of times. (The test program
//! is linked so as well, because cargo cannot tell a library among the examples; its panics say where they are.)

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--strip-debug");
    println!("cargo:rerun-if-changed=interfaces/in_c.c");
    cc::Build::new().file("interfaces/in_c.c").compile("reseat_tests_in_c");
}
