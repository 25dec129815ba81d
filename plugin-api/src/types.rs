//! Which Rust types cross the boundary, and how.
//!
//! [`AbiType`] is for values (arguments by value, results), [`Lend`] for references in arguments,
//! [`Returns`] for results. All three are implemented by trait, never by the name of a type: an alias or a
//! re-export crosses exactly as the type it stands for. `#[derive(AbiType)]` adds structs and enums.

use abi_stable::std_types::{ROption, RSlice, RStr, Tuple2, Tuple3, Tuple4};

use crate::desc::TypeDesc;
use crate::transfer::{Malformed, TailReader, TailWriter};

/// A type whose values can cross the boundary.
///
/// Implemented for integers, floats, `bool`, `char`, `()`, `String`, `Vec<T>`, `Option<T>`, `[T; N]`,
/// tuples up to four, and everything that derives `AbiType`.
///
/// # Safety
/// Do not implement it by hand; derive it. The other side believes the description: [`AbiType::DESC`] states
/// the name and whole structure of the type, and two types with equal descriptions have the same `Inline`,
/// which has C layout and holds no pointers, and write the same tail, which `lift` reads as `lower` wrote it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross the boundary between a plugin and its host",
    label = "no `AbiType`",
    note = "a type of your own can: put `#[derive(AbiType)]` on it",
    note = "integers, floats, bool, char, String, Vec<T>, Option<T>, arrays and tuples cross as they are; \
            `&str` and `&[T]` cross as arguments, but not inside other types and not in results"
)]
pub unsafe trait AbiType: Sized + 'static {
    /// The shape, for manifest and fingerprint.
    const DESC: &'static TypeDesc;
    /// Whether a value may need bytes besides its inline part.
    const TAIL: bool;
    /// The part of fixed size: C layout, no pointers.
    type Inline: Copy + 'static;

    /// Takes the value apart.
    fn lower(self, tail: &mut TailWriter) -> Self::Inline;

    /// Puts the value together again, on the other side.
    ///
    /// # Errors
    /// The parts do not make a value: see [`Malformed`].
    fn lift(inline: Self::Inline, tail: &mut TailReader<'_>) -> Result<Self, Malformed>;

    /// Takes the value apart as a part of another: all of it goes into the tail.
    #[inline]
    fn put(self, tail: &mut TailWriter) {
        tail.put_with(|tail| self.lower(tail));
    }

    /// Takes a part of another value out of the tail and puts it together again.
    ///
    /// # Errors
    /// As for [`AbiType::lift`].
    #[inline]
    fn take(tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
        // SAFETY: `put` put an inline part there: the maker of the reader promises a tail of this type.
        let inline = unsafe { tail.take::<Self::Inline>("a part of a value") }?;
        Self::lift(inline, tail)
    }

    /// [`AbiType::put`] for many values, one after the other.
    fn put_all(values: Vec<Self>, tail: &mut TailWriter) {
        tail.in_one_piece(|tail| values.into_iter().for_each(|value| value.put(tail)));
    }

    /// [`AbiType::take`] for many values.
    ///
    /// # Errors
    /// As for [`AbiType::lift`].
    fn take_all(count: usize, tail: &mut TailReader<'_>) -> Result<Vec<Self>, Malformed> {
        // Never reserve more than the bytes that are there could hold.
        let mut values = Vec::with_capacity(count.min(tail.left() / size_of::<Self::Inline>().max(1)));
        for _ in 0..count {
            values.push(Self::take(tail)?);
        }
        Ok(values)
    }
}

/// A type whose memory is the same on both sides, so that a reference to it can be lent.
///
/// # Safety
/// The type is `Copy`, has C layout, and its memory is that of [`AbiType::Inline`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be lent by reference across the boundary",
    label = "its memory layout is not fixed",
    note = "give it `#[repr(C)]` beside `#[derive(AbiType, Clone, Copy)]`, or pass it by value (`T`, `Vec<T>`)"
)]
pub unsafe trait Plain: AbiType + Copy {}

