//! Both ends of a [`Transfer`]: what a call carries besides its registers.
//!
//! A value crosses in two parts: an *inline* part of fixed size, which travels as an ordinary C argument or
//! result, and a *tail* of bytes for what has no fixed size. Types without a tail (numbers, structs of
//! numbers) cost nothing here: the compiler removes the tail's code for them.

use std::mem::MaybeUninit;

use crate::abi::{RawSlice, Transfer};

/// Bytes that may contain the padding of structs.
type Byte = MaybeUninit<u8>;

/// Where the tail of outgoing values goes.
pub struct TailWriter {
    bytes: Vec<Byte>,
    /// The caller's memory, when a result is written; null while arguments are collected.
    caller: *mut Transfer,
}

impl TailWriter {
    /// Collects the tail of arguments.
    #[inline(always)]
    pub const fn collecting() -> Self {
        TailWriter { bytes: Vec::new(), caller: std::ptr::null_mut() }
    }

    /// Writes the tail of a result straight into the caller's memory.
    ///
    /// # Safety
    /// `caller` is the transfer of the call that is being answered, and outlives the writer.
    #[inline(always)]
    pub const unsafe fn answering(caller: *mut Transfer) -> Self {
        TailWriter { bytes: Vec::new(), caller }
    }

    /// Appends the memory of `values`, padding included.
    #[inline]
    pub fn put<T: Copy>(&mut self, values: &[T]) {
        let (start, len) = (values.as_ptr().cast::<u8>(), size_of_val(values));
        if self.caller.is_null() {
            self.bytes.reserve(len);
            // SAFETY: `reserve` made room for `len` bytes, and any byte is a valid MaybeUninit<u8>.
            unsafe {
                let end = self.bytes.as_mut_ptr().add(self.bytes.len()).cast::<u8>();
                std::ptr::copy_nonoverlapping(start, end, len);
                self.bytes.set_len(self.bytes.len() + len);
            }
        } else {
            // SAFETY: `answering` promises that the transfer is live; the bytes are those of a slice.
            unsafe { ((*self.caller).append)(self.caller, start, len) }
        }
    }

    /// Appends what another writer has collected.
    #[inline]
    pub fn append_collected(&mut self, other: TailWriter) {
        self.put(&other.bytes);
    }

    /// The tail of the arguments, to be lent to the callee.
    #[inline]
    pub fn lend(&self) -> RawSlice {
        RawSlice { start: self.bytes.as_ptr().cast(), len: self.bytes.len() }
    }
}

/// Where incoming values read their tail from.
pub struct TailReader<'a> {
    rest: &'a [Byte],
    /// Set while nothing of an owned tail has been read: lets a single string move instead of being copied.
    whole: Option<Vec<u8>>,
}

/// The bytes of a value are not what its type needs. Between builds whose fingerprints agree this is a bug
/// in one of them.
#[derive(Debug, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct Malformed {
    /// The type that was being read.
    pub what: &'static str,
    /// What it needs.
    pub expected: String,
    /// What there was.
    pub found: String,
}

impl<'a> TailReader<'a> {
    /// Reads from bytes that stay where they are.
    ///
    /// # Safety
    /// `tail` names readable memory for `'a`.
    #[inline(always)]
    pub unsafe fn borrowed(tail: RawSlice) -> Self {
        if tail.len == 0 {
            return TailReader { rest: &[], whole: None };
        }
        // SAFETY: the caller promises it; MaybeUninit bytes have no further demands.
        TailReader { rest: unsafe { std::slice::from_raw_parts(tail.start.cast(), tail.len) }, whole: None }
    }

