use plugin_api::prelude::*;

#[plugin_api::interface(version = "1.2")]
#[allow(clippy::too_many_arguments, clippy::type_complexity)] // that is what it is for
pub trait Kinds {
    fn integers(
        &self,
        a: i8,
        b: u8,
        c: i16,
        d: u16,
        e: i32,
        f: u32,
        g: i64,
        h: u64,
        i: isize,
        j: usize,
    ) -> Integers;
    fn floats(&self, single: f32, double: f64) -> (f32, f64);
    fn flag(&self, flag: bool) -> bool;
    fn letter(&self, letter: char) -> char;
    fn nothing(&self);
    fn unit(&self, unit: (), empty: Empty) -> Empty;

    fn text(&self, text: &str) -> String;
    fn owned_text(&self, text: String) -> String;
    fn bytes(&self, bytes: &[u8]) -> Vec<u8>;
    fn owned_bytes(&self, bytes: Vec<u8>) -> Vec<u8>;
    fn letters(&self, letters: &[char]) -> Vec<char>;
    fn pods(&self, pods: &[Pod]) -> Vec<Pod>;
    fn pod(&self, pod: &Pod) -> Pod;
    fn pod_by_value(&self, pod: Pod) -> Pod;
    fn number(&self, number: &u64) -> u64;
    fn table(&self, table: &[[u16; 3]]) -> Vec<[u16; 3]>;

    fn strings(&self, strings: Vec<String>) -> Vec<String>;
    fn lists(&self, lists: Vec<Vec<u32>>) -> Vec<Vec<u32>>;
    fn maybe(&self, number: Option<u64>) -> Option<u64>;
    fn maybe_text(&self, text: Option<String>) -> Option<String>;
    fn nested(&self, nested: Option<Vec<(u32, String)>>) -> Option<Vec<(u32, String)>>;
    fn maybe_maybe(&self, twice: Option<Option<u8>>) -> Option<Option<u8>>;
    fn triple(&self, triple: (u8, String, Vec<u16>)) -> (u8, String, Vec<u16>);
    fn quadruple(&self, four: (i64, bool, f32, char)) -> (i64, bool, f32, char);
    fn array(&self, array: [u16; 5]) -> [u16; 5];
    fn texts(&self, texts: [String; 3]) -> [String; 3];
    fn units(&self, units: Vec<()>) -> Vec<()>;

    fn signal(&self, signal: Signal) -> Signal;
    fn signals(&self, signals: Vec<Signal>) -> Vec<Signal>;
    fn shape(&self, shape: Shape) -> Shape;
    fn person(&self, person: Person) -> Person;
    fn people(&self, people: Vec<Person>) -> Vec<Person>;
    fn metres(&self, metres: Metres, named: Named) -> (Metres, Named);
    fn loose(&self, loose: Loose) -> Loose;
    fn keywords(&self, r#type: Keywords) -> Keywords;

    /// Everything at once: registers, stack, lent memory and a tail.
    fn mixed(&self, key: &str, a: String, pods: &[Pod], b: Vec<String>, n: u8, c: Person, m: f64) -> String;

    fn fallible(&self, refuse: Option<String>) -> Result<String>;
    fn own_error(&self, refuse: bool) -> std::result::Result<u32, Refusal>;
    fn fallible_unit(&self, refuse: bool) -> Result<()>;
    fn boxed_error(&self) -> std::result::Result<u32, Box<dyn std::error::Error>>;
    fn static_error(&self) -> std::result::Result<u32, &'static str>;

    #[since("1.1")]
    fn later(&self, number: u32) -> u32;
    #[since("1.2")]
    #[deprecated = "only to see that generated code does not mind"]
    fn much_later(&self) -> Result<u32>;
}

/// All integers, in an order that needs padding.
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Integers {
    pub a: i8,
    pub b: u8,
    pub c: i16,
    pub d: u16,
    pub e: i32,
    pub f: u32,
    pub g: i64,
    pub h: u64,
    pub i: isize,
    pub j: usize,
}

/// Can be lent: C layout, with padding inside.
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct Pod {
    pub flag: bool,
    pub count: u64,
    pub side: Metres,
    pub letters: [char; 2],
}

/// A tuple struct.
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct Metres(pub f32);

/// A tuple struct with a tail.
#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named(pub String, pub u16, pub Option<String>);

#[derive(AbiType, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Empty;

/// C layout, but neither `Copy` nor without a tail: crosses by value all the same.
#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C)]
pub struct Loose {
    pub name: String,
    pub shape: Shape,
}

#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Keywords {
    pub r#fn: u8,
    pub r#match: String,
}

#[derive(AbiType, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[repr(i8)]
pub enum Signal {
    Stop = -128,
    Wait = -1,
    Ready,
    Go = 0x7f,
}

