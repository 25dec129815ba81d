//! What stands in a library file: the manifest text, and the fingerprints by which builds recognise methods.

use plugin_api::desc::{
    FieldDesc, InterfaceDesc, ManifestDesc, MethodDesc, ParamDesc, RequirementDesc, StateDesc, TypeDesc,
    Version,
};
use plugin_api::prelude::*;
use plugin_api::{Interface, render};

mod small {
    use super::*;

    #[plugin_api::interface(version = "2.1")]
    pub trait Ledger {
        /// Documentation is not part of it.
        fn enter(&self, account: &str, entries: &[Entry], note: Option<String>) -> Result<Receipt>;
        fn each(&self, kinds: Vec<Kind>, f: &mut dyn FnMut(u64, Event));
        #[since("2.1")]
        fn r#match(&self, r#type: (u8, [i16; 3]));
    }

    #[derive(AbiType, Clone, Copy)]
    #[repr(C)]
    pub struct Entry {
        pub urgent: bool,
        pub cents: i64,
        pub account: u32,
    }

    #[derive(AbiType)]
    pub struct Receipt(pub u16, pub String, pub Option<u32>);

    #[derive(AbiType)]
    pub enum Kind {
        Debit = -3,
        Credit,
    }

    #[derive(AbiType)]
    #[repr(u8)]
    pub enum Event {
        Opened,
        Moved(u32, String) = 7,
        Closed { by: Option<Kind> },
    }

    #[plugin_api::interface(version = "0.3")]
    pub trait Clock {
        fn now(&self) -> u64;
    }
}

const LEDGER: &InterfaceDesc = <dyn small::Ledger as Interface>::DESC;

