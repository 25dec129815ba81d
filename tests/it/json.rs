use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::cli::{ask, ok, path};
use crate::library::Build;
use crate::program::{Running, reseat};
use crate::waiting::{DEADLINE, until};
use crate::workshop::project;

fn read(name: &str) -> String {
    fs::read_to_string(project().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The part of `docs/json.md` below a heading that begins like this.
fn section(heading: &str) -> String {
    let text = read("docs/json.md");
    let (_, from) = text.split_once(&format!("\n## `{heading}")).unwrap_or_else(|| panic!("no {heading}"));
    from.split("\n## ").next().expect("split gives one").to_owned()
}

/// The cells of a row of a table, without their backquotes.
fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect()
}

/// What a table says of one thing: its fields with their types.
#[derive(Debug, Default)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Of the tables with three columns in a section.
    pub fn of(heading: &str) -> Fields {
        let rows =
            section(heading).lines().filter(|line| line.starts_with("| `")).map(cells).collect::<Vec<_>>();
        Fields(
            rows.into_iter()
                .filter(|row| row.len() == 3)
                .map(|row| (row[0].clone(), row[1].clone()))
                .collect(),
        )
    }

    /// All that a value has is here, with its type. What has been seen of it is noted.
    #[track_caller]
    pub fn describe(&self, value: &Value, seen: &mut BTreeSet<String>) {
        self.walk("", value, seen);
    }

    #[track_caller]
    fn walk(&self, at: &str, value: &Value, seen: &mut BTreeSet<String>) {
        if !at.is_empty() {
            let types =
                self.0.get(at).unwrap_or_else(|| panic!("docs/json.md does not know `{at}`: {value}"));
            seen.insert(at.to_owned());
            if types == "any" {
                return;
            }
            assert!(allows(types, value), "docs/json.md says that `{at}` is {types}, and it is {value}");
        }
        match value {
            Value::Object(fields) => {
                let dot = if at.is_empty() { "" } else { "." };
                fields.iter().for_each(|(name, value)| self.walk(&format!("{at}{dot}{name}"), value, seen));
            }
            Value::Array(items) => items.iter().for_each(|item| self.walk(&format!("{at}[]"), item, seen)),
            _ => {}
        }
    }

    /// Except for what only a host has that builds.
    #[track_caller]
    fn are_all_in(&self, seen: &BTreeSet<String>) {
        let may_lack = |field: &String| field.starts_with("failed_builds[]") || seen.contains(field);
        let missing: Vec<_> = self.0.keys().filter(|field| !may_lack(field)).collect();
        assert!(missing.is_empty(), "docs/json.md has {missing:?}, which nothing has");
    }
}

/// `string or null`, and the like.
fn allows(types: &str, value: &Value) -> bool {
    types.split(" or ").any(|kind| match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => panic!("docs/json.md has a type `{kind}`"),
    })
}

/// By the word that tells several kinds of objects apart: the fields of each, from tables with four columns.
fn kinds(heading: &str) -> BTreeMap<String, Fields> {
    let mut kinds = BTreeMap::<String, Fields>::new();
    for row in section(heading).lines().filter(|line| line.starts_with("| `")).map(cells) {
        if let [kind, field, types, _] = &row[..] {
            kinds.entry(kind.clone()).or_default().0.insert(field.clone(), types.clone());
        }
    }
    kinds
}

