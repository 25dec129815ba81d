//! Whether bytes are one whole MessagePack value, before anybody makes anything of them.
//!
//! A reader of MessagePack descends as deep as the bytes say, on the thread's stack, and leaves alone what comes behind
//! the value. What it makes room for is what they claim. Here nothing is made: lengths are compared with what is there,
//! and levels are counted.

use anyhow::{Context, Result, bail, ensure};

/// How deep a value may be nested: as deep as `serde_json` reads, and less than half of what a thread's stack has room
/// for without optimisation.
pub const DEPTH: usize = 128;

/// # Errors
/// It is cut short, nested too deeply, no MessagePack, or more than one value.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    // How many values are still to come, on each level that has been entered.
    let mut levels = vec![1];
    while let Some(level) = levels.last_mut() {
        if *level == 0 {
            levels.pop();
            continue;
        }
        *level -= 1;
        let inside = next(&mut rest)?;
        // Each of them has at least one byte.
        ensure!(inside <= rest.len() as u64, "{inside} values are to follow, and {} bytes do", rest.len());
        if inside > 0 {
            ensure!(levels.len() <= DEPTH, "it is nested more than {DEPTH} levels deep");
            levels.push(inside);
        }
    }
    ensure!(rest.is_empty(), "{} bytes come behind it", rest.len());
    Ok(())
}

/// Goes over one value, or over the beginning of one that has others inside; returns how many it has.
fn next(rest: &mut &[u8]) -> Result<u64> {
    let first = number(rest, 1)?;
    let (bytes, inside) = match first {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
        0x80..=0x8f => (0, 2 * (first & 0xf)),
        0x90..=0x9f => (0, first & 0xf),
        0xa0..=0xbf => (first & 0x1f, 0),
        // Bytes, extensions (with their type), and text, behind their lengths.
        0xc4..=0xc6 => (number(rest, 1 << (first - 0xc4))?, 0),
        0xc7..=0xc9 => (number(rest, 1 << (first - 0xc7))? + 1, 0),
        0xd9..=0xdb => (number(rest, 1 << (first - 0xd9))?, 0),
        // Numbers, and extensions of a fixed length.
        0xca..=0xcb => (4 << (first - 0xca), 0),
        0xcc..=0xcf => (1 << (first - 0xcc), 0),
        0xd0..=0xd3 => (1 << (first - 0xd0), 0),
        0xd4..=0xd8 => ((1 << (first - 0xd4)) + 1, 0),
        0xdc..=0xdd => (0, number(rest, 2 << (first - 0xdc))?),
        0xde..=0xdf => (0, 2 * number(rest, 2 << (first - 0xde))?),
        _ => bail!("a value begins with {first:#04x}, which is no MessagePack"),
    };
    take(rest, bytes)?;
    Ok(inside)
}

/// A number of 1, 2 or 4 bytes.
fn number(rest: &mut &[u8], bytes: u64) -> Result<u64> {
    Ok(take(rest, bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], bytes: u64) -> Result<&'a [u8]> {
    let split = usize::try_from(bytes).ok().and_then(|bytes| rest.split_at_checked(bytes));
    let (taken, left) = split
        .with_context(|| format!("it is cut short: {bytes} bytes are to follow, and {} do", rest.len()))?;
    *rest = left;
    Ok(taken)
}
