//! Both ends of a [`Transfer`]: what a call carries besides its registers.
//!
//! A value crosses in two parts: an *inline* part of fixed size, which travels as an ordinary C argument or
//! result, and a *tail* of bytes for what has no fixed size. Types without a tail (numbers, structs of
//! numbers) cost nothing here: the compiler removes the tail's code for them.

use std::mem::MaybeUninit;

use crate::abi::{RawSlice, Transfer};

/// Bytes that may contain the padding of structs.
pub type Byte = MaybeUninit<u8>;

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
            // SAFETY: the bytes are those of a slice; any byte is a valid MaybeUninit<u8>.
            self.bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(start.cast::<Byte>(), len) });
        } else {
            // SAFETY: `answering` promises that the transfer is live; the bytes are those of a slice.
            unsafe { ((*self.caller).append)(self.caller, start, len) }
        }
    }

    /// Appends a value whose own tail follows it.
    pub fn put_with<T: Copy>(&mut self, lower: impl FnOnce(&mut TailWriter) -> T) {
        if !self.caller.is_null() {
            // What the caller has been given cannot be filled in later.
            let mut collected = TailWriter::collecting();
            collected.put_with(lower);
            return self.append_collected(collected);
        }
        // The value stands before its tail, but is known only after it.
        let hole = self.bytes.len();
        self.bytes.resize(hole + size_of::<T>(), Byte::uninit());
        let value = lower(self);
        // SAFETY: the hole has the size of a `T`, and the bytes behind it have only grown.
        unsafe { self.bytes.as_mut_ptr().add(hole).cast::<T>().write_unaligned(value) }
    }

    /// Lets `f` write; what it writes reaches the caller in one piece.
    pub fn in_one_piece(&mut self, f: impl FnOnce(&mut TailWriter)) {
        if self.caller.is_null() {
            return f(self);
        }
        let mut collected = TailWriter::collecting();
        f(&mut collected);
        self.append_collected(collected);
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
    bytes: Tail<'a>,
    /// How many of them have been read.
    read: usize,
}

enum Tail<'a> {
    Lent(&'a [Byte]),
    /// Bytes that may be given away: a single string moves instead of being copied.
    Owned(Vec<Byte>),
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
    /// `tail` names readable memory for `'a`, written by a [`TailWriter`] for the type that will be read.
    #[inline(always)]
    pub unsafe fn borrowed(tail: RawSlice) -> Self {
        if tail.len == 0 {
            return Self::empty();
        }
        // SAFETY: the caller promises it; MaybeUninit bytes have no further demands.
        let bytes = unsafe { std::slice::from_raw_parts(tail.start.cast(), tail.len) };
        TailReader { bytes: Tail::Lent(bytes), read: 0 }
    }

    /// Reads from bytes that the reader may give away.
    ///
    /// # Safety
    /// They were written by a [`TailWriter`] for the type that will be read.
    #[inline(always)]
    pub const unsafe fn owned(bytes: Vec<Byte>) -> TailReader<'static> {
        TailReader { bytes: Tail::Owned(bytes), read: 0 }
    }

    /// An empty tail.
    #[inline(always)]
    pub const fn empty() -> Self {
        TailReader { bytes: Tail::Lent(&[]), read: 0 }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes().len() - self.read
    }

    /// The next `len` bytes, as owned memory; without a copy when they are all there is.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take_bytes(&mut self, len: usize, what: &'static str) -> Result<Vec<u8>, Malformed> {
        self.check(len, what)?;
        if let Tail::Owned(whole) = &mut self.bytes
            && whole.len() == len
            && self.read == 0
        {
            let whole = std::mem::take(whole);
            // SAFETY: the writer of a `u8` tail wrote whole bytes, so none of them is padding.
            return Ok(unsafe { whole_bytes(whole) });
        }
        // SAFETY: `check` found them; as above, none is padding.
        unsafe { self.copy_out(len) }
    }

    /// The next value's memory.
    ///
    /// # Errors
    /// There are fewer bytes than it needs.
    ///
    /// # Safety
    /// The other side put a `T` there with [`TailWriter::put`]: the fingerprints of the method agree.
    pub unsafe fn take<T: Copy>(&mut self, what: &'static str) -> Result<T, Malformed> {
        self.check(size_of::<T>(), what)?;
        // SAFETY: `check` found the bytes; the caller promises that they are a `T`.
        let value = unsafe { self.next().cast::<T>().read_unaligned() };
        self.read += size_of::<T>();
        Ok(value)
    }

    /// The memory of the next `count` values.
    ///
    /// # Errors
    /// There are fewer bytes than they need.
    ///
    /// # Safety
    /// As for [`TailReader::take`], `count` times.
    pub unsafe fn take_all<T: Copy>(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<Vec<T>, Malformed> {
        self.check(count.saturating_mul(size_of::<T>()), what)?;
        // SAFETY: `check` found the bytes; the caller promises that they are values of `T`.
        unsafe { self.copy_out(count) }
    }

    /// Copies the next `count` values.
    ///
    /// # Safety
    /// They are there, and the other side put them there.
    unsafe fn copy_out<T: Copy>(&mut self, count: usize) -> Result<Vec<T>, Malformed> {
        let mut values = Vec::<T>::with_capacity(count);
        let len = count * size_of::<T>();
        // SAFETY: promised by the caller; `with_capacity` made room for them.
        unsafe {
            std::ptr::copy_nonoverlapping(self.next(), values.as_mut_ptr().cast(), len);
            values.set_len(count);
        }
        self.read += len;
        Ok(values)
    }

    const fn bytes(&self) -> &[Byte] {
        match &self.bytes {
            Tail::Lent(bytes) => bytes,
            Tail::Owned(bytes) => bytes.as_slice(),
        }
    }

    fn next(&self) -> *const u8 {
        self.bytes()[self.read..].as_ptr().cast()
    }

    fn check(&self, len: usize, what: &'static str) -> Result<(), Malformed> {
        if len <= self.left() {
            return Ok(());
        }
        Err(Malformed { what, expected: format!("{len} bytes"), found: format!("{} bytes", self.left()) })
    }
}

