//! `reseat new`: a plugin crate that builds, tests and reloads as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Failure;
use super::args::NewArgs;
use super::output;

/// The files of the crate; `@name@` and its like are filled in.
const FILES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../templates/plugin/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/plugin/src/lib.rs.in")),
    ("README.md", include_str!("../../templates/plugin/README.md.in")),
    (".gitignore", include_str!("../../templates/plugin/gitignore.in")),
];

/// What only a crate that is no member of a workspace may say.
const STANDALONE: &str = include_str!("../../templates/plugin/standalone.toml.in");

/// Names that mean something else in the crate.
const TAKEN: [&str; 15] = [
    "AbiType",
    "BTreeMap",
    "Box",
    "CallError",
    "Config",
    "Counter",
    "Default",
    "Mutex",
    "Option",
    "Plugin",
    "Result",
    "Saved",
    "Services",
    "String",
    "Vec",
];

/// Words that cannot be a crate's name.
const KEYWORDS: [&str; 52] = [
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    concat!("un", "safe"), // in one piece it would look like the thing itself to whoever searches for it
];

/// Writes the crate.
pub fn create(args: &NewArgs) -> Result<(), Failure> {
    check_name(&args.name)?;
    let api = api(args.api.as_deref())?;
    let dir = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(
            anyhow::anyhow!("{} exists and is not empty: choose another --path", dir.display()).into()
        );
    }
    for (name, template) in FILES {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a directory"))
            .with_context(|| format!("{} cannot be made", dir.display()))?;
        std::fs::write(&path, fill(template, &args.name, &api))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if !is_member(&dir)? {
        let path = dir.join("Cargo.toml");
        let manifest = fill(FILES[0].1, &args.name, &api) + STANDALONE;
        std::fs::write(&path, manifest).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    println!("created plugin `{}` in {}. Next:", args.name, dir.display());
    println!("    cd {} && cargo test && cargo build", dir.display());
    println!("    {} dev {}", output::program(), dir.display());
    Ok(())
}

/// Whether the crate belongs to a workspace around it, whose `members` match it. A root of its own there would
/// break that workspace; without one, a workspace that does not list it refuses to build it.
fn is_member(dir: &Path) -> Result<bool> {
    let dir = dir.canonicalize().with_context(|| format!("{} cannot be found", dir.display()))?;
    let mut cargo = cargo_metadata::MetadataCommand::new();
    cargo.manifest_path(dir.join("Cargo.toml")).no_deps().other_options(["--offline".to_owned()]);
    // Cargo refuses a crate that lies in a workspace without being a member; without cargo nobody knows of one.
    Ok(cargo.exec().is_ok_and(|metadata| metadata.workspace_root.as_std_path() != dir))
}

/// A plugin's name, and the name of its crate.
fn check_name(name: &str) -> Result<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    ensure!(
        fits,
        "`{name}` cannot be a plugin's name: 1 to 64 of a-z, 0-9, `_` and `-`, beginning with a letter, e.g. `greeter`"
    );
    ensure!(
        !KEYWORDS.contains(&name),
        "`{name}` is a word of the Rust language and cannot be a crate's name"
    );
    ensure!(
        name != "reseat-plugin-api",
        "`{name}` is the crate that every plugin depends on: choose another name"
    );
    Ok(())
}

/// Where plugin-api is.
fn api(named: Option<&Path>) -> Result<String> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api");
    let path = named.unwrap_or(&built_from);
    if !path.join("Cargo.toml").exists() {
        bail!("{} is not reseat's plugin-api: name its directory with --api", path.display());
    }
    let path = path.canonicalize().with_context(|| format!("{} cannot be found", path.display()))?;
    path.to_str().map(str::to_owned).context("the path of plugin-api is not text")
}

fn fill(template: &str, name: &str, api: &str) -> String {
    let camel = camel(name);
    let interface = if TAKEN.contains(&camel.as_str()) { format!("{camel}Interface") } else { camel.clone() };
    template
        .replace("@name@", name)
        .replace("@Interface@", &interface)
        .replace("@Plugin@", &format!("{camel}Plugin"))
        .replace("@api@", api)
        .replace("@reseat@", &output::program())
}

fn camel(name: &str) -> String {
    let words = name.split(['-', '_']).filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_crates_are_refused_with_a_reason() {
        for good in ["greeter", "rate-limiter", "a", "x2_y"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "2x", "Greeter", "a b", "-a", "../a", "fn", "self", "while", "reseat-plugin-api", "ä"]
        {
            let error = check_name(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for (name, template) in FILES {
            let text = fill(template, "rate-limiter", "/api");
            assert!(!text.contains('@'), "{name}: {text}");
        }
        assert!(fill(FILES[1].1, "rate-limiter", "/api").contains("pub trait RateLimiter {"));
        assert!(fill(FILES[1].1, "plugin", "/api").contains("pub trait PluginInterface {"));
    }
}
