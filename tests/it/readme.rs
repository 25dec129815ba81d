use crate::workshop::project;

/// The Rust blocks of the README, in their order.
fn blocks(text: &str) -> Vec<&str> {
    let starts = text.match_indices("```rust\n");
    starts.map(|(at, fence)| text[at + fence.len()..].split("```").next().expect("split gives one")).collect()
}

#[test]
fn the_readmes_examples_are_the_files_that_are_compiled() {
    let read =
        |name: &str| std::fs::read_to_string(project().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let readme = read("README.md");
    let files = ["plugin-api/examples/greeter.rs", "host/examples/embed.rs"];
    assert_eq!(blocks(&readme), files.map(read), "the README shows {files:?}");
    for file in files {
        assert!(readme.contains(&format!("`{file}`")), "the README names {file}");
    }
}
