use proptest::prelude::*;

use super::sample;
use crate::file::{
    InterfaceManifest, InterfaceVersion, Manifest, ManifestError, MethodManifest, PanicStrategy,
    RequirementManifest, StateVersions, is_plugin_name,
};

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text.as_bytes())
}

#[test]
fn a_manifest_says_what_is_in_it() {
    let manifest = parse(&sample::manifest()).unwrap();
    assert_eq!((manifest.plugin.as_str(), manifest.version.as_str()), ("limiter", "0.4.0"));
    assert_eq!(manifest.boundary, 1);
    let state = manifest.state.unwrap();
    assert_eq!(state, StateVersions { writes: 2, writes_from: 1, reads_from: 1, beside_calls: false });
    assert!(state.reads(1) && state.reads(2) && !state.reads(3) && !state.reads(0));
    assert_eq!(manifest.panic, PanicStrategy::Unwind);
    assert_eq!(manifest.rustc, "1.95.0 (59807616e 2026-04-14)");
    assert_eq!(manifest.features, Vec::<String>::new());
    let method = manifest.interface("RateLimiter").unwrap().method("check").unwrap();
    assert_eq!(method.fingerprint, 0x0123_4567_89ab_cdef);
    assert_eq!(method.since.to_string(), "1.0");
    assert_eq!(method.signature, "check(key: &str) -> bool");
}

#[test]
fn padding_behind_a_manifest_means_nothing() {
    let plain = parse(&sample::manifest()).unwrap();
    for padding in ["\n\n\n", "\0\0", "\n\0\n\0"] {
        assert_eq!(parse(&(sample::manifest() + padding)).unwrap(), plain);
    }
}

#[test]
fn a_line_from_the_future_is_skipped() {
    let future = sample::manifest().replace("features -", "features -\nforesees Clock 2.0\nodd");
    assert_eq!(parse(&future).unwrap(), parse(&sample::manifest()).unwrap());
}

#[test]
fn a_manifest_as_json_keeps_its_fingerprints_exact() {
    let json = serde_json::to_value(parse(&sample::manifest()).unwrap()).unwrap();
    assert_eq!(json["interfaces"][0]["methods"][0]["fingerprint"], "0123456789abcdef");
    assert_eq!(json["panic"], "unwind");
}

/// Each change to the good manifest, and a part of what is said about it.
#[test]
fn what_is_wrong_is_said_by_name() {
    let cases = [
        ("reseat-manifest 1", "reseat-manifest 2", "has version 2, this host reads version 1"),
        ("reseat-manifest 1", "hotplug 1", "begins with \"hotplug 1\""),
        (
            "plugin limiter 0.4.0",
            "plugin ../etc 0.4.0",
            "line 2 of the manifest: `plugin` is \"../etc 0.4.0\"",
        ),
        ("plugin limiter 0.4.0", "plugin Limiter 0.4.0", "`plugin`"),
        ("plugin limiter 0.4.0", "plugin limiter", "and a version"),
        ("plugin limiter 0.4.0\n", "", "no `plugin` line"),
        ("boundary 1", "boundary one", "`boundary` is \"one\", expected a number"),
        ("boundary 1", "boundary +1", "`boundary`"),
        ("boundary 1", "boundary 4294967296", "`boundary`"),
        ("boundary 1", "boundary 1\nboundary 1", "line 4 of the manifest gives `boundary` a second time"),
        ("writes 1..=2 reads 1..=2", "writes 1..=2 reads 3..=2", "`state`"),
        ("writes 1..=2 reads 1..=2", "writes 3..=2 reads 1..=2", "`state`"),
        ("writes 1..=2 reads 1..=2", "writes 1..=2 reads 1..=3", "`state`"),
        ("writes 1..=2 reads 1..=2", "writes 1..=2 reads 1..=2 aside", "`state`"),
        ("state writes 1..=2 reads 1..=2\n", "", "no `state` line"),
        ("panic unwind", "panic immediate-abort", "expected `unwind` or `abort`"),
        ("features -", "features a,,b", "`features`"),
        ("interface RateLimiter 1.1", "interface RateLimiter 1", "`interface`"),
        ("interface RateLimiter 1.1", "", "a method without an interface"),
        (
            "interface RateLimiter 1.1",
            "interface RateLimiter 1.1\ninterface RateLimiter 2.0",
            "interface RateLimiter",
        ),
        ("method 0123456789abcdef", "method 123", "`method`"),
        ("method 0123456789abcdef", "method +123456789abcdef", "`method`"),
        ("1.0 check(key", "1.0 (key", "`method`"),
        ("1.0 check(key", "1.x check(key", "`method`"),
        (
            "profile release",
            "profile \u{1b}[31mrelease",
            "line 7 of the manifest contains the control character U+001B",
        ),
    ];
    for (before, after, said) in cases {
        let text = sample::manifest().replace(before, after);
        let error = parse(&text).expect_err(after).to_string();
        assert!(error.contains(said), "{after:?}: {error}");
    }
}

#[test]
fn a_method_twice_is_refused() {
    let method = "method 0123456789abcdef 1.0 check(key: &str) -> bool\n";
    let error = parse(&(sample::manifest() + method)).unwrap_err();
    assert_eq!(error.to_string(), "line 12 of the manifest gives method check of RateLimiter a second time");
}