/// What may stand behind a `&` in an argument.
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be an argument of an interface method",
    label = "not lendable",
    note = "`&str`, `&[T]` and `&T` can be lent, where T is a number, or a struct of such with `#[repr(C)]` and \
            `#[derive(AbiType, Clone, Copy)]`",
    note = "everything else crosses by value: `T`, `Vec<T>`"
)]
///
/// # Safety
/// As for [`AbiType`]: the other side believes the description.
pub unsafe trait Lend {
    /// The shape, including the `&`.
    const DESC: &'static TypeDesc;
    /// How it crosses.
    type Abi: Copy + 'static;
    /// What a caller without static types (JSON) keeps the value in.
    type Owned: std::borrow::Borrow<Self>;

    /// Lends it to the callee.
    fn lend(&self) -> Self::Abi;

    /// Borrows it on the other side.
    ///
    /// # Safety
    /// `abi` came from [`Lend::lend`] on a value that lives for `'a`.
    unsafe fn borrow<'a>(abi: Self::Abi) -> &'a Self;
}

/// What a method may return: a value, or a `Result` of one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the result of an interface method",
    label = "not a result that can cross",
    note = "results are owned: String instead of &str, Vec<T> instead of &[T]; errors are anything that can be displayed"
)]
pub trait Returns {
    /// The value that crosses.
    type Value: AbiType;
    /// Whether it can be an error.
    const FALLIBLE: bool;

    /// The value, or the text of the error with its causes.
    fn split(self) -> Result<Self::Value, String>;
}

impl<T: AbiType> Returns for T {
    type Value = T;
    const FALLIBLE: bool = false;
    #[inline(always)]
    fn split(self) -> Result<T, String> {
        Ok(self)
    }
}

impl<T: AbiType, E: std::fmt::Display> Returns for Result<T, E> {
    type Value = T;
    const FALLIBLE: bool = true;
    #[inline(always)]
    fn split(self) -> Result<T, String> {
        // The alternate form of an anyhow error is the whole chain of causes on one line.
        self.map_err(|e| format!("{e:#}"))
    }
}

macro_rules! plain {
    ($($ty:ty),*) => { $(
        // SAFETY: the name describes a primitive completely.
        #[diagnostic::do_not_recommend]
        unsafe impl AbiType for $ty {
            const DESC: &'static TypeDesc = &TypeDesc::Named(stringify!($ty));
            const TAIL: bool = false;
            type Inline = $ty;
            #[inline(always)]
            fn lower(self, _: &mut TailWriter) -> $ty {
                self
            }
            #[inline(always)]
            fn lift(inline: $ty, _: &mut TailReader<'_>) -> Result<Self, Malformed> {
                Ok(inline)
            }
            fn put_all(values: Vec<Self>, tail: &mut TailWriter) {
                tail.put(&values);
            }
            fn take_all(count: usize, tail: &mut TailReader<'_>) -> Result<Vec<Self>, Malformed> {
                // SAFETY: `put_all` put them there.
                unsafe { tail.take_all(count, concat!("Vec<", stringify!($ty), ">")) }
            }
        }
        // SAFETY: a primitive has the same memory in every build for one target.
        #[diagnostic::do_not_recommend]
        unsafe impl Plain for $ty {}
    )* };
}
plain!(u16, u32, u64, i8, i16, i32, i64, usize, isize, f32, f64, bool, char);

// SAFETY: as for the other primitives; `take_bytes` reads what `put` wrote.
#[diagnostic::do_not_recommend]
unsafe impl AbiType for u8 {
    const DESC: &'static TypeDesc = &TypeDesc::Named("u8");
    const TAIL: bool = false;
    type Inline = u8;
    #[inline(always)]
    fn lower(self, _: &mut TailWriter) -> u8 {
        self
    }
    #[inline(always)]
    fn lift(inline: u8, _: &mut TailReader<'_>) -> Result<Self, Malformed> {
        Ok(inline)
    }
    fn put_all(values: Vec<Self>, tail: &mut TailWriter) {
        tail.put(&values);
    }
    fn take_all(count: usize, tail: &mut TailReader<'_>) -> Result<Vec<Self>, Malformed> {
        tail.take_bytes(count, "Vec<u8>")
    }
}
// SAFETY: a byte is a byte.
#[diagnostic::do_not_recommend]
unsafe impl Plain for u8 {}

