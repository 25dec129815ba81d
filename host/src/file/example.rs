//! An example of the arguments of a method, as the JSON object that calls it.
//!
//! A caller who has never seen the plugin starts from this, so every value is of the right shape and none is
//! empty; what a value means is the author's business.

use serde_json::{Map, Value, json};

use super::signature::{Field, Payload, Primitive, Signature, Type, Variant};

/// An example has at most this many values, however long its arrays are.
const VALUE_LIMIT: usize = 1_000;

/// A JSON object with a plausible value for each parameter, by name.
pub fn example_args(signature: &Signature) -> Value {
    let mut example = Example { left: VALUE_LIMIT };
    Value::Object(
        signature.params.iter().map(|(name, kind)| (name.clone(), example.value(name, kind))).collect(),
    )
}

struct Example {
    left: usize,
}

impl Example {
    /// A value for a parameter or field of this name.
    fn value(&mut self, name: &str, kind: &Type) -> Value {
        if self.left == 0 {
            return Value::Null;
        }
        self.left -= 1;
        match kind {
            Type::Primitive(primitive) => primitive_value(*primitive),
            Type::Str | Type::String => text(name).into(),
            Type::Ref(inner) | Type::Option(inner) | Type::Result(inner) => self.value(name, inner),
            Type::Slice(inner) | Type::Vec(inner) => json!([self.value(name, inner)]),
            Type::Array(inner, length) => self.array(name, inner, *length),
            Type::Tuple(items) => self.tuple(name, items),
            Type::Callback(_) => Value::Null, // no JSON value stands for a function
            Type::Struct { fields, .. } => self.fields(name, fields),
            Type::Enum { variants, .. } => {
                variants.first().map_or(Value::Null, |first| self.variant(name, first))
            }
        }
    }

    fn array(&mut self, name: &str, inner: &Type, length: u64) -> Value {
        let mut items = Vec::new();
        while (items.len() as u64) < length && self.left > 0 {
            items.push(self.value(name, inner));
        }
        Value::Array(items)
    }

    fn tuple(&mut self, name: &str, items: &[Type]) -> Value {
        Value::Array(items.iter().map(|item| self.value(name, item)).collect())
    }

    /// A struct: an object, or what serde makes of a tuple struct, whose fields are numbered.
    fn fields(&mut self, name: &str, fields: &[Field]) -> Value {
        let numbered = fields.first().is_some_and(|first| first.name == "0");
        match fields {
            [only] if numbered => self.value(name, &only.kind),
            _ if numbered => Value::Array(fields.iter().map(|field| self.value(name, &field.kind)).collect()),
            _ => self.object(fields),
        }
    }

    fn object(&mut self, fields: &[Field]) -> Value {
        let values = fields.iter().map(|field| (field.name.clone(), self.value(&field.name, &field.kind)));
        Value::Object(values.collect::<Map<_, _>>())
    }

    fn variant(&mut self, name: &str, variant: &Variant) -> Value {
        let payload = match &variant.payload {
            Payload::Unit => return variant.name.clone().into(),
            Payload::Tuple(items) => match items.as_slice() {
                [only] => self.value(name, only),
                items => self.tuple(name, items),
            },
            Payload::Named(fields) => self.object(fields),
        };
        json!({ variant.name.as_str(): payload })
    }
}

fn primitive_value(primitive: Primitive) -> Value {
    match primitive {
        Primitive::Bool => true.into(),
        Primitive::Char => "a".into(),
        Primitive::F32 | Primitive::F64 => 1.0.into(),
        Primitive::Unit => Value::Null,
        _ => 1.into(),
    }
}

fn text(name: &str) -> &'static str {
    match name {
        "key" => "alice",
        "name" => "name",
        _ => "text",
    }
}
