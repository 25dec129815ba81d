//! What the documentation says of this program: its command lines, and its settings.

use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use super::args::Cli;
use super::settings::{Settings, TEMPLATE};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the host is in the project").to_owned()
}

/// The pages for readers, with their names.
fn pages() -> Vec<(String, String)> {
    let book = std::fs::read_dir(project().join("docs")).expect("there is a book").flatten();
    let mut paths: Vec<_> = book.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.extend(["README.md", "example-plugin/README.md"].map(|name| project().join(name)));
    assert!(paths.len() > 5, "{paths:?}");
    let read =
        |path: PathBuf| (path.display().to_string(), std::fs::read_to_string(&path).expect("it is text"));
    paths.into_iter().map(read).collect()
}

/// The blocks of a page in one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let starts = page.split(fence.as_str()).skip(1);
    starts.map(|from| from.split("```").next().expect("split gives one")).collect()
}

/// The words of a shell's line, up to where another command begins.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in line.chars() {
        match (quote, letter) {
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), _) if letter == open => quote = None,
            (None, '|' | '>' | '&' | ';' | '#') => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The arguments of this program, if the line calls it.
fn call(line: &str) -> Option<Vec<String>> {
    let by_cargo = line.strip_prefix("cargo run --release -- ").map(|rest| format!("reseat {rest}"));
    let line = by_cargo.as_deref().unwrap_or(line);
    line.starts_with("reseat ").then(|| words(line))
}

#[test]
fn every_command_line_that_is_shown_is_understood() {
    let mut seen = 0;
    for (name, page) in pages() {
        for line in blocks(&page, "sh").iter().flat_map(|block| block.lines()) {
            let Some(words) = call(line.trim()) else { continue };
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {line}: {error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn what_is_named_in_a_sentence_exists() {
    let mut seen = 0;
    for (name, page) in pages() {
        // Outside of blocks, what stands between single backquotes.
        let prose: String = page.split("```").step_by(2).collect();
        for span in prose.split('`').skip(1).step_by(2).filter(|span| span.starts_with("reseat ")) {
            match Cli::try_parse_from(words(span)).map_err(|error| error.kind()) {
                // A command without what it is about.
                Ok(_) | Err(ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelp) => seen += 1,
                Err(kind) => panic!("{name}: `{span}`: {kind}"),
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn settings_that_are_shown_are_understood() {
    let mut seen = 0;
    for (name, page) in pages() {
        for text in blocks(&page, "toml") {
            let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{name}: {e}: {text}"));
            // What cargo and bacon read is shown, too.
            if ["dependencies", "package", "jobs"].iter().any(|key| table.contains_key(*key)) {
                continue;
            }
            Settings::parse(text).unwrap_or_else(|e| panic!("{name}: {e:#}: {text}"));
            seen += 1;
        }
    }
    assert!(seen > 2, "{seen}");
}

#[test]
fn the_table_of_settings_has_every_key_with_its_default() {
    let page = std::fs::read_to_string(project().join("docs/operating.md")).unwrap();
    let (_, section) = page.split_once("\n## Settings\n").expect("there is a section");
    let section = section.split("\n## ").next().expect("split gives one");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let shown: Vec<String> = rows
        .map(|row| {
            let mut cells = row.split(" | ").map(|cell| cell.trim().replace('`', ""));
            let (key, value) = (cells.next().expect("a key"), cells.next().expect("a default"));
            format!("{key} = {value}")
        })
        .collect();
    let top = TEMPLATE.split("\n#[plugins.").next().expect("split gives one");
    let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    for line in top.lines().filter(is_key) {
        assert!(shown.contains(&line.to_owned()), "docs/operating.md lacks {line}");
    }
    let unset = top.lines().filter_map(|line| line.strip_prefix('#')).filter(is_key);
    let unset: Vec<_> = unset.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
    for key in &unset {
        assert!(shown.contains(&format!("{key} = not set")), "docs/operating.md lacks {key}");
    }
    assert_eq!(shown.len(), top.lines().filter(is_key).count() + unset.len(), "{shown:?}");
}
