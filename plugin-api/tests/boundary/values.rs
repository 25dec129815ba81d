use proptest::prelude::*;

use crate::in_process::Loaded;
use crate::kinds::{
    Address, Echo, Empty, Integers, Keywords, Kinds, Loose, Metres, Named, Person, Pod, Shape, Signal,
};

/// Calls a method of the echo plugin.
macro_rules! echo {
    ($method:ident($($arg:expr),*)) => {
        Loaded::<Echo>::create().enter::<dyn Kinds>().$method($($arg),*).unwrap()
    };
}

#[test]
fn numbers_of_every_width_come_back_at_their_limits() {
    let least = echo!(integers(i8::MIN, 0, i16::MIN, 0, i32::MIN, 0, i64::MIN, 0, isize::MIN, 0));
    let most = echo!(integers(
        i8::MAX,
        u8::MAX,
        i16::MAX,
        u16::MAX,
        i32::MAX,
        u32::MAX,
        i64::MAX,
        u64::MAX,
        isize::MAX,
        usize::MAX
    ));
    assert_eq!(
        (least.a, least.c, least.e, least.g, least.i),
        (i8::MIN, i16::MIN, i32::MIN, i64::MIN, isize::MIN)
    );
    let all = Integers {
        a: i8::MAX,
        b: u8::MAX,
        c: i16::MAX,
        d: u16::MAX,
        e: i32::MAX,
        f: u32::MAX,
        g: i64::MAX,
        h: u64::MAX,
        i: isize::MAX,
        j: usize::MAX,
    };
    assert_eq!(most, all);
    assert_eq!(echo!(floats(f32::MIN_POSITIVE, f64::NEG_INFINITY)), (f32::MIN_POSITIVE, f64::NEG_INFINITY));
    assert_eq!(echo!(floats(-0.0, f64::NAN)).1.to_bits(), f64::NAN.to_bits());
    assert_eq!(echo!(number(&u64::MAX)), u64::MAX);
}

#[test]
fn booleans_letters_and_nothing_come_back() {
    assert!(echo!(flag(true)));
    assert!(!echo!(flag(false)));
    for letter in ['\0', 'a', '\u{d7ff}', '\u{e000}', char::MAX] {
        assert_eq!(echo!(letter(letter)), letter);
    }
    let () = echo!(nothing());
    assert_eq!(echo!(unit((), Empty)), Empty);
}

#[test]
fn empty_texts_and_lists_come_back_empty() {
    assert_eq!(echo!(text("")), "");
    assert_eq!(echo!(owned_text(String::new())), "");
    assert_eq!(echo!(bytes(&[])), b"");
    assert_eq!(echo!(owned_bytes(vec![])), b"");
    assert_eq!(echo!(pods(&[])), []);
    assert_eq!(echo!(strings(vec![])), [""; 0]);
    assert_eq!(echo!(strings(vec![String::new(); 3])), [""; 3]);
    assert_eq!(echo!(lists(vec![vec![], vec![1], vec![]])), [vec![], vec![1], vec![]]);
    assert_eq!(echo!(nested(Some(vec![]))), Some(vec![]));
    assert_eq!(echo!(units(vec![(); 5])).len(), 5);
}

#[test]
fn a_struct_with_padding_is_lent_and_comes_back() {
    let pod = Pod { flag: true, count: 1 << 40, side: Metres(2.5), letters: ['ä', '!'] };
    assert_eq!(echo!(pod(&pod)), pod);
    assert_eq!(echo!(pod_by_value(pod)), pod);
    assert_eq!(echo!(pods(&[pod; 3])), [pod; 3]);
    assert_eq!(echo!(table(&[[1, 2, 3], [4, 5, 6]])), [[1, 2, 3], [4, 5, 6]]);
    assert_eq!(echo!(letters(&['x', '\u{10ffff}'])), ['x', '\u{10ffff}']);
}

#[test]
fn a_c_struct_that_cannot_be_lent_still_crosses_by_value() {
    let loose = Loose { name: "string inside".into(), shape: Shape::Point };
    assert_eq!(echo!(loose(loose.clone())), loose);
}

#[test]
fn an_option_in_an_option_keeps_both_levels() {
    for twice in [None, Some(None), Some(Some(3))] {
        assert_eq!(echo!(maybe_maybe(twice)), twice);
    }
}

#[test]
fn every_variant_of_an_enum_comes_back() {
    for signal in [Signal::Stop, Signal::Wait, Signal::Ready, Signal::Go] {
        assert_eq!(echo!(signal(signal)), signal);
    }
    let all = vec![Signal::Go, Signal::Stop, Signal::Ready];
    assert_eq!(echo!(signals(all.clone())), all);
}

