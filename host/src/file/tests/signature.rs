use proptest::prelude::*;
use serde_json::json;

use crate::file::{DEPTH_LIMIT, Payload, Signature, SignatureError, Type, example_args, human};

fn parse(text: &str) -> Signature {
    Signature::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

const CHECK: &str =
    "check(key: &str, cost: u32) -> Decision{allowed:bool@0,tokens_left:u32@4,retry_after_ms:u64@8}#16/8";

#[test]
fn a_signature_is_shown_without_layouts() {
    let cases = [
        (CHECK, "check(key: &str, cost: u32) -> Decision"),
        (
            "peek(key: &str) -> Result<Option<Decision{allowed:bool@0}#1/1>>",
            "peek(key: &str) -> Result<Option<Decision>>",
        ),
        ("reset() -> ()", "reset()"),
        ("reset()", "reset()"),
        ("save() -> Result<()>", "save() -> Result<()>"),
        ("each(f: &mut FnMut(u32,&str)) -> (u8,String)", "each(f: &mut FnMut(u32, &str)) -> (u8, String)"),
        (
            "put(a: &[u8], b: [u32;4], c: &Mode|u8{Off=0,On=1}) -> Vec<i64>",
            "put(a: &[u8], b: [u32; 4], c: &Mode) -> Vec<i64>",
        ),
    ];
    for (text, shown) in cases {
        assert_eq!(human(&parse(text)), shown);
    }
}

#[test]
fn enums_keep_their_variants() {
    let signature = parse("set(e: Event|i32{A=0(u8,String),B=-1{f:u64},C=2}) -> u8");
    let Type::Enum { name, variants, .. } = &signature.params[0].1 else { panic!("{signature:?}") };
    assert_eq!((name.as_str(), variants.len(), variants[1].value), ("Event", 3, -1));
    assert!(matches!(&variants[0].payload, Payload::Tuple(items) if items.len() == 2));
    assert!(matches!(&variants[1].payload, Payload::Named(fields) if fields[0].name == "f"));
    assert_eq!(variants[2].payload, Payload::Unit);
}

#[test]
fn an_example_has_every_parameter() {
    let example = example_args(&parse(
        "all(key: &str, name: String, other: String, n: i8, x: f32, b: bool, c: char, u: (), list: &[u16], \
         o: Option<Vec<bool>>, t: (u8,bool), a: [u8;3], r: &Req{id:u64@0,key:char@8}#16/8, m: Mode|u8{Off=0,On=1}, \
         one: Id{0:u64@0}#8/8, two: Pair{0:u64@0,1:u8@8}#16/8, e: E|u8{A=0(u8)}, g: G|u8{B=0{key:String}}, \
         f: &mut FnMut(u8))",
    ));
    let expected = json!({
        "key": "alice", "name": "name", "other": "text", "n": 1, "x": 1.0, "b": true, "c": "a", "u": null,
        "list": [1], "o": [true], "t": [1, true], "a": [1, 1, 1], "r": { "id": 1, "key": "a" }, "m": "Off",
        "one": 1, "two": [1, 1], "e": { "A": 1 }, "g": { "B": { "key": "alice" } }, "f": null,
    });
    assert_eq!(example, expected);
    assert_eq!(example_args(&parse("reset()")), json!({}));
}

#[test]
fn an_example_of_a_huge_array_is_small() {
    let nested = format!("f(a: {}u8{})", "[".repeat(60), ";4000000000]".repeat(60));
    let example = example_args(&parse(&nested)).to_string();
    assert!(example.len() < 20_000, "{}", example.len());
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| format!("f(a: {}u8{})", "Vec<".repeat(depth), ">".repeat(depth));
    parse(&nested(DEPTH_LIMIT - 1));
    assert!(matches!(Signature::parse(&nested(DEPTH_LIMIT)), Err(SignatureError::TooDeep { .. })));
    for open in ["Vec<", "&", "[", "(", "&[", "S{a:", "E|u8{A=0(", "&mut FnMut("] {
        let text = format!("f(a: {}", open.repeat(100_000));
        assert!(Signature::parse(&text).is_err());
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let cases = [
        ("", "at byte 0 of the signature: expected the name of a method"),
        ("f", "expected `(`"),
        ("f(a u8)", "at byte 3 of the signature: expected `:` and a type, found \" u8)\""),
        ("f(a: u8", "expected `,` or the end of the list"),
        ("f(a: dyn)", "expected `{`"),
        ("f() -> u8 x", "expected the end, found \"x\""),
        ("f(a: [u8;x])", "expected a number"),
        ("f(a: E|str{})", "expected the type of a discriminant"),
        ("f(a: E|u8{A=99999999999999999999})", "expected a number"),
        ("f(a: &mut u8)", "expected `FnMut`"),
    ];
    for (text, said) in cases {
        let error = Signature::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text:?}: {error}");
    }
}

fn types() -> impl Strategy<Value = String> {
    let leaf =
        prop::sample::select(vec!["u8", "i64", "usize", "f32", "bool", "char", "()", "&str", "String"]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|t| format!("Vec<{t}>")),
            inner.clone().prop_map(|t| format!("Option<{t}>")),
            inner.clone().prop_map(|t| format!("&[{t}]")),
            inner.clone().prop_map(|t| format!("&{t}")),
            inner.clone().prop_map(|t| format!("[{t};7]")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|t| format!("({})", t.join(","))),
            prop::collection::vec(inner.clone(), 0..3).prop_map(|t| format!("&mut FnMut({})", t.join(","))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("S{{a:{a}@0,b:{b}@8}}#16/8")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("E|u32{{A=0({a}),B=-1{{f:{b}}},C=2}}")),
        ]
    })
}

proptest! {
    #[test]
    fn every_type_is_understood(types in prop::collection::vec(types(), 1..4)) {
        let params = types.iter().enumerate().map(|(n, t)| format!("p{n}: {t}")).collect::<Vec<_>>().join(", ");
        let signature = parse(&format!("method({params}) -> {}", types[0]));
        prop_assert_eq!(signature.params.len(), types.len());
        // What is shown of types without layouts is the same again when it is read and shown.
        let example = example_args(&signature);
        prop_assert_eq!(example.as_object().map(|object| object.len()), Some(types.len()));
        human(&signature);
    }

    #[test]
    fn any_text_gives_an_answer(text in "\\PC{0,60}") {
        let _ = Signature::parse(&text);
    }

    #[test]
    fn any_likely_text_gives_an_answer(text in "f\\(([a-z]: |[&()<>\\[\\]{};:,@#|=/-]|u8|Vec|E|1){0,30}") {
        if let Ok(signature) = Signature::parse(&text) {
            example_args(&signature);
            human(&signature);
        }
    }
}
