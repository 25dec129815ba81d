//! What bytes claim to contain is not what is made room for: the most that reading them takes from the allocator stands
//! in proportion to the bytes that are there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use plugin_api::state::{Encoding, MAIN};
use plugin_api::{Saved, Section};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Counts what this thread has, and the most it ever had.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // Not while the thread ends: then nobody asks any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        MOST.with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: every request is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: promised by the caller. Not by way of `alloc`: pages that nobody touches are counted all the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // For a moment there may be both.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: promised by the caller.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that is taken at any moment while this runs.
fn most_taken<T>(run: impl FnOnce() -> T) -> usize {
    let before = NOW.get();
    MOST.set(before);
    run();
    (MOST.get() - before) as usize
}

/// What serde may make room for before it has seen anything.
const CONSTANT: usize = 2 << 20;
/// What a byte may become: a JSON value, in a vector that is being replaced by one twice as long.
const VALUES: usize = 4 * size_of::<Value>();

#[track_caller]
fn in_proportion(times: usize, bytes: &[u8], run: impl FnOnce()) {
    let taken = most_taken(run);
    let most = times * bytes.len() + CONSTANT;
    assert!(taken <= most, "{taken} bytes for {}: {:02x?}", bytes.len(), &bytes[..bytes.len().min(40)]);
}

/// A frame with these payloads: encoding, flags, name, payload. `lie` changes it before its checksum is made.
fn frame(sections: &[(u8, &str, &[u8])], lie: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = b"RSST\x01\0\0\0\x01\0\0\0".to_vec();
    sections.iter().for_each(|(_, _, payload)| frame.extend_from_slice(payload));
    let payloads = frame.len();
    for (encoding, name, payload) in sections {
        frame.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        frame.extend_from_slice(&[*encoding, 1, name.len() as u8]);
        frame.extend_from_slice(name.as_bytes());
    }
    let directory = (frame.len() - payloads) as u32;
    frame.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    frame.extend_from_slice(&directory.to_le_bytes());
    frame.extend_from_slice(&(frame.len() as u64 + 12).to_le_bytes());
    lie(&mut frame);
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame
}

#[test]
fn the_count_sees_what_is_taken_and_given_back() {
    assert!(most_taken(|| vec![1u8; 5 << 20].len() + vec![1u8; 1 << 20].len()) >= 5 << 20);
    assert!(most_taken(|| vec![0u8; 64 << 20].len()) >= 64 << 20);
    assert!(most_taken(|| ()) < 1000);
}

#[test]
fn a_frame_takes_no_more_than_it_has() {
    let bytes = Encoding::Bytes as u8;
    let large = vec![7; 1 << 20];
    let names: Vec<String> = (0..1024).map(|number| format!("{number:0>200}")).collect();
    let many: Vec<_> = names.iter().map(|name| (bytes, name.as_str(), &[][..])).collect();
    for sections in [&[(bytes, "", &b"text"[..])][..], &[(bytes, "", &large)], &many] {
        let whole = frame(sections, |_| ());
        in_proportion(3, &whole, || assert!(Saved::from_frame(&whole).is_ok()));
        // Every number of the last page, and the length of the first section, as large as it can be.
        let end = whole.len() - 4;
        let directory = end - 16 - sections.iter().map(|(_, name, _)| 11 + name.len()).sum::<usize>();
        for lie in [end - 16..end - 12, end - 12..end - 8, end - 8..end, directory..directory + 8] {
            let hostile = frame(sections, |frame| frame[lie.clone()].fill(0xff));
            in_proportion(3, &hostile, || assert!(Saved::from_frame(&hostile).is_err(), "{lie:?}"));
        }
    }
}

/// Reads a payload as something, by a section's own reader and by that of the whole state.
#[track_caller]
fn read<T: DeserializeOwned>(payload: &[u8]) {
    let pack = Encoding::MessagePack as u8;
    let frame = frame(&[(pack, MAIN, payload), (pack, "other", payload)], |_| ());
    let saved = Saved::from_frame(&frame).unwrap();
    let other = saved.section("other").unwrap();
    in_proportion(VALUES, payload, || drop((saved.decode::<T>(), other.decode::<T>())));
    in_proportion(VALUES, payload, || drop(saved.to_json()));
}

#[track_caller]
fn read_as_anything(payload: &[u8]) {
    read::<Vec<u64>>(payload);
    read::<Vec<u8>>(payload);
    read::<Vec<Vec<String>>>(payload);
    read::<String>(payload);
    read::<BTreeMap<String, u64>>(payload);
    read::<BTreeMap<String, Vec<u64>>>(payload);
    read::<Value>(payload);
    read::<Vec<Value>>(payload);
}

#[test]
fn lengths_that_are_not_there_make_no_room() {
    // Arrays, maps, bytes, text and extensions that claim as much as can be claimed.
    let claims: [&[u8]; 5] = [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
    ];
    // Each of them inside of what another kind of value begins with: an array, a map's value, a map's key.
    let around: [&[u8]; 4] = [b"", b"\x91", b"\x81\xa1a", b"\x81"];
    for (outer, inner) in claims.iter().flat_map(|outer| claims.iter().map(move |inner| (outer, inner))) {
        for around in around {
            for rest in [&b""[..], b"\x01\x02\x03", &[0x01; 5000]] {
                read_as_anything(&[around, outer, rest].concat());
                read_as_anything(&[around, outer, &inner.repeat(20), rest].concat());
            }
        }
    }
}

#[test]
fn what_is_there_takes_room_in_proportion_to_it() {
    // The most that a byte can become.
    let numbers = [b"\xdd\x00\x01\x00\x00".as_slice(), &[1; 1 << 16]].concat();
    let arrays = [b"\xdd\x00\x01\x00\x00".as_slice(), &[0x90; 1 << 16]].concat();
    let texts = [b"\xdd\x00\x01\x00\x00".as_slice(), &[0xa0; 1 << 16]].concat();
    for payload in [&numbers, &arrays, &texts] {
        read::<Value>(payload);
        read::<Vec<u64>>(payload);
        read::<Vec<Vec<u64>>>(payload);
        read::<Vec<String>>(payload);
    }
    let section = Section::encode(MAIN, &"x".repeat(1 << 20)).unwrap().payload().into_owned();
    read::<String>(&section);
}
