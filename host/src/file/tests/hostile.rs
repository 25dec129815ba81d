//! Bytes that no linker wrote.

use super::sample::{Random, library, vet};
use crate::file::{Part, VetError};

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

/// The offsets of segments and sections, their ends, and those of the tables themselves.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let (phoff, phnum) = (u64_at(bytes, 0x20), u16_at(bytes, 0x38));
    let (shoff, shnum) = (u64_at(bytes, 0x28), u16_at(bytes, 0x3c));
    let segments =
        (0..phnum).map(|n| (u64_at(bytes, phoff + n * 56 + 8), u64_at(bytes, phoff + n * 56 + 32)));
    let sections =
        (0..shnum).map(|n| (u64_at(bytes, shoff + n * 64 + 24), u64_at(bytes, shoff + n * 64 + 32)));
    let tables = [(0, 64), (phoff, phnum * 56), (shoff, shnum * 64)];
    let parts = segments.chain(sections).chain(tables);
    parts.flat_map(|(at, size)| [at, at + size]).filter(|at| *at <= bytes.len()).collect()
}

#[test]
fn a_library_cut_anywhere_is_refused() {
    let bytes = library();
    let mut random = Random(1);
    let at_random = (0..1_000).map(|_| random.below(bytes.len()));
    let around = boundaries(bytes).into_iter().flat_map(|at| [at.saturating_sub(1), at, at + 1]);
    for length in around.chain(at_random).filter(|length| *length < bytes.len()) {
        let error = vet(&bytes[..length]).expect_err("cut short");
        assert!(error.may_be_incomplete(), "{length}: {error}");
    }
}

#[test]
fn a_library_cut_and_filled_up_with_zeros_is_no_trouble() {
    let mut random = Random(2);
    for _ in 0..500 {
        let mut bytes = library().to_vec();
        let at = random.below(bytes.len());
        bytes[at..].fill(0);
        let _ = vet(&bytes);
    }
}

#[test]
fn flipped_bits_are_no_trouble() {
    let good = library();
    let tables = boundaries(good);
    let mut random = Random(3);
    let mut refused = 0;
    for _ in 0..10_000 {
        let mut bytes = good.to_vec();
        for _ in 0..=random.below(3) {
            // Half of them in a header, the rest near where a segment or section begins.
            let start = if random.below(2) == 0 { 0 } else { tables[random.below(tables.len())] };
            let at = (start + random.below(1_024)).min(bytes.len() - 1);
            bytes[at] ^= 1 << random.below(8);
        }
        refused += usize::from(vet(&bytes).is_err());
    }
    assert!(refused > 100, "the flips do not hit anything: {refused}");
}

#[test]
fn words_of_ones_are_no_trouble() {
    let good = library();
    for at in boundaries(good).into_iter().chain((0..2_048).step_by(4)) {
        for offset in (0..64).step_by(4) {
            for (size, value) in [(2, 0xff), (4, 0xff), (8, 0xff), (8, 0x7f)] {
                let mut bytes = good.to_vec();
                let at = (at + offset).min(bytes.len() - size);
                bytes[at..at + size].fill(value);
                let _ = vet(&bytes);
            }
        }
    }
}

#[test]
fn counts_that_cannot_be_are_refused() {
    let patched = |at: usize, value: &[u8]| {
        let mut bytes = library().to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        vet(&bytes).unwrap_err()
    };
    // 0xffff means "see section 0", which says 0.
    assert!(matches!(patched(0x38, &[0xff, 0xff]), VetError::Damaged { .. }));
    let error = patched(0x38, &[0xfe, 0xff]);
    assert!(matches!(error, VetError::CutShort { part: Part::SegmentTable, .. }), "{error}");
    let error = patched(0x3c, &[0xff, 0xff]);
    assert!(matches!(error, VetError::CutShort { part: Part::SectionTable, .. }), "{error}");
    // No sections in the header: section 0 says how many.
    let mut bytes = library().to_vec();
    let section_0 = u64_at(&bytes, 0x28);
    bytes[0x3c..0x3e].fill(0);
    bytes[section_0 + 32..section_0 + 36].fill(0xff);
    let error = vet(&bytes).unwrap_err();
    assert!(matches!(error, VetError::CutShort { part: Part::SectionTable, .. }), "{error}");
    bytes[section_0 + 36..section_0 + 40].fill(0xff);
    assert!(matches!(vet(&bytes).unwrap_err(), VetError::Damaged { .. }));
}