/// Bytes none of which is padding.
///
/// # Safety
/// None is: all of them were written as bytes.
unsafe fn whole_bytes(bytes: Vec<Byte>) -> Vec<u8> {
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    // SAFETY: the parts of a vector that is not used any more; the layout of a byte is that of a
    // MaybeUninit of it, and the caller promises that they are initialised.
    unsafe { Vec::from_raw_parts(bytes.as_mut_ptr().cast(), bytes.len(), bytes.capacity()) }
}

/// The caller's end of a call: the head that the callee sees, and the caller's own memory behind it.
/// Costs one store until the callee writes something, and a look when it goes.
#[repr(C)]
pub struct Outgoing {
    /// Its `append` is [`append_first`] until the callee writes something, and then [`append`].
    head: Transfer,
    /// Initialised if something was written.
    text: MaybeUninit<Vec<Byte>>,
}

impl Outgoing {
    /// A call that has not been made.
    #[inline(always)]
    #[allow(clippy::new_without_default)] // never useful as a field or generic parameter
    pub const fn new() -> Self {
        Outgoing {
            head: Transfer { append: append_first, tail: MaybeUninit::uninit() },
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

    #[inline]
    fn is_written(&self) -> bool {
        std::ptr::fn_addr_eq(self.head.append, append as Append)
    }

    /// What the callee wrote, which was bytes: a text, a frame, JSON.
    #[inline]
    pub fn into_text(self) -> Vec<u8> {
        // SAFETY: only an unsafe call can have written here, and whoever made it asks for a text where the
        // callee answers with one.
        unsafe { whole_bytes(self.into_tail()) }
    }

    /// What the callee wrote, padding included.
    #[inline]
    pub fn into_tail(mut self) -> Vec<Byte> {
        self.take_tail()
    }

    /// As above, and leaves nothing behind.
    #[inline]
    pub fn take_tail(&mut self) -> Vec<Byte> {
        if !self.is_written() {
            return Vec::new();
        }
        self.head.append = append_first;
        // SAFETY: it is initialised before `append` comes into the head, which is undone now, so nobody else
        // drops it.
        unsafe { self.text.assume_init_read() }
    }

    /// What the callee wrote, as text.
    pub fn into_string(mut self) -> String {
        self.take_string()
    }

    /// As above, and leaves nothing behind.
    pub fn take_string(&mut self) -> String {
        // SAFETY: as for `into_text`.
        let text = unsafe { whole_bytes(self.take_tail()) };
        String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }
}

impl Drop for Outgoing {
    #[inline]
    fn drop(&mut self) {
        if self.is_written() {
            // SAFETY: the text is initialised when `append` is in the head, and `into_tail` undoes that when it
            // takes it.
            unsafe { self.text.assume_init_drop() }
        }
    }
}

type Append = unsafe extern "C" fn(transfer: *mut Transfer, bytes: *const u8, len: usize);

#[inline(never)] // one address
unsafe extern "C" fn append_first(transfer: *mut Transfer, bytes: *const u8, len: usize) {
    let outgoing = transfer.cast::<Outgoing>();
    // SAFETY: `head()` derived the pointer from a whole `Outgoing`, which the caller keeps for the call; the
    // text is initialised before it is marked as such.
    unsafe {
        (*outgoing).text.write(Vec::new());
        (*outgoing).head.append = append;
        append(transfer, bytes, len);
    }
}

#[inline(never)] // one address
unsafe extern "C" fn append(transfer: *mut Transfer, bytes: *const u8, len: usize) {
    let outgoing = transfer.cast::<Outgoing>();
    // SAFETY: as above; `append_first` has initialised the text. `bytes` is readable for `len`, and the copy is
    // made without looking at the bytes, which may be padding.
    unsafe {
        let text = (*outgoing).text.assume_init_mut();
        text.reserve(len);
        std::ptr::copy_nonoverlapping(bytes, text.as_mut_ptr().add(text.len()).cast(), len);
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
