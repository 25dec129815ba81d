//! State on its way from one generation to the next.
//!
//! A [`Saved`] consists of named *sections*. Most plugins have one, without a name: [`Saved::encode`] writes it,
//! [`Saved::decode`] reads it. A plugin that has more adds them with [`Saved::with`]. A section is *required*, and then a
//! build that does not look at it while it restores is refused, by the section's name; or *optional*, and then it is kept
//! by a build that does not know it, and handed on when that saves.
//!
//! A state too large to be held twice is written piece by piece, by [`Plugin::save_to`](crate::Plugin::save_to) and a
//! [`StateWriter`], and read through [`Saved::reader`] or [`Saved::decode`], which read the host's memory as it lies there.
//!
//! A value in MessagePack is one value, whole, and nested at most [`DEPTH`] levels deep. Anything else is refused before
//! it is read: what would be lost, and what would not end well.
//!
//! As bytes it is a frame with a checksum, see [`frame`]: cut anywhere or with any bit flipped it is refused, never
//! misread.

mod bytes;
pub mod frame;
mod pack;
mod section;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(crate) use bytes::HostBytes;
pub use pack::DEPTH;
pub use section::{Encoding, Section};
pub use writer::{SectionWriter, StateWriter};

/// The name of the section that most plugins have alone.
pub const MAIN: &str = "";

/// Bytes that several may read, and that stay where they are.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The state of a plugin, as one build wrote it and another reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Saved {
    version: u32,
    sections: Vec<Section>,
}

impl Saved {
    /// The state of a plugin without state.
    pub const fn none() -> Self {
        Saved { version: 0, sections: Vec::new() }
    }

    /// Writes a value as MessagePack with field names. Its version is the one that was asked for, unless
    /// [`Saved::with_version`] says otherwise.
    ///
    /// # Errors
    /// The value's `Serialize` refuses.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Saved { version: 0, sections: vec![Section::encode(MAIN, value)?] })
    }

    /// Keeps bytes that the plugin has written itself.
    pub fn bytes(payload: Vec<u8>) -> Self {
        Saved { version: 0, sections: vec![Section::bytes(MAIN, payload)] }
    }

    /// Adds a section, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, section: Section) -> Self {
        self.sections.retain(|known| known.name() != section.name());
        self.sections.push(section);
        self
    }

    /// States the version explicitly.
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The state version in which it was written.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// All sections, in the order in which they were written.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// A section by its name, if there is one. To have asked for a section is to know it.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name() == name).inspect(|section| section.look_at())
    }

    fn main(&self) -> Option<&Section> {
        self.section(MAIN)
    }

    /// How the section without a name is written.
    pub fn encoding(&self) -> Encoding {
        self.main().map_or(Encoding::None, Section::encoding)
    }

    /// The bytes of the section without a name.
    pub fn payload(&self) -> Cow<'_, [u8]> {
        self.main().map_or(Cow::Borrowed(&[]), Section::payload)
    }

    /// Reads the bytes of the section without a name, piece by piece.
    pub fn reader(&self) -> impl Read + '_ {
        self.main().map(Section::reader).unwrap_or_default()
    }

    /// Reads what [`Saved::encode`] wrote.
    ///
    /// # Errors
    /// The payload has another encoding, or is not such a value: the error says where.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        match self.main() {
            Some(section) => section.decode_as(self.version),
            None => bail!("nothing was saved, so there is nothing to decode"),
        }
    }

    /// The state as JSON, for people: that of the section without a name, or, if there are others, an object of all of
    /// them by name, where that one is `state` unless another has this name. Bytes in a plugin's own encoding are
    /// only counted.
    ///
    /// # Errors
    /// A payload is not what it claims to be.
    pub fn to_json(&self) -> Result<Value> {
        match &self.sections[..] {
            [] => Ok(Value::Null),
            [only] if only.name() == MAIN => only.to_json(self.version),
            sections => {
                let taken = sections.iter().any(|section| section.name() == "state");
                let named = sections.iter().map(|section| {
                    let name = if section.name() == MAIN && !taken { "state" } else { section.name() };
                    Ok((name.to_owned(), section.to_json(self.version)?))
                });
                named.collect::<Result<Map<_, _>>>().map(Value::Object)
            }
        }
    }

    /// The sentence with which a plugin refuses a version it cannot read.
    pub fn unsupported(&self, version: u32) -> String {
        format!(
            "this build cannot read state version {version}: load a build that can, or start without the old state"
        )
    }

    /// The frame that crosses between generations.
    ///
    /// # Panics
    /// A section has a name of more than 255 bytes, or there are more of them than [`frame::SECTIONS`].
    pub fn to_frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut append = |bytes: &[u8]| frame.extend_from_slice(bytes);
        let mut writer = StateWriter::new(self.version, &mut append);
        let written = writer.put(self.clone()).and_then(|()| writer.finish());
        written.expect("it has few sections, of short names");
        frame
    }

    /// Reads a frame, and copies what is in it.
    ///
    /// # Errors
    /// Anything that is not exactly one whole, undamaged frame; the error says what was expected and found.
    pub fn from_frame(frame: &[u8]) -> Result<Self> {
        Saved::from_shared(Arc::new(frame.to_vec()))
    }

    /// Reads a frame, and copies nothing.
    ///
    /// # Errors
    /// As for [`Saved::from_frame`].
    pub fn from_shared(bytes: SharedBytes) -> Result<Self> {
        frame::check((*bytes).as_ref())?;
        Saved::from_checked(bytes)
    }

    /// Reads a frame whose checksum has been compared already.
    pub(crate) fn from_checked(bytes: SharedBytes) -> Result<Self> {
        let frame::Contents { version, sections } = frame::parse((*bytes).as_ref())?;
        let sections = sections.into_iter().map(|entry| Section::lent(entry, bytes.clone()));
        Ok(Saved { version, sections: sections.collect() })
    }

    /// The sections that nobody has asked for, except the one without a name.
    pub(crate) fn not_looked_at(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|section| section.name() != MAIN && !section.was_looked_at())
    }

    fn into_parts(self) -> (u32, Vec<Section>) {
        (self.version, self.sections)
    }
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved").field("version", &self.version).field("sections", &self.sections).finish()
    }
}
