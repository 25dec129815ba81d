use std::io::{Read, Write};

use super::*;

fn sample() -> Saved {
    let hints = Section::encode("hints", &[1u8, 2, 3]).unwrap().optional();
    Saved::encode(&vec![("alice", 3u32), ("bob", 40_000)])
        .unwrap()
        .with(hints)
        .with(Section::bytes("raw", b"RSST and more".to_vec()))
        .with_version(7)
}

#[test]
fn a_frame_comes_back_as_it_was() {
    let saved = sample();
    assert_eq!(Saved::from_frame(&saved.to_frame()).unwrap(), saved);
    assert_eq!(Saved::from_frame(&Saved::none().to_frame()).unwrap(), Saved::none());
    assert_eq!(
        saved.to_json().unwrap(),
        serde_json::json!({
            "state": [["alice", 3], ["bob", 40_000]],
            "hints": [1, 2, 3],
            "raw": "13 bytes in the plugin's own encoding",
        })
    );
    let plain = Saved::encode("text").unwrap();
    assert_eq!(plain.to_json().unwrap(), serde_json::json!("text"));
}

#[test]
fn no_section_is_shown_in_place_of_another() {
    let saved = Saved::encode("main").unwrap().with(Section::encode("state", "other").unwrap());
    assert_eq!(saved.to_json().unwrap(), serde_json::json!({ "": "main", "state": "other" }));
}

#[test]
fn a_frame_cut_anywhere_is_refused() {
    let frame = sample().to_frame();
    for len in 0..frame.len() {
        assert!(Saved::from_frame(&frame[..len]).is_err(), "cut to {len} bytes");
    }
    let mut longer = frame.clone();
    longer.push(0);
    assert!(Saved::from_frame(&longer).is_err());
}

#[test]
fn a_frame_with_any_bit_flipped_is_refused() {
    let frame = sample().to_frame();
    for bit in 0..frame.len() * 8 {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Saved::from_frame(&damaged).is_err(), "bit {bit}");
    }
}

/// A frame whose checksum is right and whose content is not.
fn forged(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut frame = sample().to_frame();
    frame.truncate(frame.len() - 4);
    change(&mut frame);
    let sum = crc32fast::hash(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    format!("{:#}", Saved::from_frame(&frame).unwrap_err())
}

#[test]
fn a_frame_that_claims_what_is_not_there_is_refused_by_what_it_claims() {
    let end = sample().to_frame().len() - 4;
    // The directory: three entries of 11 bytes, and the names "", "hints" and "raw".
    let directory = end - 16 - (33 + 8);
    let all = |frame: &mut Vec<u8>, range: std::ops::Range<usize>| frame[range].fill(0xff);
    assert!(forged(|frame| all(frame, end - 16..end - 12)).contains("4294967295 sections do not fit"));
    assert!(forged(|frame| all(frame, end - 12..end - 8)).contains("a directory of 4294967295 bytes"));
    assert!(forged(|frame| all(frame, end - 8..end)).contains("its frame has 18446744073709551615 bytes"));
    assert!(
        forged(|frame| all(frame, directory..directory + 8))
            .contains("section 0 claims 18446744073709551615 bytes")
    );
    assert!(forged(|frame| frame[directory + 8] = 9).contains("encoding 9"));
    assert!(forged(|frame| frame[directory + 9] = 2).contains("flags 2"));
    assert!(forged(|frame| frame[directory + 10] = 255).contains("section 0 is not whole"));
    // One byte of a payload belongs to nobody.
    assert!(forged(|frame| frame[directory] -= 1).contains("does not describe all of it"));
    assert!(forged(|frame| frame[4] = 2).contains("format version 2, this build reads 1"));
    assert!(forged(|frame| frame[6] = 1).contains("flags"));
    assert!(forged(|frame| frame[0] = b'X').contains("this is not saved state"));
    // "hints" becomes a second section without a name, and its name a payload of nobody.
    assert!(forged(|frame| frame[directory + 11 + 10] = 0).contains("two sections ``"));
}

#[test]
fn state_of_another_shape_is_refused_with_its_version() {
    let error = sample().decode::<u64>().unwrap_err();
    assert!(format!("{error:#}").starts_with("state version 7 cannot be read as u64"), "{error:#}");
    let hints = sample().section("hints").unwrap().decode::<String>().unwrap_err();
    assert!(format!("{hints:#}").starts_with("section `hints` cannot be read as"), "{hints:#}");
    let raw = sample().section("raw").unwrap().decode::<String>().unwrap_err();
    assert!(raw.to_string().contains("written as Bytes, not as MessagePack"), "{raw}");
    assert!(Saved::none().decode::<u64>().unwrap_err().to_string().contains("nothing was saved"));
}

#[test]
fn what_is_written_piece_by_piece_is_what_is_written_at_once() {
    let raw: Vec<u8> = (0..3_000_000u32).map(|number| (number / 7) as u8).collect();
    let mut frame = Vec::new();
    let (mut pieces, mut longest) = (0, 0);
    let mut append = |bytes: &[u8]| {
        (pieces, longest) = (pieces + 1, longest.max(bytes.len()));
        frame.extend_from_slice(bytes);
    };
    let mut writer = StateWriter::new(3, &mut append);
    writer.encode(MAIN, &("total", 5)).unwrap();
    let mut section = writer.section("raw").unwrap();
    raw.chunks(1000).for_each(|chunk| section.write_all(chunk).unwrap());
    let mut rest = writer.section("rest").unwrap().optional();
    rest.write_all(b"!").unwrap();
    assert!(writer.section("raw").unwrap_err().to_string().contains("two sections `raw`"));
    writer.finish().unwrap();
    assert!(pieces > 40 && longest <= 64 << 10, "{pieces} pieces, the longest of {longest} bytes");

    let at_once = Saved::encode(&("total", 5))
        .unwrap()
        .with(Section::bytes("raw", raw.clone()))
        .with(Section::bytes("rest", b"!".to_vec()).optional())
        .with_version(3);
    assert!(at_once.to_frame() == frame);

    let read = Saved::from_frame(&frame).unwrap();
    let mut again = Vec::new();
    read.section("raw").unwrap().reader().read_to_end(&mut again).unwrap();
    assert!(again == raw);
    assert_eq!(read.section("rest").map(|rest| (rest.is_required(), rest.len())), Some((false, 1)));
}

#[test]
fn a_value_that_takes_many_pieces_is_read_from_them() {
    let value: Vec<String> = (0..100_000).map(|number| format!("value {number}")).collect();
    let saved = Saved::encode(&value).unwrap();
    assert!(saved.sections()[0].reader().count() > 4);
    assert!(saved.decode::<Vec<String>>().unwrap() == value);
    let framed = Saved::from_frame(&saved.to_frame()).unwrap();
    assert_eq!(framed.sections()[0].reader().count(), 1, "what is lent lies in one piece");
    assert!(framed.decode::<Vec<String>>().unwrap() == value);
    assert!(framed == saved);
}

#[test]
fn a_section_is_known_as_soon_as_somebody_asks_for_it() {
    let saved = Saved::from_frame(&sample().to_frame()).unwrap();
    let handed_over = saved.clone();
    let unknown = || saved.not_looked_at().map(Section::name).collect::<Vec<_>>();
    assert_eq!(unknown(), ["hints", "raw"]);
    handed_over.section("raw").unwrap();
    assert_eq!(unknown(), ["hints"]);
}
