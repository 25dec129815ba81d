//! One named part of a state.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bytes::{Chunks, Rope};
use super::frame::Entry;
use super::{MAIN, SharedBytes, pack};

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

impl Encoding {
    pub(super) const fn of(byte: u8) -> Option<Encoding> {
        match byte {
            1 => Some(Encoding::MessagePack),
            2 => Some(Encoding::Bytes),
            _ => None,
        }
    }
}

/// A named part of a state. See [`Saved::with`](super::Saved::with).
#[derive(Clone)]
pub struct Section {
    name: String,
    encoding: Encoding,
    required: bool,
    payload: Payload,
    /// Shared with clones: it is known as soon as anybody has looked at it.
    looked_at: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Payload {
    Own(Rope),
    Lent(SharedBytes, Range<usize>),
}

impl Payload {
    fn chunks(&self) -> Chunks<'_> {
        match self {
            Payload::Own(rope) => rope.chunks(),
            Payload::Lent(bytes, range) => Chunks::of(&(**bytes).as_ref()[range.clone()]),
        }
    }
}

impl Section {
    /// Writes a value as MessagePack with field names. One that is nested more than [`DEPTH`](super::DEPTH) levels deep
    /// is written, and refused when it is read.
    ///
    /// # Errors
    /// The value's `Serialize` refuses.
    pub fn encode<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<Self> {
        let mut rope = Rope::default();
        rmp_serde::encode::write_named(&mut rope, value)
            .with_context(|| format!("the state {} cannot be written", std::any::type_name::<T>()))?;
        Ok(Section::new(name, Encoding::MessagePack, Payload::Own(rope)))
    }

    /// Keeps bytes that the plugin has written itself.
    pub fn bytes(name: &str, payload: Vec<u8>) -> Self {
        Section::new(name, Encoding::Bytes, Payload::Own(payload.into()))
    }

    fn new(name: &str, encoding: Encoding, payload: Payload) -> Self {
        Section { name: name.to_owned(), encoding, required: true, payload, looked_at: Arc::default() }
    }

    pub(super) fn lent(entry: Entry, bytes: SharedBytes) -> Self {
        let Entry { name, encoding, required, payload } = entry;
        let payload = Payload::Lent(bytes, payload);
        Section { name, encoding, required, payload, looked_at: Arc::default() }
    }

    /// A build that does not know this section may take over all the same: it keeps it, and hands it on.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a build that does not know it must not take over.
    pub const fn is_required(&self) -> bool {
        self.required
    }

    /// How its payload is written.
    pub const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.payload.chunks().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes. Those that a host handed over are read where they are; only what this build has just encoded itself
    /// may have to be put together.
    pub fn payload(&self) -> Cow<'_, [u8]> {
        self.payload.chunks().whole()
    }

    /// Reads its bytes piece by piece.
    pub fn reader(&self) -> Chunks<'_> {
        self.payload.chunks()
    }

    /// Reads what [`Section::encode`] wrote.
    ///
    /// # Errors
    /// The payload has another encoding, or is not such a value: the error says where.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let wrong = || format!("section `{}` cannot be read as {}", self.name, std::any::type_name::<T>());
        ensure!(
            self.encoding == Encoding::MessagePack,
            "section `{}` is written as {:?}, not as MessagePack: read it with payload()",
            self.name,
            self.encoding
        );
        self.unpack().with_context(wrong)
    }

    /// As [`Section::decode`], with the state version instead of its name, if it has none.
    pub(super) fn decode_as<T: DeserializeOwned>(&self, version: u32) -> Result<T> {
        if self.name != MAIN {
            return self.decode();
        }
        ensure!(
            self.encoding == Encoding::MessagePack,
            "state version {version} is written as {:?}, not as MessagePack: read it with payload()",
            self.encoding
        );
        let what = std::any::type_name::<T>();
        self.unpack().with_context(|| format!("state version {version} cannot be read as {what}"))
    }

    fn unpack<T: DeserializeOwned>(&self) -> Result<T> {
        match self.payload.chunks().only() {
            Ok(slice) => {
                pack::check(slice)?;
                Ok(rmp_serde::from_slice(slice)?)
            }
            // Only what this build has just encoded itself is in pieces.
            Err(chunks) => Ok(rmp_serde::from_read(chunks)?),
        }
    }

    pub(super) fn to_json(&self, version: u32) -> Result<Value> {
        match self.encoding {
            Encoding::MessagePack => self.decode_as(version),
            _ => Ok(Value::String(format!("{} bytes in the plugin's own encoding", self.len()))),
        }
    }

    pub(super) fn look_at(&self) {
        self.looked_at.store(true, Ordering::Relaxed);
    }

    pub(super) fn was_looked_at(&self) -> bool {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// For a later [`StateWriter`](super::StateWriter): without the memory that it was lent from.
    pub(crate) fn to_owned_section(&self) -> Section {
        let payload = Payload::Own(self.payload().into_owned().into());
        Section { payload, ..self.clone() }
    }

    /// Hands out its bytes piece by piece, and gives each piece back as soon as it has been taken.
    pub(super) fn drain(self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match self.payload {
            Payload::Own(rope) => rope.into_iter().try_for_each(|piece| take(&piece)),
            Payload::Lent(..) => self.payload.chunks().try_for_each(take),
        }
    }
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.encoding, self.required) == (&other.name, other.encoding, other.required)
            && self.payload() == other.payload()
    }
}

impl Eq for Section {}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Section { name, encoding, required, .. } = self;
        let shown =
            f.debug_struct("Section").field("name", name).field("encoding", encoding).finish_non_exhaustive();
        shown.and_then(|()| write!(f, " ({} bytes, required: {required})", self.len()))
    }
}

impl Read for Chunks<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        Ok(self.take_some(into))
    }
}
