//! Fills in the template of a plugin with an interface of its own, so that the program that it shows is compiled.

use std::path::Path;
use std::{env, fs};

const TEMPLATE: &str = "../host/templates/own-interface";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={TEMPLATE}");
    let read = |name: &str| {
        let text = fs::read_to_string(Path::new(TEMPLATE).join(name)).expect("the template is there");
        let filled = [("@name@", "greeter"), ("@name_@", "greeter"), ("@Interface@", "Greeter")];
        filled.iter().fold(text, |text, (field, value)| text.replace(field, value))
    };
    let interface = read("interface/src/lib.rs.in");
    // What stands at the top of a file only.
    let interface = interface.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("#!"));
    let interface = interface.collect::<Vec<_>>().join("\n");
    let readme = read("README.md.in");
    let (_, program) = readme.split_once("```rust\n").expect("it shows a program");
    let (program, _) = program.split_once("```").expect("the program ends");
    let page = format!("```rust,no_run\nmod greeter_interface {{\n{interface}\n}}\n{program}```\n");
    let out = env::var_os("OUT_DIR").expect("cargo says where");
    fs::write(Path::new(&out).join("embedder.md"), page).expect("cargo's directory can be written");
}
