//! Writing a state piece by piece.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::frame::{Entry, SECTIONS, header, trailer};
use super::section::{Encoding, Section};
use super::{MAIN, Saved};

/// How much is collected before it is handed on.
const BUFFER: usize = 64 << 10;

/// Where [`Plugin::save_to`](crate::Plugin::save_to) writes a state: section by section, each as it comes. Nothing of it
/// is kept here.
pub struct StateWriter<'a> {
    sink: &'a mut dyn FnMut(&[u8]),
    version: u32,
    buffer: Vec<u8>,
    /// Bytes that were written, all together.
    written: usize,
    sum: crc32fast::Hasher,
    sections: Vec<Entry>,
}

impl<'a> StateWriter<'a> {
    /// Writes a frame of this state version into `sink`.
    pub fn new(version: u32, sink: &'a mut dyn FnMut(&[u8])) -> Self {
        let sum = crc32fast::Hasher::new();
        StateWriter { sink, version, buffer: Vec::new(), written: 0, sum, sections: Vec::new() }
    }

    /// The state version that is wanted.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Whether a section of this name has been written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.sections.iter().any(|section| section.name == name)
    }

    /// Whether anything has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// Writes all of a state that has been saved already.
    ///
    /// # Errors
    /// It states another version than is wanted, or has a section that was written before.
    pub fn put(&mut self, saved: Saved) -> Result<()> {
        let (version, sections) = saved.into_parts();
        ensure!(
            version == 0 || sections.is_empty() || version == self.version,
            "it has written state version {version}, asked for was {}",
            self.version
        );
        sections.into_iter().try_for_each(|section| self.put_section(section))
    }

    /// Writes a section that is there already.
    ///
    /// # Errors
    /// One of its name was written before.
    pub fn put_section(&mut self, section: Section) -> Result<()> {
        let name = section.name().to_owned();
        let mut writer = self.begin(&name, section.encoding(), section.is_required())?;
        section.drain(|piece| Ok(writer.write_all(piece)?))
    }

    /// Writes a value as MessagePack with field names, as it is serialised. `name`: that of its section; the empty one
    /// is that of [`Saved::decode`].
    ///
    /// # Errors
    /// The value's `Serialize` refuses, or a section of this name was written before.
    pub fn encode<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<()> {
        let mut writer = self.begin(name, Encoding::MessagePack, true)?;
        rmp_serde::encode::write_named(&mut writer, value)
            .with_context(|| format!("the state {} cannot be written", std::any::type_name::<T>()))
    }

    /// Begins the section without a name, in the author's own encoding.
    ///
    /// # Errors
    /// It was written before.
    pub fn bytes(&mut self) -> Result<SectionWriter<'_, 'a>> {
        self.section(MAIN)
    }

    /// Begins a section in the author's own encoding; it ends with the writer.
    ///
    /// # Errors
    /// A section of this name was written before.
    pub fn section(&mut self, name: &str) -> Result<SectionWriter<'_, 'a>> {
        self.begin(name, Encoding::Bytes, true)
    }

    fn begin(&mut self, name: &str, encoding: Encoding, required: bool) -> Result<SectionWriter<'_, 'a>> {
        ensure!(!self.has(name), "the state has two sections `{name}`");
        ensure!(self.sections.len() < SECTIONS, "a state has at most {SECTIONS} sections");
        ensure!(name.len() <= 255, "a section's name has at most 255 bytes: `{name}`");
        if self.is_empty() {
            self.append(&header(self.version));
        }
        let payload = self.written..self.written;
        self.sections.push(Entry { name: name.to_owned(), encoding, required, payload });
        Ok(SectionWriter(self))
    }

    fn append(&mut self, bytes: &[u8]) {
        self.written += bytes.len();
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush();
        }
        if bytes.len() >= BUFFER {
            self.sum.update(bytes);
            (self.sink)(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }

    fn flush(&mut self) {
        self.sum.update(&self.buffer);
        (self.sink)(&self.buffer);
        self.buffer.clear();
    }

    /// Writes what comes last. A state of no section is that of a plugin without state.
    ///
    /// # Errors
    /// The frame would be too large for its own description.
    pub fn finish(mut self) -> Result<()> {
        if self.is_empty() {
            self.append(&header(0));
        }
        let mut directory = Vec::new();
        self.sections.iter().for_each(|section| section.put_into(&mut directory));
        self.append(&directory);
        let count = u32::try_from(self.sections.len()).context("too many sections")?;
        let length = self.written + super::frame::TRAILER;
        let directory = u32::try_from(directory.len()).context("too many sections")?;
        self.append(&trailer(count, directory, length as u64));
        self.flush();
        let sum = self.sum.clone().finalize();
        (self.sink)(&sum.to_le_bytes());
        Ok(())
    }
}

impl fmt::Debug for StateWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateWriter { version, written, .. } = self;
        f.debug_struct("StateWriter")
            .field("version", version)
            .field("written", written)
            .finish_non_exhaustive()
    }
}

/// Writes one section; it ends when this is dropped.
#[derive(Debug)]
pub struct SectionWriter<'w, 'a>(&'w mut StateWriter<'a>);

impl SectionWriter<'_, '_> {
    /// A build that does not know this section may take over all the same: it keeps it, and hands it on.
    #[must_use]
    pub fn optional(self) -> Self {
        if let Some(section) = self.0.sections.last_mut() {
            section.required = false;
        }
        self
    }
}

impl Write for SectionWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        if let Some(section) = self.0.sections.last_mut() {
            section.payload.end = self.0.written;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