/// Each of these objects has the fields of its kind, and no other but those that all have.
#[track_caller]
fn check_kinds(heading: &str, tag: &str, values: &[Value]) {
    let (kinds, common) = (kinds(heading), Fields::of(heading));
    for value in values {
        let kind = value[tag].as_str().unwrap_or_else(|| panic!("no {tag}: {value}"));
        let known =
            kinds.get(kind).unwrap_or_else(|| panic!("docs/json.md does not know {tag} `{kind}`: {value}"));
        let object = value.as_object().expect("it has a tag");
        for (name, value) in object.iter().filter(|(name, _)| *name != tag && !common.0.contains_key(*name)) {
            let types =
                known.0.get(name).unwrap_or_else(|| panic!("docs/json.md: {kind} has no `{name}`: {value}"));
            assert!(
                allows(types, value),
                "docs/json.md says that `{name}` of {kind} is {types}, and it is {value}"
            );
        }
        let missing: Vec<_> = known.0.keys().filter(|name| !object.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{kind} lacks {missing:?}: {value}");
    }
}

/// The fields of an enum's variants as the source declares them, with the types that they have in JSON.
fn declared(file: &str, name: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let source = read(file);
    let (_, from) = source.split_once(&format!("pub enum {name} {{\n")).expect("it is declared there");
    let (body, _) = from.split_once("\n}\n").expect("it ends");
    let mut variants = BTreeMap::<String, BTreeMap<String, String>>::new();
    let mut variant = String::new();
    for line in body.lines().map(str::trim).filter(|line| !line.starts_with("///")) {
        if let Some(name) = line.strip_suffix(" {") {
            variant = kebab(name);
            variants.entry(variant.clone()).or_default();
        } else if let Some((field, of)) = line.trim_end_matches(',').split_once(": ") {
            variants.get_mut(&variant).expect("a field is in a variant").insert(field.into(), in_json(of));
        }
    }
    variants
}

/// The fields of a struct, likewise.
fn fields_of(file: &str, name: &str) -> BTreeMap<String, String> {
    let source = read(file);
    let (_, from) = source.split_once(&format!("pub struct {name} {{\n")).expect("it is declared there");
    let (body, _) = from.split_once("\n}\n").expect("it ends");
    let fields = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub ")?.trim_end_matches(',').split_once(": "));
    fields.map(|(field, of)| (field.to_owned(), in_json(of))).collect()
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn in_json(of: &str) -> String {
    if let Some(inner) = of.strip_prefix("Option<").and_then(|of| of.strip_suffix('>')) {
        return in_json(inner) + " or null";
    }
    match of {
        "String" | "&'static str" | "PathBuf" | "Step" | "RolledBackState" => "string".into(),
        "u64" | "u32" | "usize" | "u8" => "integer".into(),
        "f64" => "number".into(),
        "bool" => "boolean".into(),
        "Phase" => "string".into(),
        "UnderWay" | "Holders" | "WaitingCallers" | "WaitingBuild" | "Left" => "object".into(),
        of if of.starts_with("Vec<") => "array".into(),
        of => panic!("what is {of} in JSON?"),
    }
}

/// The examples of a section.
fn examples(heading: &str) -> Vec<Value> {
    let text = section(heading);
    let blocks =
        text.split("```json\n").skip(1).map(|from| from.split("```").next().expect("split gives one"));
    blocks
        .map(|block| serde_json::from_str(block).unwrap_or_else(|e| panic!("{heading}: {e}: {block}")))
        .collect()
}

#[test]
fn every_kind_of_event_and_outcome_is_documented_with_its_fields() {
    for (heading, file, name) in [
        ("reseat events", "host/src/events.rs", "Event"),
        ("reseat reload", "host/src/outcome.rs", "Outcome"),
    ] {
        let documented: BTreeMap<_, _> =
            kinds(heading).into_iter().map(|(kind, Fields(of))| (kind, of)).collect();
        assert_eq!(documented, declared(file, name), "docs/json.md, and {file}");
    }
}

#[test]
fn what_only_a_host_has_that_builds_is_documented_as_it_is_declared() {
    let Fields(all) = Fields::of("reseat ps");
    let inside =
        all.into_iter().filter_map(|(at, of)| Some((at.strip_prefix("failed_builds[].")?.to_owned(), of)));
    assert_eq!(inside.collect::<BTreeMap<_, _>>(), fields_of("host/src/builds.rs", "FailedBuild"));
}

#[test]
fn all_that_is_said_of_who_waits_for_whom_is_documented_as_it_is_declared() {
    let Fields(all) = Fields::of("reseat why");
    let mut declared = BTreeMap::new();
    for (name, at) in [
        ("Why", ""),
        ("UnderWay", "under_way."),
        ("Holders", "under_way.holders."),
        ("Holder", "under_way.holders.threads[]."),
        ("WaitingCallers", "callers."),
        ("WaitingBuild", "build."),
        ("Missing", "missing[]."),
        ("OldGeneration", "old[]."),
        ("Holders", "old[].holders."),
        ("Holder", "old[].holders.threads[]."),
    ] {
        let fields = fields_of("host/src/why.rs", name).into_iter();
        declared.extend(fields.map(|(field, of)| (format!("{at}{field}"), of)));
    }
    let documented = all.into_iter().filter(|(at, _)| !at.ends_with("[]"));
    assert_eq!(documented.collect::<BTreeMap<_, _>>(), declared);
}

#[test]
fn the_examples_have_what_the_tables_say() {
    for heading in
        ["reseat ps", "reseat why", "reseat check", "reseat registrations", "reseat state", "reseat deny"]
    {
        let (fields, mut seen) = (Fields::of(heading), BTreeSet::new());
        let examples = examples(heading);
        assert!(!examples.is_empty(), "{heading}");
        examples.iter().for_each(|example| fields.describe(example, &mut seen));
    }
    check_kinds("reseat events", "event", &examples("reseat events"));
    check_kinds("reseat reload", "outcome", &examples("reseat reload"));
    Fields::of("reseat call").describe(&examples("reseat call")[1], &mut BTreeSet::new());
}

/// A host in which as much as possible has happened.
struct Eventful {
    dir: tempfile::TempDir,
    running: Running,
}

impl Eventful {
    fn begin() -> Eventful {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(dir.path().join("plugins")).expect("it can be written");
        put(&dir, "counter_v2", "plugins/libcounter.so");
        put(&dir, "stray_thread", "plugins/libstray.so");
        put(&dir, "counters_and_log", "plugins/libcounts.so");
        put(&dir, "registers_v1", "plugins/libgreeter.so");
        let settings = dir.path().join("reseat.toml");
        fs::write(&settings, "probation_period_ms = 1\nprobation_calls = 1\n").expect("it can be written");
        let running = Running::start(&dir.path().join("plugins"), &dir.path().join("state"), Some(&settings));
        Eventful { dir, running }
    }

    fn ok(&self, args: &[&str]) -> String {
        ok(&ask(&self.dir.path().join("state"), args))
    }

    fn json(&self, args: &[&str]) -> Value {
        let said = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"))
    }

    /// What asks no host.
    fn run(&self, args: &[&str]) {
        ok(&reseat().args(args).output().expect("the program can be started"));
    }

    fn events(&self) -> Vec<Value> {
        let said = self.ok(&["events", "--json"]);
        said.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }

    fn has_happened(&self, event: &str) -> bool {
        self.events().iter().any(|one| one["event"] == event)
    }
}

fn put(dir: &tempfile::TempDir, fixture: &str, name: &str) {
    let shelved = dir.path().join("shelved");
    fs::write(&shelved, Build::of(fixture).bytes()).expect("it can be written");
    fs::rename(&shelved, dir.path().join(name)).expect("one file system");
}

#[test]
fn what_a_host_prints_as_json_is_what_is_documented() {
    let host = Eventful::begin();
    let stray = host.json(&["ps"])["plugins"][3]["name"].as_str().expect("there are four").to_owned();
    let mut seen = BTreeSet::new();
    let go = host.dir.path().join("go");
    host.ok(&["call", &stray, "call", &format!(r#"{{"what":"{}"}}"#, path(&go))]);
    let outcomes = [
        host.json(&["reload", "counter", "--dry-run"]),
        host.json(&["reload", "counter", "--leak-old"]),
        host.json(&["reload", &stray]),
    ];
    check_kinds("reseat reload", "outcome", &outcomes);
    host.ok(&["call", "counter", "add", r#"{"n":5}"#]);
    assert!(until(DEADLINE, || host.has_happened("leaked") && host.has_happened("lingering")));

    put(&host.dir, "counter_goes_back", "plugins/libcounter.so");
    assert!(until(DEADLINE, || host.has_happened("proved")), "{:?}", host.events());
    check_kinds("reseat reload", "outcome", &[host.json(&["rollback", "counter"])]);
    host.ok(&["state", "counter", "--keep"]);
    put(&host.dir, "counter_changed_signature", "plugins/libcounter.so");
    assert!(until(DEADLINE, || host.has_happened("refused")), "{:?}", host.events());

    let check = |heading: &str, value: Value, seen: &mut BTreeSet<String>| {
        let fields = Fields::of(heading);
        fields.describe(&value, seen);
        fields.are_all_in(seen);
        seen.clear();
    };
    check("reseat ps", host.json(&["ps"]), &mut seen);
    let over_http: Value =
        serde_json::from_str(&host.running.get("/plugins", &[]).expect("it answers")).expect("it is JSON");
    check("reseat ps", over_http, &mut seen);
    check("reseat deny", host.json(&["deny"]), &mut seen);
    check("reseat registrations", host.json(&["registrations"]), &mut seen);
    put(&host.dir, "registers_v2", "plugins/libgreeter.so");
    assert!(until(DEADLINE, || host.has_happened("registrations")), "{:?}", host.events());
    check("reseat state", host.json(&["state", "counter", "--history"]), &mut seen);
    host.ok(&["unload", "counter"]);
    fs::remove_file(host.dir.path().join("plugins/libstray.so")).expect("it is there");
    assert!(until(DEADLINE, || host.has_happened("file-gone")), "{:?}", host.events());
    for of in ["loaded", "reloaded", "proved", "leaked", "lingering", "rolled-back", "refused", "removed"] {
        assert!(host.has_happened(of), "{of}: {:?}", host.events());
    }
    check_kinds("reseat events", "event", &host.events());

    let (key, shown) = (host.dir.path().join("some.key"), host.dir.path().join("elsewhere.so"));
    host.run(&["sign", "--no-password", "--new-key", path(&key)]);
    put(&host.dir, "counter_v2", "elsewhere.so");
    host.run(&["sign", path(&shown), "--key", path(&key)]);
    Fields::of("reseat check").describe(&host.json(&["check", path(&shown)]), &mut seen);
    // Without a state, and with one.
    for name in ["stray_thread", "canary_constructor", "counter_v2", "uses_mimalloc"] {
        put(&host.dir, name, "elsewhere.so");
        let value = host.json(&["check", path(&shown)]);
        Fields::of("reseat check").describe(&value, &mut seen);
    }
    Fields::of("reseat check").are_all_in(&seen);
    let failure = host.running.post("/call/counter/none", &serde_json::json!({})).expect_err("there is none");
    let (_, body) = failure.split_once(": ").expect("status and body");
    check("reseat call", serde_json::from_str(body).expect("it is JSON"), &mut BTreeSet::new());
    // The thread ends, and with it what keeps its generation.
    fs::write(go, "").expect("it can be written");
    assert!(host.running.interrupt().success());
}