    /// Reads from bytes that the reader may give away.
    #[inline(always)]
    pub fn owned(bytes: Vec<u8>) -> TailReader<'static> {
        TailReader { rest: &[], whole: Some(bytes) }
    }

    /// An empty tail.
    #[inline(always)]
    pub fn empty() -> TailReader<'static> {
        TailReader { rest: &[], whole: None }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.whole.as_ref().map_or(self.rest.len(), Vec::len)
    }

    /// The next `len` bytes, as owned memory; without a copy when they are all there is.
    pub fn take_bytes(&mut self, len: usize, what: &'static str) -> Result<Vec<u8>, Malformed> {
        self.check(len, what)?;
        if let Some(whole) = self.whole.take_if(|whole| whole.len() == len) {
            return Ok(whole);
        }
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: `check` found `len` bytes; `with_capacity` made room for them. The writer of a `u8` tail
        // wrote whole bytes, so none of them is padding.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start(), bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        self.skip(len);
        Ok(bytes)
    }

    /// The next value's memory.
    ///
    /// # Safety
    /// The other side put a `T` there with [`TailWriter::put`]: the fingerprints of the method agree.
    pub unsafe fn take<T: Copy>(&mut self, what: &'static str) -> Result<T, Malformed> {
        self.check(size_of::<T>(), what)?;
        // SAFETY: `check` found the bytes; the caller promises that they are a `T`.
        let value = unsafe { self.start().cast::<T>().read_unaligned() };
        self.skip(size_of::<T>());
        Ok(value)
    }

    fn start(&self) -> *const u8 {
        self.whole.as_ref().map_or(self.rest.as_ptr().cast(), |whole| whole.as_ptr())
    }

    fn check(&self, len: usize, what: &'static str) -> Result<(), Malformed> {
        if len <= self.left() {
            return Ok(());
        }
        Err(Malformed { what, expected: format!("{len} bytes"), found: format!("{} bytes", self.left()) })
    }

    fn skip(&mut self, len: usize) {
        match &mut self.whole {
            Some(whole) => drop(whole.drain(..len)),
            None => self.rest = &self.rest[len..],
        }
    }
}

/// The caller's end of a call: the head that the callee sees, and the caller's own memory behind it.
/// Costs two stores until the callee writes something.
#[repr(C)]
pub struct Outgoing {
    head: Transfer,
    written: bool,
    /// Initialised if `written`.
    text: MaybeUninit<Vec<u8>>,
}

impl Outgoing {
    /// A call that has not been made.
    #[inline(always)]
    #[allow(clippy::new_without_default)] // never useful as a field or generic parameter
    pub const fn new() -> Self {
        Outgoing {
            head: Transfer { append, tail: MaybeUninit::uninit() },
            written: false,
            text: MaybeUninit::uninit(),
        }
    }

    /// Lends the tail of the arguments.
    #[inline(always)]
    pub const fn set_tail(&mut self, tail: RawSlice) {
        self.head.tail = MaybeUninit::new(tail);
    }

    /// What the callee gets.
    #[inline(always)]
    pub const fn head(&mut self) -> *mut Transfer {
        // Derived from the whole value, because `append` reaches behind the head.
        std::ptr::from_mut(self).cast()
    }

    /// What the callee wrote.
    #[inline]
    pub fn into_text(self) -> Vec<u8> {
        if !self.written {
            return Vec::new();
        }
        // SAFETY: `append` initialises the text before it sets `written`.
        unsafe { self.text.assume_init() }
    }

    /// What the callee wrote, as text.
    pub fn into_string(self) -> String {
        String::from_utf8(self.into_text())
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }
}

unsafe extern "C" fn append(transfer: *mut Transfer, bytes: *const u8, len: usize) {
    let outgoing = transfer.cast::<Outgoing>();
    // SAFETY: `head()` derived the pointer from a whole `Outgoing`, which the caller keeps for the call.
    // `text` is initialised before it is used. `bytes` is readable for `len`, and the copy is made without
    // looking at the bytes, which may be padding.
    unsafe {
        if !(*outgoing).written {
            (*outgoing).text.write(Vec::new());
            (*outgoing).written = true;
        }
        let text = (*outgoing).text.assume_init_mut();
        text.reserve(len);
        std::ptr::copy_nonoverlapping(bytes, text.as_mut_ptr().add(text.len()), len);
        text.set_len(text.len() + len);
    }
}

/// The callee's end: the incoming tail.
///
/// # Safety
/// `transfer` is that of the call being answered, and the method's arguments have a tail, so that the
/// caller has set it.
#[inline(always)]
pub unsafe fn incoming<'a>(transfer: *mut Transfer) -> TailReader<'a> {
    // SAFETY: promised by the caller.
    unsafe { TailReader::borrowed((*transfer).tail.assume_init()) }
}

/// The callee's end: appends text to the answer.
///
/// # Safety
/// `transfer` is that of the call being answered.
pub unsafe fn answer(transfer: *mut Transfer, text: &[u8]) {
    // SAFETY: promised by the caller.
    unsafe { ((*transfer).append)(transfer, text.as_ptr(), text.len()) }
}