// SAFETY: nothing crosses.
#[diagnostic::do_not_recommend]
unsafe impl AbiType for () {
    const DESC: &'static TypeDesc = &TypeDesc::Named("()");
    const TAIL: bool = false;
    type Inline = ();
    #[inline(always)]
    fn lower(self, _: &mut TailWriter) {}
    #[inline(always)]
    fn lift((): (), _: &mut TailReader<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

// SAFETY: a length, and that many bytes.
#[diagnostic::do_not_recommend]
unsafe impl AbiType for String {
    const DESC: &'static TypeDesc = &TypeDesc::Named("String");
    const TAIL: bool = true;
    type Inline = usize;
    fn lower(self, tail: &mut TailWriter) -> usize {
        tail.put(self.as_bytes());
        self.len()
    }
    fn lift(len: usize, tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
        String::from_utf8(tail.take_bytes(len, "String")?).map_err(|e| Malformed {
            what: "String",
            expected: "UTF-8".into(),
            found: e.utf8_error().to_string(),
        })
    }
}

// SAFETY: a length, and that many values.
unsafe impl<T: AbiType> AbiType for Vec<T> {
    const DESC: &'static TypeDesc = &TypeDesc::Around { open: "Vec<", inner: T::DESC, close: ">" };
    const TAIL: bool = true;
    type Inline = usize;
    fn lower(self, tail: &mut TailWriter) -> usize {
        let len = self.len();
        T::put_all(self, tail);
        len
    }
    fn lift(len: usize, tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
        T::take_all(len, tail)
    }
}

// SAFETY: `ROption` has a fixed layout around one inline part, whose description stands in this one's.
unsafe impl<T: AbiType> AbiType for Option<T> {
    const DESC: &'static TypeDesc = &TypeDesc::Around { open: "Option<", inner: T::DESC, close: ">" };
    const TAIL: bool = T::TAIL;
    type Inline = ROption<T::Inline>;
    #[inline]
    fn lower(self, tail: &mut TailWriter) -> Self::Inline {
        match self {
            Some(value) => ROption::RSome(value.lower(tail)),
            None => ROption::RNone,
        }
    }
    #[inline]
    fn lift(inline: Self::Inline, tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
        match inline {
            ROption::RSome(value) => T::lift(value, tail).map(Some),
            ROption::RNone => Ok(None),
        }
    }
}

// SAFETY: inline parts side by side; description and tail follow their order.
unsafe impl<T: AbiType, const N: usize> AbiType for [T; N] {
    const DESC: &'static TypeDesc = &TypeDesc::Array { inner: T::DESC, len: N };
    const TAIL: bool = T::TAIL;
    type Inline = [T::Inline; N];
    #[inline]
    fn lower(self, tail: &mut TailWriter) -> Self::Inline {
        self.map(|value| value.lower(tail))
    }
    fn lift(inline: Self::Inline, tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
        let values = inline.into_iter().map(|part| T::lift(part, tail)).collect::<Result<Vec<T>, _>>()?;
        Ok(values.try_into().unwrap_or_else(|_| unreachable!("N parts give N values")))
    }
}
// SAFETY: an array of values with the same memory has the same memory.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

macro_rules! tuple {
    ($tuple:ident: $($name:ident . $index:tt),*) => {
        // SAFETY: the tuple has C layout; description and tail follow the order of its members.
        unsafe impl<$($name: AbiType),*> AbiType for ($($name,)*) {
            const DESC: &'static TypeDesc = &TypeDesc::List { open: "(", items: &[$($name::DESC),*], close: ")" };
            const TAIL: bool = $($name::TAIL ||)* false;
            type Inline = $tuple<$($name::Inline),*>;
            #[inline]
            fn lower(self, tail: &mut TailWriter) -> Self::Inline {
                $tuple($(self.$index.lower(tail)),*)
            }
            #[inline]
            fn lift(inline: Self::Inline, tail: &mut TailReader<'_>) -> Result<Self, Malformed> {
                Ok(($($name::lift(inline.$index, tail)?,)*))
            }
        }
    };
}
tuple!(Tuple2: A.0, B.1);
tuple!(Tuple3: A.0, B.1, C.2);
tuple!(Tuple4: A.0, B.1, C.2, D.3);

// SAFETY: the name describes it; a pointer and a length cross.
#[diagnostic::do_not_recommend]
unsafe impl Lend for str {
    const DESC: &'static TypeDesc = &TypeDesc::Named("&str");
    type Abi = RStr<'static>;
    type Owned = String;
    #[inline(always)]
    fn lend(&self) -> RStr<'static> {
        // SAFETY: pointer and length of a `str`. The lifetime does not cross: the callee borrows it with
        // that of the call, by the contract of `Lend::borrow`.
        unsafe { RStr::from_raw_parts(self.as_ptr(), self.len()) }
    }
    #[inline(always)]
    unsafe fn borrow<'a>(abi: RStr<'static>) -> &'a str {
        abi.as_str()
    }
}

