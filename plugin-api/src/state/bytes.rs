//! Bytes in pieces, and bytes of the host.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::collections::VecDeque;
use std::collections::vec_deque;
use std::ffi::c_void;
use std::io::{self, Write};
use std::sync::Arc;

use crate::abi::RawState;

/// How large a piece becomes. Large enough that the C library gets each from the system and gives it back at once.
const PIECE: usize = 256 << 10;

/// Bytes that grow without being moved, and that can be given back piece by piece.
#[derive(Clone, Default)]
pub(super) struct Rope(VecDeque<Vec<u8>>);

impl Rope {
    pub(super) fn chunks(&self) -> Chunks<'_> {
        Chunks { first: &[], rest: self.0.iter() }
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        Rope([bytes].into())
    }
}

impl IntoIterator for Rope {
    type Item = Vec<u8>;
    type IntoIter = vec_deque::IntoIter<Vec<u8>>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Write for Rope {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.back_mut() {
            Some(piece) if piece.len() < PIECE => {
                let fits = bytes.len().min(PIECE - piece.len());
                piece.extend_from_slice(&bytes[..fits]);
                Ok(fits)
            }
            last => {
                // The first grows as it must: most states are small.
                let mut piece = if last.is_none() { Vec::new() } else { Vec::with_capacity(PIECE) };
                let fits = bytes.len().min(PIECE);
                piece.extend_from_slice(&bytes[..fits]);
                self.0.push_back(piece);
                Ok(fits)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The pieces of a payload, from its beginning. Reads as one.
#[derive(Clone, Default)]
pub struct Chunks<'a> {
    first: &'a [u8],
    rest: vec_deque::Iter<'a, Vec<u8>>,
}

impl<'a> Chunks<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Chunks { first: bytes, rest: vec_deque::Iter::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.rest.clone().map(Vec::len).sum::<usize>()
    }

    /// All of it, if it is one piece.
    pub(super) fn only(mut self) -> Result<&'a [u8], Self> {
        match (self.first, self.rest.len()) {
            (first, 0) => Ok(first),
            ([], 1) => Ok(self.rest.next().map_or(&[][..], Vec::as_slice)),
            _ => Err(self),
        }
    }

    pub(super) fn whole(self) -> Cow<'a, [u8]> {
        self.only().map_or_else(|pieces| pieces.collect::<Vec<_>>().concat().into(), Cow::Borrowed)
    }

    pub(super) fn take_some(&mut self, into: &mut [u8]) -> usize {
        while self.first.is_empty() {
            let Some(next) = self.rest.next() else { return 0 };
            self.first = next;
        }
        let (now, later) = self.first.split_at(into.len().min(self.first.len()));
        into[..now.len()].copy_from_slice(now);
        self.first = later;
        now.len()
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        match std::mem::take(&mut self.first) {
            [] => self.rest.next().map(Vec::as_slice),
            first => Some(first),
        }
    }
}

impl RawState {
    /// What a host hands over: bytes that it may go on reading itself.
    pub fn of(bytes: Arc<Vec<u8>>) -> RawState {
        unsafe extern "C" fn release(owner: *const c_void) {
            // SAFETY: the owner is the count that `of` has kept, given back once.
            drop(unsafe { Arc::<Vec<u8>>::from_raw(owner.cast()) });
        }
        let (start, len) = (bytes.as_ptr(), bytes.len());
        RawState { start, len, owner: Arc::into_raw(bytes).cast(), release }
    }
}

/// Bytes of the host, which it takes back when nobody reads them any more.
pub struct HostBytes(RawState);

impl HostBytes {
    /// Takes over what a host hands over.
    ///
    /// # Safety
    /// `state` is what it says it is, and nobody else releases it.
    pub(crate) const unsafe fn new(state: RawState) -> Self {
        HostBytes(state)
    }
}

impl AsRef<[u8]> for HostBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the host leaves the bytes as they are until they are released, which `drop` does.
        unsafe { std::slice::from_raw_parts(self.0.start, self.0.len) }
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // SAFETY: the host's own function, for what came with it, once.
        unsafe { (self.0.release)(self.0.owner) }
    }
}

// SAFETY: bytes that nobody changes, and a function that may be called on any thread.
unsafe impl Send for HostBytes {}
// SAFETY: as above.
unsafe impl Sync for HostBytes {}