#[test]
fn names_that_are_keywords_cross_as_any_other() {
    let keywords = Keywords { r#fn: 1, r#match: "two".into() };
    assert_eq!(echo!(keywords(keywords.clone())), keywords);
}

#[test]
fn registers_stack_lent_memory_and_tail_go_together() {
    let person = Person { name: "Ada".into(), age: 36, nicknames: vec![], drawings: vec![], home: None };
    let pods = [Pod { flag: false, count: 0, side: Metres(0.0), letters: ['a'; 2] }; 2];
    let all = echo!(mixed("key", "own".into(), &pods, vec!["x".into(), "y".into()], 200, person, 0.5));
    assert_eq!(all, r#"key own 2 ["x", "y"] 200 Ada 0.5"#);
}

#[test]
fn a_long_list_is_not_moved_again_for_each_of_its_elements() {
    // Reading that is quadratic takes hours here, not milliseconds.
    let strings: Vec<_> = (0..300_000).map(|n| n.to_string()).collect();
    assert!(echo!(strings(strings.clone())) == strings);
    let lists = vec![vec![7u32; 1_000_000]; 4];
    assert!(echo!(lists(lists.clone())) == lists);
    let bytes = vec![1u8; 16 << 20];
    assert!(echo!(bytes(&bytes)) == bytes);
}

fn signals() -> impl Strategy<Value = Signal> {
    prop_oneof![Just(Signal::Stop), Just(Signal::Wait), Just(Signal::Ready), Just(Signal::Go)]
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        any::<f64>().prop_map(Shape::Circle),
        any::<Vec<(i32, i32)>>().prop_map(Shape::Polygon),
        (any::<String>(), any::<(i32, i32)>(), proptest::option::of(signals()))
            .prop_map(|(text, at, style)| Shape::Label { text, at, style }),
    ]
}

fn people() -> impl Strategy<Value = Person> {
    let address = (any::<String>(), any::<Option<u16>>(), any::<[String; 2]>())
        .prop_map(|(street, number, lines)| Address { street, number, lines });
    (
        any::<String>(),
        any::<u8>(),
        any::<Vec<String>>(),
        proptest::collection::vec(proptest::option::of(shapes()), 0..4),
        proptest::option::of(address),
    )
        .prop_map(|(name, age, nicknames, drawings, home)| Person {
            name,
            age,
            nicknames,
            drawings,
            home,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn any_text_comes_back(text: String, maybe: Option<String>, texts: [String; 3]) {
        prop_assert_eq!(echo!(text(&text)), text.clone());
        prop_assert_eq!(echo!(owned_text(text.clone())), text);
        prop_assert_eq!(echo!(maybe_text(maybe.clone())), maybe);
        prop_assert_eq!(echo!(texts(texts.clone())), texts);
    }

    #[test]
    fn any_bytes_and_lists_come_back(bytes: Vec<u8>, lists: Vec<Vec<u32>>, strings: Vec<String>) {
        prop_assert_eq!(echo!(bytes(&bytes)), bytes.clone());
        prop_assert_eq!(echo!(owned_bytes(bytes.clone())), bytes);
        prop_assert_eq!(echo!(lists(lists.clone())), lists);
        prop_assert_eq!(echo!(strings(strings.clone())), strings);
    }

    #[test]
    fn any_option_tuple_and_array_comes_back(
        number: Option<u64>,
        nested: Option<Vec<(u32, String)>>,
        triple: (u8, String, Vec<u16>),
        four: (i64, bool, f32, char),
        array: [u16; 5],
    ) {
        prop_assert_eq!(echo!(maybe(number)), number);
        prop_assert_eq!(echo!(nested(nested.clone())), nested);
        prop_assert_eq!(echo!(triple(triple.clone())), triple);
        prop_assert_eq!(echo!(quadruple(four)), four);
        prop_assert_eq!(echo!(array(array)), array);
    }

    #[test]
    fn any_tuple_struct_comes_back(side: f32, name: String, number: u16, more: Option<String>) {
        let (metres, named) = (Metres(side), Named(name, number, more));
        prop_assert_eq!(echo!(metres(metres, named.clone())), (metres, named));
    }

    #[test]
    fn any_enum_with_data_comes_back(shape in shapes()) {
        prop_assert_eq!(echo!(shape(shape.clone())), shape);
    }

    #[test]
    fn any_struct_of_structs_comes_back(people in proptest::collection::vec(people(), 0..4)) {
        prop_assert_eq!(echo!(people(people.clone())), people.clone());
        for person in people {
            prop_assert_eq!(echo!(person(person.clone())), person);
        }
    }
}
