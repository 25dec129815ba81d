//! State that is not what it should be: cut, damaged, forged. It is refused, or it is what it says it is; and nothing
//! that is in it makes a reader panic.

use std::collections::BTreeMap;
use std::io::Read as _;

use plugin_api::state::{DEPTH, Encoding, MAIN};
use plugin_api::{Saved, Section};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What comes before the payloads, and what between the directory and the checksum.
const HEADER: usize = 12;
const TRAILER: usize = 16;
const SUM: usize = 4;

/// Numbers that look random and are the same each time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A tiny state, one of several sections, and one of a megabyte.
fn samples() -> [Saved; 3] {
    let tiny = Saved::encode(&5u8).unwrap().with_version(1);
    let counts: BTreeMap<String, u64> = (0..50).map(|number| (format!("key {number}"), number)).collect();
    let several = Saved::encode(&counts)
        .unwrap()
        .with(Section::encode("hints", &["one", "two"]).unwrap().optional())
        .with(Section::bytes("raw", (0..=255).collect()))
        .with(Section::bytes("empty", Vec::new()).optional())
        .with_version(40);
    let mut numbers = Numbers(1);
    let large = Section::bytes(MAIN, (0..1 << 20).map(|_| numbers.next() as u8).collect());
    [tiny, several, Saved::none().with(large).with_version(3)]
}

/// With the checksum that belongs to it.
fn with_sum(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame
}

#[test]
fn a_frame_that_was_cut_is_refused() {
    let mut numbers = Numbers(2);
    for saved in samples() {
        let frame = saved.to_frame();
        let half = frame.len() / 2;
        let anywhere = (0..64).map(|_| half + numbers.below(frame.len() - half));
        for len in [0, half, frame.len() - 2].into_iter().chain(anywhere) {
            assert!(Saved::from_frame(&frame[..len]).is_err(), "{} bytes of {}", len, frame.len());
        }
    }
}

#[test]
fn a_frame_with_some_bits_flipped_is_refused_unless_they_were_flipped_back() {
    let mut numbers = Numbers(3);
    for saved in samples() {
        let frame = saved.to_frame();
        let mut damaged = frame.clone();
        for attempt in 0..1000 {
            let bits: Vec<usize> =
                (0..1 + numbers.below(8)).map(|_| numbers.below(frame.len() * 8)).collect();
            let flip = |damaged: &mut Vec<u8>| bits.iter().for_each(|bit| damaged[bit / 8] ^= 1 << (bit % 8));
            flip(&mut damaged);
            match Saved::from_frame(&damaged) {
                Ok(read) => assert!(damaged == frame && read == saved, "attempt {attempt}: {bits:?}"),
                Err(_) => assert!(damaged != frame, "attempt {attempt}: {bits:?}"),
            }
            flip(&mut damaged);
        }
    }
}