// SAFETY: the element's description stands in this one's; a pointer and a length cross.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain> Lend for [T] {
    const DESC: &'static TypeDesc = &TypeDesc::Around { open: "&[", inner: T::DESC, close: "]" };
    type Abi = RSlice<'static, T::Inline>;
    type Owned = Vec<T>;
    #[inline(always)]
    fn lend(&self) -> Self::Abi {
        const { assert_plain::<T>() };
        // SAFETY: pointer and length of a slice; `Plain` promises that its memory is that of `Inline`.
        // As for `str`, the lifetime does not cross.
        unsafe { RSlice::from_raw_parts(self.as_ptr().cast(), self.len()) }
    }
    #[inline(always)]
    unsafe fn borrow<'a>(abi: Self::Abi) -> &'a [T] {
        // SAFETY: the caller promises that it came from `lend`, whose memory is that of a `[T]`.
        unsafe { std::slice::from_raw_parts(abi.as_ptr().cast(), abi.len()) }
    }
}

// SAFETY: the value's description stands in this one's; a pointer crosses.
#[diagnostic::do_not_recommend]
unsafe impl<T: Plain> Lend for T {
    const DESC: &'static TypeDesc = &TypeDesc::Around { open: "&", inner: T::DESC, close: "" };
    type Abi = *const T::Inline;
    type Owned = T;
    #[inline(always)]
    fn lend(&self) -> Self::Abi {
        const { assert_plain::<T>() };
        std::ptr::from_ref(self).cast()
    }
    #[inline(always)]
    unsafe fn borrow<'a>(abi: Self::Abi) -> &'a T {
        // SAFETY: the caller promises that it came from `lend`.
        unsafe { &*abi.cast() }
    }
}

/// What can be seen of the promise of [`Plain`] from outside.
const fn assert_plain<T: Plain>() {
    assert!(size_of::<T>() == size_of::<T::Inline>() && align_of::<T>() == align_of::<T::Inline>());
}

/// Applies a `lift`. In derived code the types of its arguments are not written down, so that a type that
/// cannot cross is one error.
#[inline(always)]
pub fn lift_part<T, V>(
    inline: T,
    tail: &mut TailReader<'_>,
    lift: impl FnOnce(T, &mut TailReader<'_>) -> Result<V, Malformed>,
) -> Result<V, Malformed> {
    lift(inline, tail)
}

/// The error for a discriminant that no variant has.
#[cold]
pub fn unknown_variant(what: &'static str, found: i64) -> Malformed {
    Malformed { what, expected: "one of its variants".into(), found: format!("discriminant {found}") }
}
