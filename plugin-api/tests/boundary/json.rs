use std::sync::atomic::{AtomicU32, Ordering};

use plugin_api::prelude::*;
use serde_json::{Value, json};

use crate::in_process::Loaded;
use crate::kinds::Signal;

#[plugin_api::interface(version = "1.0")]
pub trait Spoken {
    fn check(&self, key: &str, cost: u32) -> Answer;
    fn lent(&self, bytes: &[u8], point: &Point, points: &[Point]) -> i64;
    fn optional(&self, a: Option<u32>, b: Option<String>) -> String;
    fn nothing(&self);
    fn fallible(&self, signal: Signal) -> Result<Vec<(u8, bool)>>;
    fn keyword(&self, r#type: String) -> String;
    fn panics(&self) -> u32;
    fn opaque(&self, cost: u32, opaque: Opaque);
    fn opaque_result(&self, cost: u32) -> Result<Opaque>;
    fn callback(&self, f: &mut dyn FnMut(u32));
    fn unwritable(&self) -> Unwritable;
    fn runs(&self) -> u32;
}

#[derive(AbiType, Serialize)]
pub struct Answer {
    allowed: bool,
    key: String,
}

#[derive(AbiType, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
#[repr(C)]
pub struct Point {
    x: i32,
    y: i32,
}

/// Crosses, but has no serde.
#[derive(AbiType)]
pub struct Opaque(u32);

/// Has serde, but refuses.
#[derive(AbiType)]
pub struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

#[derive(Default)]
struct Speaker(AtomicU32);

impl Plugin for Speaker {
    fn create(_: &Services) -> Result<Self> {
        Ok(Speaker::default())
    }
}

impl Speaker {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Spoken for Speaker {
    fn check(&self, key: &str, cost: u32) -> Answer {
        self.count();
        Answer { allowed: cost < 10, key: key.into() }
    }
    fn lent(&self, bytes: &[u8], point: &Point, points: &[Point]) -> i64 {
        bytes.iter().map(|byte| i64::from(*byte)).sum::<i64>()
            + points.iter().chain([point]).map(|point| i64::from(point.x * point.y)).sum::<i64>()
    }
    fn optional(&self, a: Option<u32>, b: Option<String>) -> String {
        format!("{a:?} {b:?}")
    }
    fn nothing(&self) {}
    fn fallible(&self, signal: Signal) -> Result<Vec<(u8, bool)>> {
        ensure!(signal == Signal::Go, anyhow!("it is {signal:?}").context("not yet"));
        Ok(vec![(1, true)])
    }
    fn keyword(&self, r#type: String) -> String {
        r#type
    }
    fn panics(&self) -> u32 {
        panic!("said by a panic")
    }
    fn opaque(&self, _: u32, opaque: Opaque) {
        self.count();
        assert_ne!(opaque.0, 0);
    }
    fn opaque_result(&self, cost: u32) -> Result<Opaque> {
        self.count();
        Ok(Opaque(cost))
    }
    fn callback(&self, f: &mut dyn FnMut(u32)) {
        self.count();
        f(1);
    }
    fn unwritable(&self) -> Unwritable {
        Unwritable
    }
    fn runs(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

export_plugin!(Speaker: Spoken, name = "speaker");

fn call(method: &str, arguments: &str) -> std::result::Result<Value, CallError> {
    let text = Loaded::<Speaker>::create().call_json::<dyn Spoken>(method, arguments)?;
    Ok(serde_json::from_str(&text).expect("the answer is JSON"))
}

/// The sentence about bad arguments.
#[track_caller]
fn refused(method: &str, arguments: &str) -> String {
    match call(method, arguments) {
        Err(CallError::BadArguments(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// The sentence about a method that has no JSON form; the method has not run.
#[track_caller]
fn impossible(method: &str, arguments: &str) -> String {
    let loaded = Loaded::<Speaker>::create();
    let answer = loaded.call_json::<dyn Spoken>(method, arguments);
    assert_eq!(loaded.enter::<dyn Spoken>().runs().unwrap(), 0, "it ran");
    match answer {
        Err(CallError::NotDynamic(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_go_by_name_in_any_order() {
    let allowed = json!({ "allowed": true, "key": "alice" });
    assert_eq!(call("check", r#"{"key":"alice","cost":1}"#).unwrap(), allowed);
    assert_eq!(call("check", r#" { "cost": 1, "key": "alice" } "#).unwrap(), allowed);
}

#[test]
fn what_is_lent_is_read_as_its_owned_form() {
    let arguments = r#"{"bytes":[1,2,3],"point":{"x":10,"y":10},"points":[{"x":1,"y":-1}]}"#;
    assert_eq!(call("lent", arguments).unwrap(), json!(105));
}

#[test]
fn an_optional_parameter_may_be_left_out_or_null() {
    assert_eq!(call("optional", "{}").unwrap(), "None None");
    assert_eq!(call("optional", r#"{"a":1}"#).unwrap(), "Some(1) None");
    assert_eq!(call("optional", r#"{"b":"x","a":null}"#).unwrap(), "None Some(\"x\")");
}

#[test]
fn no_text_at_all_is_an_empty_object() {
    assert_eq!(call("nothing", "").unwrap(), Value::Null);
    assert_eq!(call("nothing", "  \n").unwrap(), Value::Null);
    assert_eq!(call("nothing", "{}").unwrap(), Value::Null);
}

#[test]
fn a_parameter_whose_name_is_a_keyword_is_called_by_that_name() {
    assert_eq!(call("keyword", r#"{"type":"fn"}"#).unwrap(), "fn");
}

#[test]
fn a_missing_parameter_is_named() {
    assert_eq!(
        refused("check", r#"{"key":"alice"}"#),
        "`check` needs the parameter `cost`, which is missing"
    );
    assert_eq!(refused("check", ""), "`check` needs the parameter `key`, which is missing");
}

#[test]
fn an_unknown_parameter_is_named_with_those_that_exist() {
    assert_eq!(
        refused("check", r#"{"key":"alice","price":1}"#),
        "`check` has no parameter `price`: it takes an object with key, cost"
    );
    assert_eq!(
        refused("nothing", r#"{"key":1}"#),
        "`nothing` has no parameter `key`: it takes an empty object `{}`"
    );
}

#[test]
fn an_ill_typed_parameter_is_named_with_what_is_wrong() {
    assert_eq!(
        refused("check", r#"{"key":"alice","cost":"one"}"#),
        "parameter `cost` of `check`: invalid type: string \"one\", expected u32"
    );
    assert_eq!(
        refused("check", r#"{"key":"alice","cost":-1}"#),
        "parameter `cost` of `check`: invalid value: integer `-1`, expected u32"
    );
    assert_eq!(
        refused("lent", r#"{"bytes":[],"point":{"x":1,"z":1},"points":[]}"#),
        "parameter `point` of `lent`: unknown field `z`, expected `x` or `y`"
    );
    assert!(refused("fallible", r#"{"signal":"Walk"}"#).contains("unknown variant `Walk`, expected one of"));
}

#[test]
fn arguments_that_are_no_object_are_refused_with_what_is_expected() {
    assert_eq!(refused("check", "[1]"), "`check` takes an object with key, cost, found an array");
    assert_eq!(refused("check", "3"), "`check` takes an object with key, cost, found a number");
    let broken = refused("check", r#"{"key":"#);
    assert!(broken.starts_with("the arguments of `check` are not JSON: "), "{broken}");
    assert!(broken.ends_with("; expected an object with key, cost"), "{broken}");
}

#[test]
fn a_method_with_a_parameter_without_serde_is_not_run_whatever_the_arguments() {
    let sentence =
        "`opaque` cannot be called with JSON: the type of `opaque` does not implement serde::Deserialize";
    assert_eq!(impossible("opaque", r#"{"cost":1,"opaque":2}"#), sentence);
    assert_eq!(impossible("opaque", "{}"), sentence);
    assert_eq!(impossible("opaque", "not even JSON"), sentence);
}

#[test]
fn a_method_with_a_result_without_serde_is_not_run() {
    let sentence =
        "`opaque_result` cannot be called with JSON: its result does not implement serde::Serialize";
    assert_eq!(impossible("opaque_result", r#"{"cost":1}"#), sentence);
    assert_eq!(impossible("opaque_result", ""), sentence);
}

#[test]
fn a_method_with_a_callback_is_not_run() {
    assert_eq!(
        impossible("callback", r#"{"f":1}"#),
        "`callback` cannot be called with JSON: it takes a callback"
    );
}

#[test]
fn a_result_that_refuses_to_be_written_is_said_so() {
    let Err(CallError::NotDynamic(text)) = call("unwritable", "") else { panic!() };
    assert_eq!(text, "the result of `unwritable` cannot be written as JSON: not today");
}

#[test]
fn an_unknown_method_is_said_so() {
    assert_eq!(impossible("chekc", "{}"), "there is no method `chekc`");
}

#[test]
fn errors_and_panics_are_those_of_any_call() {
    assert_eq!(call("fallible", r#"{"signal":"Go"}"#).unwrap(), json!([[1, true]]));
    assert_eq!(
        call("fallible", r#"{"signal":"Stop"}"#).unwrap_err(),
        CallError::Plugin("not yet: it is Stop".into())
    );
    let CallError::Panicked { message, location } = call("panics", "").unwrap_err() else { panic!() };
    assert_eq!(message, "said by a panic");
    assert!(location.contains("json.rs:"), "{location}");
}
