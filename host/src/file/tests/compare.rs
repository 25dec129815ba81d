use proptest::prelude::*;

use crate::file::{Compatibility, InterfaceManifest, MethodManifest, compare};

fn interface(version: &str, methods: &[(u64, &str)]) -> InterfaceManifest {
    let methods = methods.iter().map(|(fingerprint, signature)| MethodManifest {
        name: signature.split('(').next().unwrap_or_default().to_owned(),
        since: "1.0".parse().unwrap(),
        fingerprint: *fingerprint,
        signature: (*signature).to_owned(),
    });
    InterfaceManifest {
        name: "RateLimiter".into(),
        version: version.parse().unwrap(),
        methods: methods.collect(),
    }
}

fn differ(host: &str, plugin: &str) -> String {
    let (host, plugin) = (interface("1.1", &[(1, host)]), interface("1.1", &[(2, plugin)]));
    compare(&host, &plugin, "limiter", "0.4.0").unwrap_err().to_string()
}

fn fits(ours: &InterfaceManifest, theirs: &InterfaceManifest) -> Compatibility {
    compare(ours, theirs, "limiter", "0.4.0").unwrap()
}

#[test]
fn methods_may_be_missing_on_either_side() {
    let (old, new) = (interface("1.0", &[(1, "a()")]), interface("1.1", &[(1, "a()"), (2, "b()")]));
    assert_eq!(fits(&old, &new), Compatibility { shared: 1, missing: vec![] });
    assert_eq!(fits(&new, &old), Compatibility { shared: 1, missing: vec!["b".into()] });
}

#[test]
fn parameter_names_do_not_matter() {
    let (a, b) = (interface("1.0", &[(7, "a(x: u8)")]), interface("1.0", &[(7, "a(y: u8)")]));
    assert_eq!(fits(&a, &b).shared, 1);
}

#[test]
fn a_changed_layout_is_shown_in_three_lines() {
    let host =
        "check(key: &str, cost: u32) -> Decision{allowed:bool@0,tokens_left:u32@4,retry_after_ms:u64@8}#16/8";
    let plugin = "check(key: &str, cost: u32) -> Decision{allowed:bool@0,tokens_left:u64@8,retry_after_ms:u64@16}#24/8";
    let expected = "\
limiter 0.4.0 does not fit interface RateLimiter 1.1: method `check` differs
  host:   … Decision{allowed:bool@0,tokens_left:u32@4,retry_after_ms:u64@8}#16/8
  plugin: … Decision{allowed:bool@0,tokens_left:u64@8,retry_after_ms:u64@16}#24/8";
    assert_eq!(differ(host, plugin), expected);
}

#[test]
fn only_the_part_that_differs_is_shown() {
    let parts = |host: &str, plugin: &str| {
        let text = differ(host, plugin);
        let lines: Vec<_> = text.lines().skip(1).map(|line| line[10..].to_owned()).collect();
        (lines[0].clone(), lines[1].clone())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(parts("f(a: u8, b: u16) -> u8", "f(a: u8, b: u32) -> u8"), pair("… b: u16 …", "… b: u32 …"));
    assert_eq!(parts("f(a: u8) -> u8", "f(a: u8) -> Result<u8>"), pair("… u8", "… Result<u8>"));
    assert_eq!(parts("f(a: u8)", "f(a: u8, b: u8)"), pair("… a: u8 …", "… a: u8, b: u8 …"));
    assert_eq!(
        parts("f(r: R{a:u8@0,b:u32@4,c:u8@8}#12/4) -> u8", "f(r: R{a:u8@0,b:i32@4,c:u8@8}#12/4) -> u8"),
        pair("… b:u32@4 …", "… b:i32@4 …")
    );
    assert_eq!(parts("f()", "f()"), pair("… fingerprint:0000000000000001", "… fingerprint:0000000000000002"));
    assert_eq!(parts("f(ä: u8)", "f(ö: u8)"), pair("… ä: u8 …", "… ö: u8 …"));
}

#[test]
fn every_differing_method_is_named() {
    let host = interface("1.1", &[(1, "a(x: u8)"), (2, "b(x: u8)"), (3, "c()")]);
    let plugin = interface("1.4", &[(9, "a(x: u16)"), (8, "b(x: u16)"), (3, "c()")]);
    let text = compare(&host, &plugin, "limiter", "0.4.0").unwrap_err().to_string();
    assert_eq!(text.lines().count(), 6);
    assert!(text.contains("method `a` differs") && text.contains("method `b` differs"), "{text}");
}

#[test]
fn another_major_version_does_not_fit() {
    let (host, plugin) = (interface("1.1", &[(1, "a()")]), interface("2.0", &[(1, "a()")]));
    let text = compare(&host, &plugin, "limiter", "0.4.0").unwrap_err().to_string();
    assert!(text.starts_with("limiter 0.4.0 does not fit interface RateLimiter 1.1: "), "{text}");
    assert!(text.contains("version 2.0"), "{text}");
}

#[test]
fn a_long_difference_is_found_in_time() {
    let text = |inner: &str| format!("f(a: {}{inner}{})", "(".repeat(50_000), ")".repeat(50_000));
    assert!(!differ(&text("u8"), &text("u16")).is_empty());
}

proptest! {
    #[test]
    fn any_two_texts_can_be_compared(a in "[ab(){}<>,: -]{0,40}", b in "[ab(){}<>,: -]{0,40}", c in "\\PC{0,9}") {
        differ(&format!("f({a}{c}"), &format!("f({b}"));
        differ(&format!("f({a}{c}{b}"), &format!("f({a}{b}"));
    }
}
