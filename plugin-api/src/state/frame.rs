//! The bytes of a saved state. All numbers are little-endian.
//!
//! | offset | size | content |
//! | --- | --- | --- |
//! | 0 | 4 | `RSST` |
//! | 4 | 1 | format version, 1 |
//! | 5 | 3 | zero |
//! | 8 | 4 | state version; 0 if there is no section |
//! | 12 | n | the payloads of all sections, one after the other |
//! | 12+n | d | the directory: for each section the length of its payload (8 bytes), its encoding (1: 1 MessagePack with field names, 2 the author's own bytes), flags (1: 1 required), the length of its name (1), its name (UTF-8) |
//! | 12+n+d | 4 | the number of sections, at most 1024 |
//! | | 4 | d |
//! | | 8 | the length of the frame |
//! | | 4 | CRC-32 (IEEE) of everything before |
//!
//! What is known last comes last, so that a frame is written in one go; and each payload lies in one piece, so that it
//! is read where it is. Lengths are compared with what is there before anything is allocated.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::section::Encoding;

pub(super) const MAGIC: &[u8; 4] = b"RSST";
pub(super) const FORMAT_VERSION: u8 = 1;
pub(super) const HEADER: usize = 12;
pub(super) const TRAILER: usize = 20;
/// What a section takes in the directory, besides its name.
const ENTRY: usize = 11;

/// How many sections a state has at most.
pub const SECTIONS: usize = 1024;

/// What a frame contains.
#[derive(Debug)]
pub struct Contents {
    /// The state version.
    pub version: u32,
    /// Its sections, in the order in which they were written.
    pub sections: Vec<Entry>,
}

/// A section, as the directory describes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How its payload is written.
    pub encoding: Encoding,
    /// Whether a build that does not know it must not take over.
    pub required: bool,
    /// Where in the frame its payload is.
    pub payload: Range<usize>,
}

impl Entry {
    /// Appends it to a directory.
    pub(super) fn put_into(&self, directory: &mut Vec<u8>) {
        let name = u8::try_from(self.name.len()).expect("its writer has seen to that");
        directory.extend_from_slice(&(self.payload.len() as u64).to_le_bytes());
        directory.extend_from_slice(&[self.encoding as u8, u8::from(self.required), name]);
        directory.extend_from_slice(self.name.as_bytes());
    }
}

/// The first bytes of a frame.
pub(super) fn header(version: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4] = FORMAT_VERSION;
    header[8..].copy_from_slice(&version.to_le_bytes());
    header
}

/// What comes between the directory and the checksum.
pub(super) fn trailer(sections: u32, directory: u32, frame: u64) -> [u8; TRAILER - 4] {
    let mut trailer = [0; TRAILER - 4];
    trailer[..4].copy_from_slice(&sections.to_le_bytes());
    trailer[4..8].copy_from_slice(&directory.to_le_bytes());
    trailer[8..].copy_from_slice(&frame.to_le_bytes());
    trailer
}

/// Whether this is one whole, undamaged frame.
///
/// # Errors
/// It is not; the error says what was expected and found.
pub fn check(frame: &[u8]) -> Result<Contents> {
    let contents = parse(frame)?;
    let (body, sum) = frame.split_at(frame.len() - 4);
    let (stated, found) = (u32_at(sum, 0), crc32fast::hash(body));
    ensure!(stated == found, "saved state is damaged: checksum {stated:08x} expected, {found:08x} found");
    Ok(contents)
}

/// Reads what a frame says of itself, and leaves its checksum alone.
///
/// # Errors
/// It contradicts itself, or is something else.
pub fn parse(frame: &[u8]) -> Result<Contents> {
    ensure!(
        frame.len() >= HEADER + TRAILER,
        "saved state is cut short: a frame has at least {} bytes, found {}",
        HEADER + TRAILER,
        frame.len()
    );
    let found = &frame[..4];
    ensure!(found == MAGIC, "this is not saved state: it begins with {found:02x?}, expected {MAGIC:02x?}");
    ensure!(
        frame[4] == FORMAT_VERSION,
        "saved state has format version {}, this build reads {FORMAT_VERSION}",
        frame[4]
    );
    ensure!(
        frame[5..8] == [0; 3],
        "saved state has flags {:02x?}, which this build does not know",
        &frame[5..8]
    );
    let trailer = frame.len() - TRAILER;
    let stated = u64::from_le_bytes(frame[trailer + 8..trailer + 16].try_into().expect("eight bytes"));
    ensure!(
        stated == frame.len() as u64,
        "saved state is cut short or too long: its frame has {stated} bytes, found {}",
        frame.len()
    );
    let (count, directory) = (u32_at(frame, trailer) as usize, u32_at(frame, trailer + 4) as usize);
    let payloads = (trailer - HEADER).checked_sub(directory).with_context(|| {
        format!("saved state is damaged: a directory of {directory} bytes does not fit into it")
    })?;
    let payloads = HEADER..HEADER + payloads;
    let sections = sections(&frame[payloads.end..trailer], count, payloads)?;
    let version = u32_at(frame, 8);
    ensure!(version == 0 || !sections.is_empty(), "saved state is damaged: version {version} of no section");
    Ok(Contents { version, sections })
}

fn sections(mut directory: &[u8], count: usize, payloads: Range<usize>) -> Result<Vec<Entry>> {
    ensure!(
        count <= SECTIONS && count * ENTRY <= directory.len(),
        "saved state is damaged: {count} sections do not fit into a directory of {} bytes",
        directory.len()
    );
    let mut sections: Vec<Entry> = Vec::with_capacity(count);
    let mut start = payloads.start;
    for number in 0..count {
        let cut = || format!("saved state is damaged: section {number} is not whole");
        let (fixed, rest) = directory.split_at_checked(ENTRY).with_context(cut)?;
        let (name, rest) = rest.split_at_checked(fixed[10].into()).with_context(cut)?;
        directory = rest;
        let length = u64::from_le_bytes(fixed[..8].try_into().expect("eight bytes"));
        let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
        let end = end.filter(|end| *end <= payloads.end).with_context(|| {
            format!("saved state is damaged: section {number} claims {length} bytes, which are not there")
        })?;
        let name = std::str::from_utf8(name).with_context(cut)?.to_owned();
        ensure!(sections.iter().all(|section| section.name != name), "saved state has two sections `{name}`");
        let required = match fixed[9] {
            0 => false,
            1 => true,
            other => {
                bail!("section `{name}` of the saved state has flags {other}, which this build does not know")
            }
        };
        let encoding = Encoding::of(fixed[8]).with_context(|| {
            format!(
                "section `{name}` of the saved state has encoding {}, which this build does not know",
                fixed[8]
            )
        })?;
        sections.push(Entry { name, encoding, required, payload: start..end });
        start = end;
    }
    ensure!(
        directory.is_empty() && start == payloads.end,
        "saved state is damaged: its directory does not describe all of it"
    );
    Ok(sections)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}