#[test]
fn the_manifest_of_a_small_plugin_reads_as_it_always_has() {
    let desc = ManifestDesc {
        plugin: "ledger",
        version: "0.4.0",
        state: StateDesc { writes: 3, writes_from: 1, reads_from: 2, beside_calls: true },
        panic: "unwind",
        profile: "release",
        interfaces: &[LEDGER, <dyn small::Clock as Interface>::DESC],
        requires: REQUIRES,
    };
    let text = rendered(&desc);
    // What the compiler and the machine add differs from place to place.
    let places: Vec<_> =
        text.lines().filter(|line| line.starts_with("target ") || line.starts_with("rustc ")).collect();
    assert_eq!(places.len(), 2, "{text}");
    let text: Vec<_> = text.lines().filter(|line| !places.contains(line)).collect();
    let golden = "\
reseat-manifest 1
plugin ledger 0.4.0
boundary 1
state writes 1..=3 reads 2..=3 beside calls
panic unwind
profile release
features -
interface Ledger 2.1
method 3d5baf488f4b4b94 2.0 enter(account: &str, entries: &[Entry{urgent:bool@0,cents:i64@8,account:u32@16}#24/8], note: Option<String>) -> Result<Receipt{0:u16@0,1:String@8,2:Option<u32>@16}#24/8>
method 7e658af81318570e 2.0 each(kinds: Vec<Kind|i32{Debit=-3,Credit=-2}>, f: &mut FnMut(u64,Event|u8{Opened=0,Moved=7(u32,String),Closed=8{by:Option<Kind|i32{Debit=-3,Credit=-2}>}})) -> ()
method 8ee7b55bdff299e7 2.1 match(type: (u8,[i16;3])) -> ()
interface Clock 0.3
method 9d5e657e1fd5055a 0.0 now() -> u64
requires Clock 0.3
uses 9d5e657e1fd5055a 0.0 now() -> u64
optional Ledger 2.0
uses 3d5baf488f4b4b94 2.0 enter(account: &str, entries: &[Entry{urgent:bool@0,cents:i64@8,account:u32@16}#24/8], note: Option<String>) -> Result<Receipt{0:u16@0,1:String@8,2:Option<u32>@16}#24/8>
uses 7e658af81318570e 2.0 each(kinds: Vec<Kind|i32{Debit=-3,Credit=-2}>, f: &mut FnMut(u64,Event|u8{Opened=0,Moved=7(u32,String),Closed=8{by:Option<Kind|i32{Debit=-3,Credit=-2}>}})) -> ()
uses 8ee7b55bdff299e7 2.1 match(type: (u8,[i16;3])) -> ()";
    let golden: Vec<_> = golden.lines().collect();
    assert_eq!(text, golden, "\n{}\n", text.join("\n"));
}

#[test]
fn a_stateless_plugin_says_so() {
    let text = rendered(&ManifestDesc {
        state: StateDesc { writes: 0, writes_from: 0, reads_from: 1, beside_calls: false },
        ..CLOCK
    });
    assert!(text.contains("\nstate none\n"), "{text}");
}

#[test]
fn the_manifest_that_the_compiler_renders_is_the_one_rendered_here() {
    const LEN: usize = render::manifest::<0>(&CLOCK).len;
    const TEXT: render::Text<LEN> = render::manifest::<LEN>(&CLOCK);
    assert_eq!(std::str::from_utf8(&TEXT.bytes).unwrap(), rendered(&CLOCK));
    assert_eq!(TEXT.hash, fnv1a(&TEXT.bytes));
}

#[test]
fn a_manifest_is_padded_with_newlines() {
    let text = render::manifest::<4096>(&CLOCK);
    assert!(text.bytes[text.len..].iter().all(|byte| *byte == b'\n'));
    assert_eq!(text.hash, fnv1a(&text.bytes[..text.len]), "the padding is not part of the hash");
}

const REQUIRES: &[RequirementDesc] = &[
    RequirementDesc::new(<dyn small::Clock as Interface>::DESC, None, false),
    RequirementDesc::new(<dyn small::Ledger as Interface>::DESC, Some((2, 0)), true),
];

const CLOCK: ManifestDesc = ManifestDesc {
    plugin: "clock",
    version: "1.0.0",
    state: StateDesc { writes: 1, writes_from: 1, reads_from: 1, beside_calls: false },
    panic: "unwind",
    profile: "debug",
    interfaces: &[<dyn small::Clock as Interface>::DESC],
    requires: &[],
};

fn rendered(desc: &ManifestDesc) -> String {
    let text = Box::new(render::manifest::<8192>(desc));
    assert!(text.len <= 8192);
    std::str::from_utf8(&text.bytes[..text.len]).unwrap().to_owned()
}

/// Fowler, Noll, Vo: written out once more, from its definition.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The fingerprint of the one method of an interface whose declaration is given.
macro_rules! fingerprint {
    ({ $($types:item)* } $($method:tt)*) => {{
        mod declared {
            #[allow(unused_imports)]
            use plugin_api::prelude::*;
            $($types)*
            #[plugin_api::interface(version = "1.4")]
            pub trait Declared { $($method)* }
        }
        render::fingerprint(&<dyn declared::Declared as Interface>::DESC.methods[0])
    }};
    ($($method:tt)*) => { fingerprint!({} $($method)*) };
}

#[test]
fn a_fingerprint_ignores_what_nobody_depends_on() {
    let plain = fingerprint!(
        fn put(&self, key: &str, n: u32) -> Vec<u8>;
    );
    assert_eq!(
        plain,
        fingerprint!(
            fn put(&self, name: &str, amount: u32) -> Vec<u8>;
        ),
        "parameter names"
    );
    assert_eq!(
        plain,
        fingerprint!(
            fn put(&self, _: &str, _: u32) -> Vec<u8>;
        ),
        "no parameter names"
    );
    assert_eq!(
        plain,
        fingerprint!(
            /** Puts. */
            fn put(&self, key: &str, n: u32) -> Vec<u8>;
        ),
        "documentation"
    );
    assert_eq!(
        plain,
        fingerprint!(
            #[since("1.4")]
            fn put(&self, key: &str, n: u32) -> Vec<u8>;
        ),
        "since"
    );
    assert_eq!(
        plain,
        fingerprint!({ type Key = str; type Bytes = Vec<u8>; } fn put(&self, key: &Key, n: u32) -> Bytes;),
        "aliases"
    );
    assert_eq!(
        fingerprint!({ #[derive(AbiType)] pub struct S { pub a: u8 } } fn put(&self, s: S);),
        fingerprint!({ #[derive(AbiType, Clone, Copy)] #[repr(C)] pub struct S { a: u8 } } fn put(&self, s: S);),
        "what a type can do besides crossing"
    );
    assert_eq!(
        fingerprint!(
            fn put(&self) -> Result<u8>;
        ),
        fingerprint!(
            fn put(&self) -> std::result::Result<u8, String>;
        ),
        "the type of an error, which crosses as text"
    );
}

#[test]
fn a_fingerprint_changes_with_everything_that_crosses() {
    let all = [
        (
            "as it is",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: S);),
        ),
        (
            "method's name",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn set(&self, s: S);),
        ),
        (
            "type's name",
            fingerprint!({ #[derive(AbiType)] pub struct T { a: u8, b: u32 } } fn put(&self, s: T);),
        ),
        (
            "field's name",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, c: u32 } } fn put(&self, s: S);),
        ),
        (
            "field's type",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: i8, b: u32 } } fn put(&self, s: S);),
        ),
        (
            "fields' order",
            fingerprint!({ #[derive(AbiType)] pub struct S { b: u32, a: u8 } } fn put(&self, s: S);),
        ),
        ("one field less", fingerprint!({ #[derive(AbiType)] pub struct S { a: u8 } } fn put(&self, s: S);)),
        (
            "one parameter more",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: S, n: u8);),
        ),
        (
            "a result",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: S) -> u8;),
        ),
        (
            "may fail",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: S) -> Result<()>;),
        ),
        (
            "many",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: Vec<S>);),
        ),
        (
            "perhaps",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, s: Option<S>);),
        ),
        (
            "lent",
            fingerprint!({ #[derive(AbiType, Clone, Copy)] #[repr(C)] pub struct S { a: u8, b: u32 } } fn put(&self, s: &S);),
        ),
        (
            "many lent",
            fingerprint!({ #[derive(AbiType, Clone, Copy)] #[repr(C)] pub struct S { a: u8, b: u32 } } fn put(&self, s: &[S]);),
        ),
        (
            "back",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, f: &mut dyn FnMut(S));),
        ),
        (
            "back twice",
            fingerprint!({ #[derive(AbiType)] pub struct S { a: u8, b: u32 } } fn put(&self, f: &mut dyn FnMut(S, S));),
        ),
        ("enum", fingerprint!({ #[derive(AbiType)] pub enum S { A, B } } fn put(&self, s: S);)),
        ("variant's name", fingerprint!({ #[derive(AbiType)] pub enum S { A, C } } fn put(&self, s: S);)),
        ("variants' order", fingerprint!({ #[derive(AbiType)] pub enum S { B, A } } fn put(&self, s: S);)),
        ("discriminant", fingerprint!({ #[derive(AbiType)] pub enum S { A, B = 2 } } fn put(&self, s: S);)),
        (
            "discriminant's sign",
            fingerprint!({ #[derive(AbiType)] pub enum S { A, B = -2 } } fn put(&self, s: S);),
        ),
        (
            "discriminant's type",
            fingerprint!({ #[derive(AbiType)] #[repr(u8)] pub enum S { A, B } } fn put(&self, s: S);),
        ),
        ("a payload", fingerprint!({ #[derive(AbiType)] pub enum S { A(u8), B } } fn put(&self, s: S);)),
        (
            "a named payload",
            fingerprint!({ #[derive(AbiType)] pub enum S { A { a: u8 }, B } } fn put(&self, s: S);),
        ),
        (
            "array",
            fingerprint!(
                fn put(&self, s: [u8; 3]);
            ),
        ),
        (
            "array's length",
            fingerprint!(
                fn put(&self, s: [u8; 4]);
            ),
        ),
        (
            "tuple",
            fingerprint!(
                fn put(&self, s: (u8, u32));
            ),
        ),
    ];
    for (i, (a, one)) in all.iter().enumerate() {
        for (b, other) in &all[..i] {
            assert_ne!(one, other, "`{a}` and `{b}`");
        }
    }
}

#[test]
fn a_fingerprint_changes_with_the_place_of_a_field_alone() {
    let method = |offset, size| {
        let fields = Box::leak(Box::new([FieldDesc { name: "a", offset, ty: &TypeDesc::Named("u32") }]));
        let ty = Box::leak(Box::new(TypeDesc::Struct { name: "S", fields, size, align: 4 }));
        render::fingerprint(&taking(Box::leak(Box::new([ParamDesc { name: "s", ty }]))))
    };
    assert_eq!(method(0, 8), method(0, 8));
    assert_ne!(method(0, 8), method(4, 8));
    assert_ne!(method(0, 8), method(0, 12));
}

const fn taking(params: &'static [ParamDesc]) -> MethodDesc {
    MethodDesc {
        name: "put",
        since: Version { major: 1, minor: 0 },
        params,
        result: &TypeDesc::Named("()"),
        fallible: false,
    }
}

#[test]
fn a_signature_is_readable() {
    assert_eq!(
        render::signature(&LEDGER.methods[2]),
        "match(type: (u8,[i16;3])) -> ()",
        "names without what makes them identifiers"
    );
}

#[test]
fn a_signature_that_is_too_long_for_a_person_is_cut_but_its_fingerprint_is_not() {
    let many = |len: usize| {
        let name: &'static str = Box::leak("größe".repeat(len).into_boxed_str());
        taking(Box::leak(Box::new([ParamDesc { name: "s", ty: Box::leak(Box::new(TypeDesc::Named(name))) }])))
    };
    let (long, longer) = (many(4000), many(4001));
    assert!(render::signature(&long).starts_with("put(s: größegröße"));
    assert_eq!(render::signature(&long).chars().count(), render::signature(&longer).chars().count());
    assert_ne!(render::fingerprint(&long), render::fingerprint(&longer));
}

/// A large interface: its manifest is some hundred kilobytes, and the compiler renders it.
mod large {
    use plugin_api::prelude::*;

    macro_rules! large {
        ($($method:ident)*) => {
            #[plugin_api::interface(version = "1.0")]
            pub trait Large { $(fn $method(&self, wide: Wide) -> Wide;)* }
            impl Large for Plug { $(fn $method(&self, wide: Wide) -> Wide { wide })* }
        };
    }
    macro_rules! wide {
        ($name:ident of $inner:ty: $($field:ident)*) => {
            #[derive(AbiType)]
            pub struct $name { $(pub $field: $inner),* }
        };
    }
    wide!(Narrow of u64: first second third fourth fifth sixth seventh eighth ninth tenth);
    wide!(Wide of Narrow: first second third fourth fifth sixth seventh eighth ninth tenth);
    large!(a b c d e f g h i j k l m n o p q r s t u v w x y z aa ab ac ad ae af ag ah ai aj ak al am an ao);

    struct Plug;
    impl Plugin for Plug {
        fn create(_: &Services) -> Result<Self> {
            Ok(Plug)
        }
    }
    export_plugin!(Plug: Large, name = "large");
}

#[test]
fn a_large_interface_is_rendered_by_the_compiler_without_complaint() {
    let methods = <dyn large::Large as Interface>::DESC.methods;
    let signatures: usize = methods.iter().map(|method| render::signature(method).len()).sum();
    assert!(signatures > 100_000, "{signatures}");
}
