//! The grammar of signatures, by recursive descent with a limited depth.
//!
//! ```text
//! signature = name "(" [ param { "," param } ] ")" [ "->" type ]
//! param     = name ":" type
//! type      = "&mut FnMut(" types ")" | "&str" | "&[" type "]" | "&" type | "[" type ";" number "]"
//!           | "()" | "(" types ")" | ("Vec" | "Option" | "Result") "<" type ">" | name [ struct | enum ]
//! struct    = "{" [ field { "," field } ] "}" layout          field = name ":" type [ "@" number ]
//! enum      = "|" name "{" [ variant { "," variant } ] "}"    layout = [ "#" number "/" number ]
//! variant   = name "=" [ "-" ] number [ "(" types ")" | "{" fields "}" ]
//! ```

use super::manifest::{excerpt, number};
use super::signature::{DEPTH_LIMIT, Field, Payload, Primitive, Signature, SignatureError, Type, Variant};

type Parsed<T> = Result<T, SignatureError>;

/// Reads a whole signature.
pub(super) fn signature(text: &str) -> Parsed<Signature> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let name = parser.name("the name of a method")?.to_owned();
    parser.expect("(", "`(`")?;
    let params = parser.separated(")", Parser::param)?;
    let result = if parser.eat("->") { parser.kind()? } else { Type::Primitive(Primitive::Unit) };
    parser.end()?;
    let (result, fallible) = match result {
        Type::Result(inner) => (*inner, true),
        other => (other, false),
    };
    Ok(Signature { name, params, result, fallible })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn param(&mut self) -> Parsed<(String, Type)> {
        let name = self.name("the name of a parameter")?.to_owned();
        self.expect(":", "`:` and a type")?;
        Ok((name, self.kind()?))
    }

    /// One type. The only function that recurses, so the only one that counts depth.
    fn kind(&mut self) -> Parsed<Type> {
        if self.depth == DEPTH_LIMIT {
            return Err(SignatureError::TooDeep { at: self.at });
        }
        self.depth += 1;
        let kind = self.kind_inside();
        self.depth -= 1;
        kind
    }

    fn kind_inside(&mut self) -> Parsed<Type> {
        if self.eat("&") {
            return self.behind_reference();
        }
        if self.eat("[") {
            let inner = Box::new(self.kind()?);
            self.expect(";", "`;` and the length of the array")?;
            let length = self.number()?;
            self.expect("]", "`]`")?;
            return Ok(Type::Array(inner, length));
        }
        if self.eat("(") {
            let items = self.separated(")", Parser::kind)?;
            return Ok(if items.is_empty() { Type::Primitive(Primitive::Unit) } else { Type::Tuple(items) });
        }
        let name = self.name("a type")?;
        match name {
            "String" => Ok(Type::String),
            "Vec" => self.argument().map(Type::Vec),
            "Option" => self.argument().map(Type::Option),
            "Result" => self.argument().map(Type::Result),
            _ => match Primitive::named(name) {
                Some(primitive) => Ok(Type::Primitive(primitive)),
                None => self.composite(name),
            },
        }
    }

    fn behind_reference(&mut self) -> Parsed<Type> {
        if self.eat("mut ") {
            self.expect("FnMut", "`FnMut`: nothing else crosses as `&mut`")?;
            self.expect("(", "`(`")?;
            return Ok(Type::Callback(self.separated(")", Parser::kind)?));
        }
        if self.eat("[") {
            let inner = self.kind()?;
            // `&[T;N]` is a reference to an array.
            let kind = if self.eat(";") {
                Type::Ref(Box::new(Type::Array(Box::new(inner), self.number()?)))
            } else {
                Type::Slice(Box::new(inner))
            };
            self.expect("]", "`]`")?;
            return Ok(kind);
        }
        let before = self.at;
        if self.word() == "str" {
            return Ok(Type::Str);
        }
        self.at = before;
        self.kind().map(|inner| Type::Ref(Box::new(inner)))
    }

    fn argument(&mut self) -> Parsed<Box<Type>> {
        self.expect("<", "`<` and a type")?;
        let inner = self.kind()?;
        self.expect(">", "`>`")?;
        Ok(Box::new(inner))
    }

    fn composite(&mut self, name: &str) -> Parsed<Type> {
        let name = name.to_owned();
        if self.eat("|") {
            let at = self.at;
            let repr = Primitive::named(self.name("the type of a discriminant")?)
                .ok_or_else(|| self.unexpected(at, "the type of a discriminant, as in u8"))?;
            self.expect("{", "`{` and the variants")?;
            let variants = self.separated("}", Parser::variant)?;
            self.layout()?;
            return Ok(Type::Enum { name, repr, variants });
        }
        self.expect("{", "`{` and the fields of a struct, or `|` and an enum")?;
        let fields = self.separated("}", Parser::field)?;
        self.layout()?;
        Ok(Type::Struct { name, fields })
    }

    fn field(&mut self) -> Parsed<Field> {
        let name = self.name("the name of a field")?.to_owned();
        self.expect(":", "`:` and a type")?;
        let kind = self.kind()?;
        if self.eat("@") {
            self.number()?;
        }
        Ok(Field { name, kind })
    }

    fn variant(&mut self) -> Parsed<Variant> {
        let name = self.name("the name of a variant")?.to_owned();
        self.expect("=", "`=` and the discriminant")?;
        let value = self.discriminant()?;
        let payload = if self.eat("(") {
            Payload::Tuple(self.separated(")", Parser::kind)?)
        } else if self.eat("{") {
            Payload::Named(self.separated("}", Parser::field)?)
        } else {
            Payload::Unit
        };
        Ok(Variant { name, value, payload })
    }

    fn discriminant(&mut self) -> Parsed<i64> {
        let negative = self.eat("-");
        let at = self.at;
        let size = i128::from(self.number()?);
        let value = if negative { -size } else { size };
        // A discriminant above `i64::MAX` belongs to a `u64`; the text writes it as its `i64` bits.
        i64::try_from(value).map_err(|_| self.unexpected(at, "a discriminant of at most 64 bits with sign"))
    }

    fn layout(&mut self) -> Parsed<()> {
        if self.eat("#") {
            self.number()?;
            self.expect("/", "`/` and the alignment")?;
            self.number()?;
        }
        Ok(())
    }

    /// Items with commas between them up to `close`.
    fn separated<T>(&mut self, close: &'static str, item: fn(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.eat(close) {
            if !items.is_empty() {
                self.expect(",", "`,` or the end of the list")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn number(&mut self) -> Parsed<u64> {
        let at = self.at;
        number(self.word()).ok_or_else(|| self.unexpected(at, "a number"))
    }

    fn name(&mut self, expected: &'static str) -> Parsed<&'a str> {
        let at = self.at;
        let word = self.word();
        if word.is_empty() { Err(self.unexpected(at, expected)) } else { Ok(word) }
    }

    /// The longest run of letters, digits and `_`; maybe empty.
    fn word(&mut self) -> &'a str {
        self.skip_spaces();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Parsed<()> {
        let at = self.at;
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(at, expected)) }
    }

    fn end(&mut self) -> Parsed<()> {
        self.skip_spaces();
        let at = self.at;
        if at == self.text.len() { Ok(()) } else { Err(self.unexpected(at, "the end")) }
    }

    fn skip_spaces(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(' ').len();
    }

    fn unexpected(&self, at: usize, expected: &'static str) -> SignatureError {
        SignatureError::Unexpected { at, expected, found: excerpt(&self.text[at..]) }
    }
}
