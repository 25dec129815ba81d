use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workshop::project;

fn read(name: &str) -> String {
    fs::read_to_string(project().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The Rust blocks of a page, in their order, whatever is said of how they are compiled.
fn blocks(text: &str) -> Vec<&str> {
    let starts = text.split("```rust").skip(1).filter_map(|from| from.split_once('\n'));
    starts.map(|(_, from)| from.split("```").next().expect("split gives one")).collect()
}

/// The pages for readers.
fn pages() -> Vec<PathBuf> {
    let book = fs::read_dir(project().join("docs")).expect("there is a book").flatten();
    let mut pages: Vec<_> = book.map(|entry| entry.path()).filter(|path| is_page(path)).collect();
    let others = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "example-plugin/README.md"];
    pages.extend(others.map(|name| project().join(name)));
    pages
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

#[test]
fn the_readmes_examples_are_the_files_that_are_compiled() {
    let readme = read("README.md");
    let files = ["plugin-api/examples/greeter.rs", "host/examples/embed.rs"];
    assert_eq!(blocks(&readme), files.map(read), "the README shows {files:?}");
    for file in files {
        assert!(readme.contains(&format!("`{file}`")), "the README names {file}");
    }
}

#[test]
fn what_is_shown_of_another_library_is_what_the_benchmark_compiles() {
    let page = read("docs/migrating-from-hot-lib-reloader.md");
    let shown = blocks(&page);
    assert_eq!(shown[0], read("benchmarks/peers/hot-lib/src/lib.rs"));
    assert!(read("benchmarks/peers/compare/src/ways/with_hot_lib_reloader.rs").contains(shown[1]));
}

#[test]
fn every_rust_block_of_the_book_is_compiled() {
    let compiled = read("docs/lib.rs");
    for path in pages().iter().filter(|path| path.parent().is_some_and(|dir| dir.ends_with("docs"))) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
        let text = fs::read_to_string(path).expect("it is text");
        let is_compiled = compiled.contains(&format!("include_str!(\"{name}\")"));
        assert!(blocks(&text).is_empty() || is_compiled, "docs/lib.rs lacks {name}");
        let ignored = text.matches("```rust,ignore").count();
        let of_another = if name.starts_with("migrating") { 2 } else { 0 };
        assert_eq!(ignored, of_another, "{name}");
    }
}

/// As a forge makes a heading's anchor.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_within_the_project_leads_somewhere() {
    let mut seen = 0;
    for path in pages() {
        let text = fs::read_to_string(&path).expect("it is text");
        let targets =
            text.split("](").skip(1).filter_map(|from| from.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, place) =
                target.split_once('#').map_or((target, None), |(file, place)| (file, Some(place)));
            let there = match file {
                "" => path.clone(),
                file => path.parent().expect("it is in a directory").join(file),
            };
            assert!(there.exists(), "{}: {target}", path.display());
            if let Some(place) = place {
                let text = fs::read_to_string(&there).expect("it is text");
                let mut headings =
                    text.lines().filter_map(|line| line.trim_start_matches('#').strip_prefix(' '));
                assert!(headings.any(|heading| anchor(heading) == place), "{}: {target}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn the_book_lists_all_its_pages() {
    let contents = read("docs/README.md");
    for path in pages().iter().filter(|path| path.parent().is_some_and(|dir| dir.ends_with("docs"))) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
        assert!(
            name == "README.md" || contents.contains(&format!("]({name})")),
            "docs/README.md lacks {name}"
        );
    }
}

/// The functions of this program.
fn tests() -> BTreeSet<String> {
    let sources = fs::read_dir(project().join("tests/it")).expect("this program has sources").flatten();
    let texts = sources.map(|entry| fs::read_to_string(entry.path()).expect("it is text"));
    let names = |text: String| {
        let from = text
            .split("\nfn ")
            .skip(1)
            .filter_map(|from| from.split_once('('))
            .map(|(name, _)| name.to_owned());
        from.collect::<Vec<_>>()
    };
    texts.flat_map(names).collect()
}

/// What a page has between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Settings and what others call theirs have fewer underscores, or stand in italics.
fn is_a_test(named: &str) -> bool {
    named.matches('_').count() >= 3 && !named.ends_with("_ms")
}

#[test]
fn every_proof_that_a_page_names_exists() {
    let tests = tests();
    for (name, at_least) in [("docs/guarantees.md", 25), ("docs/compared.md", 100)] {
        let (page, mut proofs) = (read(name), 0);
        for named in quoted(&page) {
            let is_path = named.contains('/') && !named.starts_with('/');
            assert!(!is_path || project().join(named).exists(), "{name} names {named}");
            if is_a_test(named) {
                assert!(tests.contains(named), "{name} names the test {named}");
                proofs += 1;
            }
        }
        assert!(proofs > at_least, "{name}: {proofs}");
    }
}

#[test]
fn every_row_of_the_comparison_names_its_proof_or_has_none() {
    let page = read("docs/compared.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let rows: Vec<Vec<_>> = rows.map(|row| row.trim_matches('|').split(" | ").collect()).collect();
    for row in &rows {
        let [feature, _, _, shown] = row[..] else { panic!("{row:?} has no four columns") };
        let proofs: Vec<_> = quoted(shown).collect();
        let is_proved = !proofs.is_empty() && proofs.iter().all(|proof| is_a_test(proof));
        assert!(is_proved || ["–", "shown by"].contains(&shown.trim()), "{feature}: {shown}");
    }
    assert!(rows.len() > 90, "{}", rows.len());
}
