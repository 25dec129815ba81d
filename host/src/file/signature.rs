//! A method's signature as a small tree, from the readable text in the manifest.
//!
//! Invariants:
//! 1. Parsing is total: any text gives a tree or an error with its position.
//! 2. No tree is deeper than [`DEPTH_LIMIT`], so walking and dropping it never exhausts the stack.

use std::fmt;

use serde::Serialize;

pub use super::example::example_args;

/// Types nest at most this deep.
pub const DEPTH_LIMIT: usize = 64;

/// What a method takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// The name of the method.
    pub name: String,
    /// The parameters in order, each with its name.
    pub params: Vec<(String, Type)>,
    /// The result; for a fallible method the type inside `Result`.
    pub result: Type,
    /// Whether the method returns `Result`.
    pub fallible: bool,
}

/// A type that can cross the boundary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Type {
    /// A number, `bool`, `char` or `()`.
    Primitive(Primitive),
    /// `&str`
    Str,
    /// `String`
    String,
    /// `&T`
    Ref(Box<Type>),
    /// `&[T]`
    Slice(Box<Type>),
    /// `Vec<T>`
    Vec(Box<Type>),
    /// `Option<T>`
    Option(Box<Type>),
    /// `Result<T>`
    Result(Box<Type>),
    /// `[T;N]`
    Array(Box<Type>, u64),
    /// `(A,B)`
    Tuple(Vec<Type>),
    /// `&mut FnMut(T,U)`
    Callback(Vec<Type>),
    /// `Name{f:T@off,…}#size/align`
    Struct {
        /// The name of the struct.
        name: String,
        /// The fields in order.
        fields: Vec<Field>,
    },
    /// `Name|repr{A=0,B=1(T),C=2{f:T}}`
    Enum {
        /// The name of the enum.
        name: String,
        /// The type of its discriminant.
        repr: Primitive,
        /// The variants in order.
        variants: Vec<Variant>,
    },
}

/// A type without parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each is the Rust type of the same name")]
#[serde(rename_all = "lowercase")]
pub enum Primitive {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    Usize,
    Isize,
    F32,
    F64,
    Bool,
    Char,
    Unit,
}

impl Primitive {
    const NAMES: [(&'static str, Primitive); 14] = [
        ("u8", Primitive::U8),
        ("u16", Primitive::U16),
        ("u32", Primitive::U32),
        ("u64", Primitive::U64),
        ("i8", Primitive::I8),
        ("i16", Primitive::I16),
        ("i32", Primitive::I32),
        ("i64", Primitive::I64),
        ("usize", Primitive::Usize),
        ("isize", Primitive::Isize),
        ("f32", Primitive::F32),
        ("f64", Primitive::F64),
        ("bool", Primitive::Bool),
        ("char", Primitive::Char),
    ];

    /// The primitive of this name, if there is one.
    pub fn named(name: &str) -> Option<Primitive> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, primitive)| *primitive)
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("()", |(name, _)| name)
    }
}

/// A field of a struct or of a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// Its name, or its number in a tuple struct.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Type,
}

/// A variant of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its discriminant.
    pub value: i64,
    /// What it carries.
    pub payload: Payload,
}

/// What a variant carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Payload {
    /// Nothing.
    Unit,
    /// Values by position.
    Tuple(Vec<Type>),
    /// Values by name.
    Named(Vec<Field>),
}

/// A text is not a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Something else stands where a part was expected.
    #[error("at byte {at} of the signature: expected {expected}, found {found:?}")]
    Unexpected {
        /// Where, in bytes from the start.
        at: usize,
        /// What may stand there.
        expected: &'static str,
        /// What stands there, shortened.
        found: String,
    },
    /// Types nest too deep.
    #[error("at byte {at} of the signature: types nest deeper than {DEPTH_LIMIT}")]
    TooDeep {
        /// Where, in bytes from the start.
        at: usize,
    },
}

impl Signature {
    /// Reads a signature as it stands in a manifest.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] says what stands where something else was expected.
    pub fn parse(text: &str) -> Result<Signature, SignatureError> {
        super::grammar::signature(text)
    }
}

/// The signature as an author wrote it, without layouts: `check(key: &str, cost: u32) -> Decision`.
pub fn human(signature: &Signature) -> String {
    signature.to_string()
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, (name, kind)) in self.params.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {kind}")?;
        }
        match (&self.result, self.fallible) {
            (Type::Primitive(Primitive::Unit), false) => f.write_str(")"),
            (result, false) => write!(f, ") -> {result}"),
            (result, true) => write!(f, ") -> Result<{result}>"),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Primitive(primitive) => f.write_str(primitive.name()),
            Type::Str => f.write_str("&str"),
            Type::String => f.write_str("String"),
            Type::Ref(inner) => write!(f, "&{inner}"),
            Type::Slice(inner) => write!(f, "&[{inner}]"),
            Type::Vec(inner) => write!(f, "Vec<{inner}>"),
            Type::Option(inner) => write!(f, "Option<{inner}>"),
            Type::Result(inner) => write!(f, "Result<{inner}>"),
            Type::Array(inner, length) => write!(f, "[{inner}; {length}]"),
            Type::Tuple(items) => list(f, "(", items),
            Type::Callback(items) => list(f, "&mut FnMut(", items),
            Type::Struct { name, .. } | Type::Enum { name, .. } => f.write_str(name),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, open: &str, items: &[Type]) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    f.write_str(")")
}