#[test]
fn bytes_that_are_no_manifest_are_refused() {
    assert!(matches!(Manifest::parse(b""), Err(ManifestError::NotAManifest { .. })));
    assert_eq!(Manifest::parse(b"reseat-\xff"), Err(ManifestError::NotText { at: 7 }));
    let long = vec![b'x'; 1 << 20];
    assert!(matches!(Manifest::parse(&long), Err(ManifestError::TooLong { .. })));
}

#[test]
fn plugin_names_are_safe_everywhere() {
    for good in ["a", "0", "limiter", "rate-limiter_2", &"x".repeat(64)] {
        assert!(is_plugin_name(good), "{good}");
    }
    for bad in ["", "-a", "_a", "A", "a.b", "a/b", "..", "ä", "a b", &"x".repeat(65)] {
        assert!(!is_plugin_name(bad), "{bad}");
    }
}

/// The text of a manifest, as plugin-api writes it.
fn text(manifest: &Manifest) -> String {
    let state = match manifest.state {
        None => "none".into(),
        Some(StateVersions { writes, writes_from, reads_from, beside_calls }) => {
            let beside_calls = if beside_calls { " beside calls" } else { "" };
            format!("writes {writes_from}..={writes} reads {reads_from}..={writes}{beside_calls}")
        }
    };
    let panic = if manifest.panic == PanicStrategy::Abort { "abort" } else { "unwind" };
    let features = if manifest.features.is_empty() { "-".into() } else { manifest.features.join(",") };
    let mut text = format!(
        "reseat-manifest 1\nplugin {} {}\nboundary {}\nstate {state}\ntarget {}\npanic {panic}\nprofile {}\nrustc {}\n\
         features {features}\n",
        manifest.plugin,
        manifest.version,
        manifest.boundary,
        manifest.target,
        manifest.profile,
        manifest.rustc
    );
    let mut add = |word: &str, each: &str, interface: &InterfaceManifest| {
        text += &format!("{word} {} {}\n", interface.name, interface.version);
        for MethodManifest { fingerprint, since, signature, .. } in &interface.methods {
            text += &format!("{each} {fingerprint:016x} {since} {signature}\n");
        }
    };
    manifest.interfaces.iter().for_each(|interface| add("interface", "method", interface));
    for RequirementManifest { interface, optional } in &manifest.requires {
        add(if *optional { "optional" } else { "requires" }, "uses", interface);
    }
    text
}

fn manifests() -> impl Strategy<Value = Manifest> {
    let version =
        || (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| InterfaceVersion { major, minor });
    let method = ("[a-z_][a-z0-9_]{0,8}", version(), any::<u64>(), "[ -~]{0,40}").prop_map(
        |(name, since, fingerprint, rest)| {
            let signature = format!("{name}({rest}");
            MethodManifest { name, since, fingerprint, signature }
        },
    );
    let methods = prop::collection::btree_map("[a-z_][a-z0-9_]{0,8}", method, 0..4);
    let methods = methods.prop_map(|methods| {
        let renamed = methods.into_iter().map(|(name, method)| {
            let signature = method.signature.replacen(&method.name, &name, 1);
            MethodManifest { name, signature, ..method }
        });
        renamed.collect::<Vec<_>>()
    });
    let interfaces = prop::collection::btree_map("[A-Z][A-Za-z0-9]{0,12}", (version(), methods), 0..4);
    let interfaces = interfaces.prop_map(|interfaces| {
        let named = interfaces.into_iter();
        let named = named.map(|(name, (version, methods))| InterfaceManifest { name, version, methods });
        named.collect::<Vec<_>>()
    });
    let requires = prop::collection::vec(any::<bool>(), 0..4);
    let requires = (interfaces.clone(), requires).prop_map(|(interfaces, optional)| {
        let each = interfaces.into_iter().zip(optional);
        each.map(|(interface, optional)| RequirementManifest { interface, optional }).collect()
    });
    let interfaces = (interfaces, requires);
    let state =
        prop::option::of((any::<[u32; 3]>(), any::<bool>()).prop_map(|(mut versions, beside_calls)| {
            versions.sort_unstable();
            let [reads_from, writes_from, writes] = versions;
            StateVersions { writes, writes_from, reads_from, beside_calls }
        }));
    let head = ("[a-z0-9][a-z0-9_-]{0,63}", "[0-9.a-z+-]{1,20}", any::<u32>(), state, "[a-z0-9_-]{1,30}");
    let tail = (any::<bool>(), "[a-z]{1,10}", "[0-9a-z.()-]{1,10}( [0-9a-z().-]{1,9}){0,2}");
    let features = prop::collection::vec("[a-z][a-z0-9/_-]{0,9}", 0..4);
    (head, tail, features, interfaces).prop_map(|(head, tail, features, interfaces)| Manifest {
        plugin: head.0,
        version: head.1,
        boundary: head.2,
        state: head.3,
        target: head.4,
        panic: if tail.0 { PanicStrategy::Unwind } else { PanicStrategy::Abort },
        profile: tail.1,
        rustc: tail.2,
        features,
        interfaces: interfaces.0,
        requires: interfaces.1,
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(manifest in manifests()) {
        prop_assert_eq!(parse(&text(&manifest)), Ok(manifest));
    }

    #[test]
    fn garbage_gives_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }

    #[test]
    fn a_damaged_manifest_gives_an_answer(manifest in manifests(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = text(&manifest).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Err(error) = Manifest::parse(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
        let _ = Manifest::parse(&bytes[..at]);
    }
}