#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[repr(u16)]
pub enum Shape {
    Point,
    Circle(f64),
    Polygon(Vec<(i32, i32)>),
    Label { text: String, at: (i32, i32), style: Option<Signal> } = 40,
}

#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub name: String,
    pub age: u8,
    pub nicknames: Vec<String>,
    pub drawings: Vec<Option<Shape>>,
    pub home: Option<Address>,
}

#[derive(AbiType, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Address {
    pub street: String,
    pub number: Option<u16>,
    pub lines: [String; 2],
}

/// An error type of the interface's own.
#[derive(Debug)]
pub struct Refusal;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused, politely")
    }
}

/// Hands everything back.
pub struct Echo;

impl Plugin for Echo {
    fn create(_: &Services) -> Result<Self> {
        Ok(Echo)
    }
}

macro_rules! echo {
    ($($name:ident($arg:ident: $ty:ty) -> $result:ty;)*) => {
        $(fn $name(&self, $arg: $ty) -> $result { $arg.to_owned() })*
    };
}

impl Kinds for Echo {
    fn integers(
        &self,
        a: i8,
        b: u8,
        c: i16,
        d: u16,
        e: i32,
        f: u32,
        g: i64,
        h: u64,
        i: isize,
        j: usize,
    ) -> Integers {
        Integers { a, b, c, d, e, f, g, h, i, j }
    }
    fn floats(&self, single: f32, double: f64) -> (f32, f64) {
        (single, double)
    }
    fn nothing(&self) {}
    fn unit(&self, (): (), empty: Empty) -> Empty {
        empty
    }
    fn metres(&self, metres: Metres, named: Named) -> (Metres, Named) {
        (metres, named)
    }
    echo! {
        flag(it: bool) -> bool;
        letter(it: char) -> char;
        text(it: &str) -> String;
        owned_text(it: String) -> String;
        bytes(it: &[u8]) -> Vec<u8>;
        owned_bytes(it: Vec<u8>) -> Vec<u8>;
        letters(it: &[char]) -> Vec<char>;
        pods(it: &[Pod]) -> Vec<Pod>;
        pod(it: &Pod) -> Pod;
        pod_by_value(it: Pod) -> Pod;
        number(it: &u64) -> u64;
        table(it: &[[u16; 3]]) -> Vec<[u16; 3]>;
        strings(it: Vec<String>) -> Vec<String>;
        lists(it: Vec<Vec<u32>>) -> Vec<Vec<u32>>;
        maybe(it: Option<u64>) -> Option<u64>;
        maybe_text(it: Option<String>) -> Option<String>;
        nested(it: Option<Vec<(u32, String)>>) -> Option<Vec<(u32, String)>>;
        maybe_maybe(it: Option<Option<u8>>) -> Option<Option<u8>>;
        triple(it: (u8, String, Vec<u16>)) -> (u8, String, Vec<u16>);
        quadruple(it: (i64, bool, f32, char)) -> (i64, bool, f32, char);
        array(it: [u16; 5]) -> [u16; 5];
        texts(it: [String; 3]) -> [String; 3];
        units(it: Vec<()>) -> Vec<()>;
        signal(it: Signal) -> Signal;
        signals(it: Vec<Signal>) -> Vec<Signal>;
        shape(it: Shape) -> Shape;
        person(it: Person) -> Person;
        people(it: Vec<Person>) -> Vec<Person>;
        loose(it: Loose) -> Loose;
        keywords(it: Keywords) -> Keywords;
        later(it: u32) -> u32;
    }
    fn mixed(&self, key: &str, a: String, pods: &[Pod], b: Vec<String>, n: u8, c: Person, m: f64) -> String {
        format!("{key} {a} {} {b:?} {n} {} {m}", pods.len(), c.name)
    }
    fn fallible(&self, refuse: Option<String>) -> Result<String> {
        let Some(why) = refuse else { return Ok("fine".into()) };
        Err(anyhow!(why).context("the disk is full").context("the ledger cannot be written"))
    }
    fn own_error(&self, refuse: bool) -> std::result::Result<u32, Refusal> {
        if refuse { Err(Refusal) } else { Ok(7) }
    }
    fn fallible_unit(&self, refuse: bool) -> Result<()> {
        ensure!(!refuse, "no");
        Ok(())
    }
    fn boxed_error(&self) -> std::result::Result<u32, Box<dyn std::error::Error>> {
        Err("boxed".into())
    }
    fn static_error(&self) -> std::result::Result<u32, &'static str> {
        Err("static")
    }
    fn much_later(&self) -> Result<u32> {
        Ok(9)
    }
}

export_plugin!(Echo: Kinds, name = "echo");
