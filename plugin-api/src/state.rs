//! State on its way from one generation to the next.
//!
//! A [`Saved`] is framed: magic, frame version, encoding, state version, length, payload, checksum. Cut
//! anywhere or with any bit flipped it is refused, never misread. The frame, all little-endian:
//!
//! | offset | size | content |
//! | --- | --- | --- |
//! | 0 | 4 | `RSST` |
//! | 4 | 1 | frame version, 1 |
//! | 5 | 1 | encoding: 0 none, 1 MessagePack with field names, 2 the author's own bytes |
//! | 6 | 2 | zero |
//! | 8 | 4 | state version |
//! | 12 | 8 | length of the payload |
//! | 20 | n | payload |
//! | 20+n | 4 | CRC-32 (IEEE) of everything before |

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: &[u8; 4] = b"RSST";
const FRAME_VERSION: u8 = 1;
const HEADER: usize = 20;
const TRAILER: usize = 4;

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Encoding {
    /// There is no state.
    None = 0,
    /// MessagePack with field names: can be shown as JSON, and a field can be added with `#[serde(default)]`.
    MessagePack = 1,
    /// The author's own bytes.
    Bytes = 2,
}

/// The state of a plugin, as one build wrote it and another reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    version: u32,
    encoding: Encoding,
    payload: Vec<u8>,
}

impl Saved {
    /// The state of a plugin without state.
    pub const fn none() -> Self {
        Saved { version: 0, encoding: Encoding::None, payload: Vec::new() }
    }

    /// Writes a value as MessagePack with field names. Its version is the plugin's `STATE_VERSION`, unless
    /// [`Saved::with_version`] says otherwise.
    ///
    /// # Errors
    /// The value's `Serialize` refuses.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let payload = rmp_serde::to_vec_named(value)
            .with_context(|| format!("the state {} cannot be written", std::any::type_name::<T>()))?;
        Ok(Saved { version: 0, encoding: Encoding::MessagePack, payload })
    }

    /// Keeps bytes that the plugin has written itself.
    pub const fn bytes(payload: Vec<u8>) -> Self {
        Saved { version: 0, encoding: Encoding::Bytes, payload }
    }

    /// States the version explicitly.
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The state version of the build that wrote it.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// How the payload is written.
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The payload's own bytes.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Reads what [`Saved::encode`] wrote.
    ///
    /// # Errors
    /// The payload has another encoding, or is not such a value: the error says where.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let what = std::any::type_name::<T>();
        ensure!(
            self.encoding == Encoding::MessagePack,
            "state version {} is written as {:?}, not as MessagePack: read it with payload()",
            self.version,
            self.encoding
        );
        rmp_serde::from_slice(&self.payload)
            .with_context(|| format!("state version {} cannot be read as {what}", self.version))
    }

    /// The state as JSON, for people.
    ///
    /// # Errors
    /// The payload is the author's own bytes, or not what it claims to be.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        match self.encoding {
            Encoding::None => Ok(serde_json::Value::Null),
            Encoding::MessagePack => self.decode(),
            Encoding::Bytes => bail!("{} bytes in the plugin's own encoding", self.payload.len()),
        }
    }

    /// The sentence with which a plugin refuses a version it cannot read.
    pub fn unsupported(&self, version: u32) -> String {
        format!(
            "this build cannot read state version {version}: load a build that can, or start without the old state"
        )
    }

    /// The frame that crosses between generations.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER + self.payload.len() + TRAILER);
        frame.extend_from_slice(MAGIC);
        frame.extend_from_slice(&[FRAME_VERSION, self.encoding as u8, 0, 0]);
        frame.extend_from_slice(&self.version.to_le_bytes());
        frame.extend_from_slice(&(self.payload.len() as u64).to_le_bytes());
        frame.extend_from_slice(&self.payload);
        let sum = crc32fast::hash(&frame);
        frame.extend_from_slice(&sum.to_le_bytes());
        frame
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// Anything that is not exactly one whole, undamaged frame; the error says what was expected and found.
    pub fn from_frame(frame: &[u8]) -> Result<Self> {
        ensure!(
            frame.len() >= HEADER + TRAILER,
            "saved state is cut short: a frame has at least {} bytes, found {}",
            HEADER + TRAILER,
            frame.len()
        );
        ensure!(
            &frame[..4] == MAGIC,
            "this is not saved state: it begins with {:02x?}, expected {MAGIC:02x?}",
            &frame[..4]
        );
        ensure!(
            frame[4] == FRAME_VERSION,
            "saved state has frame version {}, this build reads {FRAME_VERSION}",
            frame[4]
        );
        let length = u64::from_le_bytes(frame[12..20].try_into().expect("eight bytes"));
        let there = (frame.len() - HEADER - TRAILER) as u64;
        ensure!(
            length == there,
            "saved state is cut short or too long: its payload has {length} bytes, found {there}"
        );
        let (body, sum) = frame.split_at(frame.len() - TRAILER);
        let (stated, found) =
            (u32::from_le_bytes(sum.try_into().expect("four bytes")), crc32fast::hash(body));
        ensure!(stated == found, "saved state is damaged: checksum {stated:08x} expected, {found:08x} found");
        let encoding = match frame[5] {
            0 => Encoding::None,
            1 => Encoding::MessagePack,
            2 => Encoding::Bytes,
            other => bail!("saved state has encoding {other}, which this build does not know"),
        };
        ensure!(
            frame[6..8] == [0, 0],
            "saved state has flags {:02x?}, which this build does not know",
            &frame[6..8]
        );
        let version = u32::from_le_bytes(frame[8..12].try_into().expect("four bytes"));
        Ok(Saved { version, encoding, payload: body[HEADER..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Saved {
        Saved::encode(&vec![("alice", 3u32), ("bob", 40_000)]).unwrap().with_version(7)
    }

    #[test]
    fn a_frame_comes_back_as_it_was() {
        let saved = sample();
        assert_eq!(Saved::from_frame(&saved.to_frame()).unwrap(), saved);
        assert_eq!(Saved::from_frame(&Saved::none().to_frame()).unwrap(), Saved::none());
        assert_eq!(saved.to_json().unwrap(), serde_json::json!([["alice", 3], ["bob", 40_000]]));
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

    #[test]
    fn state_of_another_shape_is_refused_with_its_version() {
        let error = sample().decode::<u64>().unwrap_err();
        assert!(format!("{error:#}").starts_with("state version 7 cannot be read as u64"), "{error:#}");
    }
}
