//! `reseat new`: a plugin crate that builds, tests and reloads as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Failure;
use super::args::{NewArgs, Template};
use super::output;

/// The manifest; `@name@` and its like are filled in.
const MANIFEST: &str = include_str!("../../templates/Cargo.toml.in");

/// What only a crate that is no member of a workspace may say.
const STANDALONE: &str = include_str!("../../templates/standalone.toml.in");

const IGNORED: &str = include_str!("../../templates/gitignore.in");

const STATEFUL: [(&str, &str); 2] = [
    ("src/lib.rs", include_str!("../../templates/stateful/src/lib.rs.in")),
    ("README.md", include_str!("../../templates/stateful/README.md.in")),
];

const STATELESS: [(&str, &str); 2] = [
    ("src/lib.rs", include_str!("../../templates/stateless/src/lib.rs.in")),
    ("README.md", include_str!("../../templates/stateless/README.md.in")),
];

const OWN_INTERFACE: [(&str, &str); 4] = [
    ("src/lib.rs", include_str!("../../templates/own-interface/src/lib.rs.in")),
    ("README.md", include_str!("../../templates/own-interface/README.md.in")),
    ("interface/Cargo.toml", include_str!("../../templates/own-interface/interface/Cargo.toml.in")),
    ("interface/src/lib.rs", include_str!("../../templates/own-interface/interface/src/lib.rs.in")),
];

/// What a plugin depends on.
const API: &str = "reseat-plugin-api = { path = \"@api@\" }\n";
const SERDE: &str = "serde = { version = \"1\", features = [\"derive\"] }\n";
const INTERFACE: &str = "@name@-interface = { path = \"interface\" }\n";

impl Template {
    /// The files beside the manifest.
    fn files(self) -> Vec<(&'static str, &'static str)> {
        let own: &[_] = match self {
            Template::Stateful => &STATEFUL,
            Template::Stateless => &STATELESS,
            Template::OwnInterface => &OWN_INTERFACE,
        };
        [&[(".gitignore", IGNORED)], own].concat()
    }

    fn manifest(self) -> String {
        let dependencies = match self {
            Template::Stateful => [API, SERDE].concat(),
            Template::Stateless => API.to_owned(),
            Template::OwnInterface => [INTERFACE, API].concat(),
        };
        MANIFEST.replace("@dependencies@", &dependencies)
    }
}

/// Names that mean something else in the crate.
const TAKEN: [&str; 17] = [
    "AbiType",
    "BTreeMap",
    "Box",
    "CallError",
    "Config",
    "Counter",
    "Default",
    "Greeting",
    "Instance",
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
    let manifest = args.template.manifest();
    for (name, template) in [("Cargo.toml", manifest.as_str())].into_iter().chain(args.template.files()) {
        write(&dir.join(name), &fill(template, &args.name, &api))?;
    }
    if !is_member(&dir)? {
        write(&dir.join("Cargo.toml"), &(fill(&manifest, &args.name, &api) + STANDALONE))?;
    }
    println!("created plugin `{}` in {}. Next:", args.name, dir.display());
    println!("    cd {} && cargo test && cargo build", dir.display());
    println!("    {} dev .", output::program());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().expect("a file has a directory");
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
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
        .replace("@name_@", &name.replace('-', "_"))
        .replace("@Interface@", &interface)
        .replace("@Plugin@", &format!("{camel}Plugin"))
        .replace("@host@", &beside(api))
        .replace("@api@", api)
        .replace("@reseat@", &output::program())
}

/// Where reseat itself is: beside plugin-api.
fn beside(api: &str) -> String {
    Path::new(api).with_file_name("host").display().to_string()
}

fn camel(name: &str) -> String {
    let words = name.split(['-', '_']).filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]).collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

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
        for &template in Template::value_variants() {
            let manifest = template.manifest();
            let files = [("Cargo.toml", manifest.as_str())].into_iter().chain(template.files());
            for (name, text) in files {
                let text = fill(text, "rate-limiter", "/reseat/plugin-api");
                assert!(!text.contains('@'), "{template:?}: {name}: {text}");
            }
        }
    }

    #[test]
    fn each_template_forbids_what_a_plugin_does_not_need_and_has_a_test() {
        for &template in Template::value_variants() {
            let files = template.files();
            let sources = files.iter().filter(|(name, _)| name.ends_with(".rs"));
            assert!(
                sources.clone().all(|(_, text)| text.contains("#![forbid(unsafe_code)]")),
                "{template:?}"
            );
            assert_eq!(sources.filter(|(_, text)| text.contains("#[test]")).count(), 1, "{template:?}");
        }
    }

    #[test]
    fn names_are_those_of_a_crate_of_its_interface_and_of_what_hosts_depend_on() {
        let filled = |text: &str, name: &str| fill(text, name, "/reseat/plugin-api");
        assert!(filled(STATEFUL[0].1, "rate-limiter").contains("pub trait RateLimiter {"));
        assert!(filled(STATEFUL[0].1, "plugin").contains("pub trait PluginInterface {"));
        let [(_, source), (_, readme), ..] = OWN_INTERFACE;
        assert!(
            filled(source, "rate-limiter").contains("use rate_limiter_interface::{RateLimiter, Greeting};")
        );
        assert!(filled(readme, "rate-limiter").contains("reseat = { path = \"/reseat/host\" }"));
        let manifest = filled(&Template::OwnInterface.manifest(), "rate-limiter");
        assert!(manifest.contains("rate-limiter-interface = { path = \"interface\" }"), "{manifest}");
    }
}
