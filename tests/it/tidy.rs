use std::fs;
use std::path::{Path, PathBuf};

/// Where `unsafe` may appear in the host, beside `ffi/` and `gate/`: each of these says why in its first lines.
const UNSAFE: [&str; 6] =
    ["file/lease.rs", "handle.rs", "options.rs", "peer.rs", "cli/run.rs", "serve/control.rs"];

/// No file is longer than this.
const LINES: usize = 450;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// The Rust sources below a directory, with their texts.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(dir) = directories.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.file_name().unwrap().to_owned();
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found.sort();
    found
}

/// The code of a line, without what stands behind `//`.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Lines of code in which `word` stands, as `path:line`.
fn uses(dir: &Path, word: &str, except: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(dir) {
        if except(&path) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            let words = code(line).split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '!'));
            if words.into_iter().any(|found| found == word) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

#[test]
fn unsafe_code_of_the_host_is_where_it_is_said_to_be() {
    let host = root().join("host/src");
    let may = |path: &Path| {
        let path = path.strip_prefix(&host).unwrap();
        path.starts_with("ffi")
            || path.starts_with("gate")
            || UNSAFE.iter().any(|known| path == Path::new(known))
    };
    none(uses(&host, "unsafe", may));
}

#[test]
fn unsafe_code_is_forbidden_in_the_example_plugin() {
    for file in ["example-plugin/src/lib.rs", "example-plugin/interface/src/lib.rs"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn each_fixture_says_in_its_first_line_what_it_does_wrong() {
    let first = |text: &str| text.lines().next().unwrap_or("").to_owned();
    let silent = sources(&root().join("tests/fixtures"))
        .into_iter()
        .filter(|(_, text)| !first(text).starts_with("//! "));
    none(silent.map(|(path, text)| format!("{}: {}", path.display(), first(&text))).collect());
}

#[test]
fn each_fixture_is_declared_and_used() {
    let manifest = fs::read_to_string(root().join("tests/Cargo.toml")).unwrap();
    let tests: String = sources(&root().join("tests/it")).into_iter().map(|(_, text)| text).collect();
    let mut missing = Vec::new();
    for (path, _) in sources(&root().join("tests/fixtures")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !manifest.contains(&format!("path = \"fixtures/{name}.rs\"")) {
            missing.push(format!("{name} is not in tests/Cargo.toml"));
        }
        if !tests.contains(&format!("\"{name}\"")) {
            missing.push(format!("no test uses {name}"));
        }
    }
    none(missing);
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let mut long = Vec::new();
    for dir in ["host", "plugin-api", "example-plugin", "tests"] {
        for (path, text) in sources(&root().join(dir)) {
            let lines = text.lines().count();
            if lines > LINES {
                long.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    none(long);
}

#[test]
fn nothing_is_left_to_be_done() {
    for dir in ["host", "plugin-api", "example-plugin", "tests"] {
        for word in ["todo!", "unimplemented!", "dbg!"] {
            none(uses(&root().join(dir), word, |path| path.ends_with("it/tidy.rs")));
        }
    }
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    none(uses(&root().join("tests/it"), "sleep", |path| {
        path.ends_with("it/waiting.rs") || path.ends_with("it/tidy.rs")
    }));
}

#[test]
fn each_module_of_this_program_has_its_line_of_purpose() {
    let main = fs::read_to_string(root().join("tests/it/main.rs")).unwrap();
    let lines: Vec<&str> = main.lines().collect();
    let bare =
        (1..lines.len()).filter(|&n| lines[n].starts_with("mod ") && !lines[n - 1].starts_with("/// "));
    none(bare.map(|n| lines[n].to_owned()).collect());
}