/// One shape that a payload may be read as. The answers do not matter; that there are answers does.
#[derive(Debug, PartialEq, Deserialize)]
#[allow(dead_code)]
struct Shape {
    name: String,
    #[serde(default)]
    number: Option<f32>,
    inner: Vec<Kind>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[allow(dead_code)]
enum Kind {
    Nothing,
    One(i8),
    In(Box<Kind>),
    Two(char, u128),
    Named { inner: Box<Shape> },
}

/// Reads a section as many things.
fn read_as_anything(section: &Section) {
    fn read<T: DeserializeOwned>(section: &Section) {
        if let Err(error) = section.decode::<T>() {
            assert!(!format!("{error:#}").is_empty());
        }
    }
    read::<Value>(section);
    read::<u64>(section);
    read::<String>(section);
    read::<Vec<u8>>(section);
    read::<Vec<Vec<String>>>(section);
    read::<(bool, Option<i64>, [f64; 3])>(section);
    read::<BTreeMap<String, Value>>(section);
    read::<BTreeMap<u32, (u8, char)>>(section);
    read::<Shape>(section);
    read::<Kind>(section);
    read::<Vec<Kind>>(section);
    read::<()>(section);
}

/// Does with a state all that can be done with one.
fn use_everything(saved: &Saved) {
    for section in saved.sections() {
        assert_eq!(saved.section(section.name()), Some(section));
        let mut bytes = Vec::new();
        section.reader().read_to_end(&mut bytes).unwrap();
        assert!(*section.payload() == bytes && section.len() == bytes.len());
        assert_eq!(section.is_empty(), bytes.is_empty());
        read_as_anything(section);
    }
    let mut main = Vec::new();
    saved.reader().read_to_end(&mut main).unwrap();
    assert!(*saved.payload() == main);
    let _ = (saved.to_json(), saved.decode::<Shape>(), format!("{saved:?}"));
}

/// Whether it is a frame; then it is the one that its content makes.
fn consistent(frame: &[u8]) -> Result<bool, TestCaseError> {
    let Ok(saved) = Saved::from_frame(frame) else { return Ok(false) };
    use_everything(&saved);
    prop_assert!(saved.to_frame() == frame, "{saved:?} is written in another way");
    Ok(true)
}

/// Counts what is accepted of what a strategy makes.
fn accepted<S: Strategy>(cases: u32, strategy: S, frame: impl Fn(S::Value) -> Vec<u8>) -> u32 {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let count = std::cell::Cell::new(0);
    let run = TestRunner::new(config).run(&strategy, |value| {
        count.set(count.get() + u32::from(consistent(&frame(value))?));
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    count.get()
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

#[test]
fn bytes_that_were_never_a_frame_are_refused() {
    assert_eq!(accepted(2000, bytes(400), |bytes| bytes), 0);
    // Nor does the first page help, nor a checksum that is right.
    let behind = |bytes: Vec<u8>| with_sum([b"RSST\x01\0\0\0\x07\0\0\0".as_slice(), &bytes].concat());
    assert_eq!(accepted(2000, bytes(400), behind), 0);
}

/// A section as a forger writes it: mostly as it should be.
#[derive(Clone, Debug)]
struct Forged {
    name: Vec<u8>,
    encoding: u8,
    flags: u8,
    payload: Vec<u8>,
    /// What is added to the length that the directory states.
    more: i8,
}

fn forged() -> impl Strategy<Value = Forged> {
    let name = prop_oneof![6 => "[a-c]{0,3}".prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 0..3)];
    let encoding = prop_oneof![10 => 1u8..3, 1 => any::<u8>()];
    let flags = prop_oneof![10 => 0u8..2, 1 => any::<u8>()];
    let more = prop_oneof![10 => Just(0i8), 1 => any::<i8>()];
    let all = (name, encoding, flags, bytes(40), more);
    all.prop_map(|(name, encoding, flags, payload, more)| Forged { name, encoding, flags, payload, more })
}

/// Header and trailer as they should be, but for what is added to the numbers in the trailer.
fn forged_frame((version, sections, more): (u32, Vec<Forged>, [i8; 3])) -> Vec<u8> {
    let mut frame = [b"RSST\x01\0\0\0", &version.to_le_bytes()[..]].concat();
    sections.iter().for_each(|section| frame.extend_from_slice(&section.payload));
    let payloads = frame.len();
    for Forged { name, encoding, flags, payload, more } in &sections {
        let length = (payload.len() as u64).wrapping_add_signed((*more).into());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&[*encoding, *flags, name.len() as u8]);
        frame.extend_from_slice(name);
    }
    let directory = (frame.len() - payloads) as u32;
    let count = (sections.len() as u32).wrapping_add_signed(more[0].into());
    let length = ((frame.len() + TRAILER + SUM) as u64).wrapping_add_signed(more[2].into());
    frame.extend_from_slice(&count.to_le_bytes());
    frame.extend_from_slice(&directory.wrapping_add_signed(more[1].into()).to_le_bytes());
    frame.extend_from_slice(&length.to_le_bytes());
    with_sum(frame)
}

#[test]
fn a_forged_frame_is_refused_or_is_the_one_that_its_content_makes() {
    let more = || prop_oneof![15 => Just(0i8), 1 => any::<i8>()];
    let strategy = (0u32..4, prop::collection::vec(forged(), 0..4), [more(), more(), more()]);
    let taken = accepted(4000, strategy, forged_frame);
    assert!((500..3500).contains(&taken), "{taken} of 4000: both outcomes are to be seen");
}

#[test]
fn a_frame_whose_parts_were_exchanged_is_refused_or_is_the_one_that_its_content_makes() {
    let frame = samples()[1].to_frame();
    let body = frame.len() - SUM;
    let patch = (HEADER..body, bytes(12));
    let patched = |patches: Vec<(usize, Vec<u8>)>| {
        let mut forged = frame[..body].to_vec();
        for (at, bytes) in patches {
            let end = body.min(at + bytes.len());
            forged[at..end].copy_from_slice(&bytes[..end - at]);
        }
        with_sum(forged)
    };
    let taken = accepted(2000, prop::collection::vec(patch, 1..4), patched);
    assert!(taken > 100, "{taken} of 2000: what is exchanged in a payload is for its reader to notice");
}

/// MessagePack that may be anything, and MessagePack that begins well.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    // Each of these says that more follows: long and short, arrays, maps, text, bytes, extensions.
    let begins: &[u8] =
        &[0x81, 0x84, 0x92, 0x9f, 0xa3, 0xc4, 0xc6, 0xc7, 0xc9, 0xd4, 0xd8, 0xd9, 0xdb, 0xdd, 0xdf];
    let begin = prop::sample::select(begins.to_vec());
    let some = prop_oneof![3 => begin, 2 => any::<u8>(), 1 => 0x00u8..0x10];
    prop_oneof![bytes(64), prop::collection::vec(some, 1..64)]
}

/// A state with this payload.
fn of_payload(payload: &[u8]) -> Vec<u8> {
    let section = |name: &str| Forged {
        name: name.into(),
        encoding: Encoding::MessagePack as u8,
        flags: 1,
        payload: payload.to_vec(),
        more: 0,
    };
    forged_frame((1, vec![section(""), section("other")], [0; 3]))
}

#[test]
fn a_payload_of_any_bytes_is_read_or_refused() {
    assert_eq!(accepted(2000, payload(), |payload| of_payload(&payload)), 2000);
}

#[test]
fn a_payload_that_is_cut_is_refused_by_whoever_reads_it_whole() {
    let value = serde_json::json!({ "name": "a", "inner": [1, -70_000, 0.5, null, true, { "b": "text" }] });
    let whole = Section::encode(MAIN, &value).unwrap().payload().into_owned();
    let read = |payload: &[u8]| Saved::from_frame(&of_payload(payload)).unwrap().decode::<Value>();
    assert_eq!(read(&whole).unwrap(), value);
    for len in 0..whole.len() {
        assert!(read(&whole[..len]).is_err(), "{len} bytes");
    }
    let longer = [&whole[..], &whole].concat();
    assert!(read(&longer).is_err(), "what comes behind a value would be lost");
}

#[test]
fn a_payload_that_is_nested_too_deeply_is_refused() {
    // Arrays, maps, and the variants of an enum, whose reader counts no levels of its own.
    for begin in [&[0x91][..], &[0x81, 0xa0], &[0x92, 0x00], &[0x81, 0x91], &[0x81, 0xa2, b'I', b'n']] {
        for levels in [DEPTH, DEPTH + 1, 1000, 100_000] {
            let payload = [begin.repeat(levels), vec![0xc0]].concat();
            let saved = Saved::from_frame(&of_payload(&payload)).unwrap();
            saved.sections().iter().for_each(read_as_anything);
            let error = saved.decode::<Kind>().map(|_| "a kind").unwrap_err();
            let deep = format!("{error:#}").contains("nested more than 128 levels deep");
            // The last ones have two levels each time.
            assert_eq!(deep, levels > DEPTH || begin == [0x81, 0x91], "{error:#}");
        }
    }
    let deepest = [vec![0x91; DEPTH], vec![0xc0]].concat();
    assert!(Saved::from_frame(&of_payload(&deepest)).unwrap().decode::<Value>().is_ok());
}
