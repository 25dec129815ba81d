//! Bytes that claim to be a state: as they come, and with the length and the checksum that belong to them. Then as the
//! one payload of a state, which whoever reads it takes for many things.
#![no_main]

use std::collections::BTreeMap;
use std::io::Read as _;

use libfuzzer_sys::fuzz_target;
use plugin_api::{Saved, Section};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    accepted_as_it_is(bytes);
    accepted_as_it_is(&repaired(bytes));
    assert!(accepted_as_it_is(&wrapped(bytes)), "a frame of any payload is a frame");
    one_value_or_none(bytes);
    // Its beginning again and again, so that it is nested deeply if it can be.
    let beginning = &bytes[..bytes.len().min(8)];
    let often = (64 << 10) / beginning.len().max(1);
    read(&wrapped(&beginning.repeat(often))).sections().iter().for_each(read_as_anything);
});

/// Whether it is a frame; then it is the one that its content makes.
fn accepted_as_it_is(frame: &[u8]) -> bool {
    let Ok(saved) = Saved::from_frame(frame) else { return false };
    assert!(saved.to_frame() == frame, "{saved:?} is written in another way");
    for section in saved.sections() {
        let mut bytes = Vec::new();
        section.reader().read_to_end(&mut bytes).expect("it is in memory");
        assert!(*section.payload() == bytes && section.len() == bytes.len());
        read_as_anything(section);
    }
    let shown = saved.to_json().is_ok();
    assert!(shown || saved.sections().iter().any(|section| section.decode::<Value>().is_err()));
    let _ = (saved.payload().len(), saved.decode::<Shape>(), format!("{saved:?}"));
    true
}

/// What is one value is none with a byte more or less.
fn one_value_or_none(bytes: &[u8]) {
    let is_value = |payload: &[u8]| read(&wrapped(payload)).decode::<Value>().is_ok();
    if is_value(bytes) {
        assert!(!is_value(&bytes[..bytes.len() - 1]), "what is missing was not missed");
        assert!(!is_value(&[bytes, &[0xc0]].concat()), "what comes behind a value was not seen");
    }
}

fn read(frame: &[u8]) -> Saved {
    Saved::from_frame(frame).expect("it is one")
}

/// With the first bytes, the length and the checksum that a frame has.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes[..bytes.len().saturating_sub(4)].to_vec();
    if let Some(length) = frame.len().checked_sub(8).filter(|length| *length >= 8) {
        frame[..8].copy_from_slice(b"RSST\x01\0\0\0");
        frame[length..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    }
    with_sum(frame)
}

/// A state with one section, without a name.
fn wrapped(payload: &[u8]) -> Vec<u8> {
    let mut frame = [b"RSST\x01\0\0\0\x01\0\0\0", payload].concat();
    frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    // MessagePack, required, no name; one section, whose entry has eleven bytes.
    frame.extend_from_slice(&[1, 1, 0, 1, 0, 0, 0, 11, 0, 0, 0]);
    let length = frame.len() as u64 + 12;
    frame.extend_from_slice(&length.to_le_bytes());
    with_sum(frame)
}

fn with_sum(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct Shape {
    name: String,
    #[serde(default)]
    number: Option<f32>,
    inner: Vec<Kind>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
enum Kind {
    Nothing,
    One(i8),
    /// With a name that is found quickly.
    #[serde(rename = "")]
    In(Box<Kind>),
    Two(char, u128),
    Named {
        inner: Box<Shape>,
    },
}

fn read_as_anything(section: &Section) {
    fn read<T: DeserializeOwned>(section: &Section) {
        let _ = section.decode::<T>();
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
    read::<()>(section);
}
