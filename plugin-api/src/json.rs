//! Calls by method name with JSON, for callers without static types: the command line, HTTP, other processes.
//!
//! Arguments are one JSON object by parameter name. Whether a type can be read from or written as JSON is
//! asked of the type itself, where the method is declared: a type without `serde` makes its method typed-only.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::contain::Failure;

/// The arguments of one dynamic call, each still as text: its parameter's type reads it, and nobody before.
pub struct Arguments<'a> {
    method: &'static str,
    values: BTreeMap<String, &'a RawValue>,
}

impl<'a> Arguments<'a> {
    /// Reads the object and checks that it names the parameters and nothing else.
    ///
    /// # Errors
    /// Text that is not a JSON object, a missing or an unknown parameter; the error names it and shows
    /// what is expected.
    pub fn parse(
        method: &'static str,
        parameters: &[&'static str],
        text: &'a str,
    ) -> Result<Arguments<'a>, Failure> {
        let expected = || match parameters {
            [] => "an empty object `{}`".to_owned(),
            names => format!("an object with {}", names.join(", ")),
        };
        let text = if text.trim().is_empty() { "{}" } else { text };
        let values: BTreeMap<String, &RawValue> = match serde_json::from_str(text) {
            Ok(values) => values,
            Err(_) => {
                return bad(match serde_json::from_str(text) {
                    Ok(other) => format!("`{method}` takes {}, found {}", expected(), kind(&other)),
                    Err(e) => {
                        format!("the arguments of `{method}` are not JSON: {e}; expected {}", expected())
                    }
                });
            }
        };
        if let Some(unknown) = values.keys().find(|name| !parameters.contains(&name.as_str())) {
            return bad(format!("`{method}` has no parameter `{unknown}`: it takes {}", expected()));
        }
        Ok(Arguments { method, values })
    }

    fn take(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.values.remove(name)
    }
}

/// Reads a value. What cannot be read as it stands is tried once more by way of [`Value`], whose errors for values
/// of the wrong kind do not count lines and columns within a fragment.
fn read<T: DeserializeOwned>(raw: &RawValue) -> serde_json::Result<T> {
    serde_json::from_str(raw.get()).or_else(|_| T::deserialize(serde_json::from_str::<Value>(raw.get())?))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn bad<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Malformed(text))
}

/// Asks a type whether it knows JSON. The answer is found by method resolution: [`ReadJson`] is implemented
/// for `Probe<T>` where `T` has serde, [`CannotReadJson`] for `&Probe<T>` always, and the first fits sooner.
pub struct Probe<T>(PhantomData<T>);

impl<T> Probe<T> {
    /// The question.
    #[allow(clippy::new_without_default)] // only ever used in one expression
    pub const fn new() -> Self {
        Probe(PhantomData)
    }
}

/// Takes a parameter of one type out of the arguments.
pub type JsonReader<T> = fn(&mut Arguments<'_>, &'static str) -> Result<T, Failure>;

/// Types that can be read from JSON.
pub trait ReadJson<T> {
    /// How; asked before the arguments are looked at, so that nobody mends arguments in vain.
    ///
    /// # Errors
    /// Never, for a type with serde.
    fn reader(&self, method: &'static str, name: &'static str) -> Result<JsonReader<T>, Failure>;
}

impl<T: DeserializeOwned> ReadJson<T> for Probe<T> {
    fn reader(&self, _: &'static str, _: &'static str) -> Result<JsonReader<T>, Failure> {
        Ok(|arguments, name| {
            let method = arguments.method;
            let (value, missing) = match arguments.take(name) {
                Some(raw) => (read(raw), false),
                // An optional parameter reads well from null; for the others this is the error we want.
                None => (T::deserialize(Value::Null), true),
            };
            value.map_err(|e| {
                Failure::Malformed(if missing {
                    format!("`{method}` needs the parameter `{name}`, which is missing")
                } else {
                    format!("parameter `{name}` of `{method}`: {e}")
                })
            })
        })
    }
}

/// Types that cannot be read from JSON.
pub trait CannotReadJson<T> {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    fn reader(&self, method: &'static str, name: &'static str) -> Result<JsonReader<T>, Failure>;
}

impl<T> CannotReadJson<T> for &Probe<T> {
    fn reader(&self, method: &'static str, name: &'static str) -> Result<JsonReader<T>, Failure> {
        Err(Failure::Unsupported(format!(
            "`{method}` cannot be called with JSON: the type of `{name}` does not implement serde::Deserialize"
        )))
    }
}

/// Writes a value of one type as JSON text.
pub type JsonWriter<T> = fn(&'static str, &T) -> Result<String, Failure>;

/// Types that can be written as JSON.
pub trait WriteJson<T> {
    /// How; asked before the method is called, so that a method whose result cannot be written never runs.
    ///
    /// # Errors
    /// Never, for a type with serde.
    fn writer(&self, method: &'static str) -> Result<JsonWriter<T>, Failure>;
}

impl<T: Serialize> WriteJson<T> for Probe<T> {
    fn writer(&self, _: &'static str) -> Result<JsonWriter<T>, Failure> {
        Ok(|method, value| {
            serde_json::to_string(value).map_err(|e| {
                Failure::Unsupported(format!("the result of `{method}` cannot be written as JSON: {e}"))
            })
        })
    }
}

/// Types that cannot be written as JSON.
pub trait CannotWriteJson<T> {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    fn writer(&self, method: &'static str) -> Result<JsonWriter<T>, Failure>;
}

impl<T> CannotWriteJson<T> for &Probe<T> {
    fn writer(&self, method: &'static str) -> Result<JsonWriter<T>, Failure> {
        Err(Failure::Unsupported(format!(
            "`{method}` cannot be called with JSON: its result does not implement serde::Serialize"
        )))
    }
}
