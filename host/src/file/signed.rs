//! Whether somebody whose key is trusted has signed a library, in the format of minisign.
//!
//! A signature lies beside its library, under the library's name with `.minisig` behind it, and may come later than
//! that. It is checked over the bytes of the private copy, so what was signed is what is opened.
//!
//! Invariants:
//! 1. Whoever gives out trust gives it to a key: nothing that the signature's file says of itself, and no name, counts.
//! 2. Reading what claims to be a signature is total and bounded: an answer, whatever is there.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ct_codecs::{Base64, Decoder};
use minisign_verify::{PublicKey, Signature};

use super::elf::Library;
use super::error::VetError;
use super::vet::{Aligned, open_file};

/// What stands behind a library's name in that of its signature.
pub const SIGNATURE_ENDING: &str = ".minisig";
/// No signature is longer; the comments in one are a line each.
const LIMIT: u64 = 16 << 10;

/// A public key whose signatures are accepted. It is read from what `minisign` and `reseat sign --new-key` print: the
/// line that begins with `RW`, or the whole file with the comment above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    key: PublicKey,
    id: KeyId,
}

impl FromStr for TrustedKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<TrustedKey, NotAKey> {
        // The last line: a comment may stand above it.
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let id = KeyId::in_line(line).ok_or(NotAKey)?;
        let key = PublicKey::from_base64(line).map_err(|_| NotAKey)?;
        Ok(TrustedKey { key, id })
    }
}

impl TrustedKey {
    /// By which it is called.
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// A text that should be a public key is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no public key of minisign: expected the line that begins with RW, of 56 characters")]
pub struct NotAKey;

/// The number of a key, as minisign shows it. It is drawn by lot, and proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId(u64);

impl KeyId {
    /// It is in the third to tenth byte of keys and signatures.
    fn in_line(line: &str) -> Option<KeyId> {
        let bytes = Base64::decode_to_vec(line, None).ok()?;
        Some(KeyId(u64::from_le_bytes(bytes.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// Where the signature of a file is looked for.
#[derive(Clone, Debug)]
pub(crate) enum SignatureAt {
    /// Beside this file.
    Beside(PathBuf),
    /// It was kept with a copy of the host's own, in which a mark may have been cleared. `None`: there was none.
    Kept(Option<Arc<str>>),
}

/// Why a file does not count as signed. Printed, it is the rest of a sentence that begins with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSigned {
    /// There is no signature.
    #[error(
        "is not signed: expected {}, by {}: make it with `reseat sign {} --key KEY`; it is tried again when that is there",
        signature.display(), keys(trusted), library.display()
    )]
    Missing {
        /// The library.
        library: PathBuf,
        /// Where the signature would be.
        signature: PathBuf,
        /// The keys that are trusted.
        trusted: Vec<KeyId>,
    },
    /// It was kept when nobody asked for signatures.
    #[error("was kept without a signature, before one was asked for")]
    KeptWithout,
    /// The signature cannot be read.
    #[error("has a signature that cannot be read: {}: {source}", signature.display())]
    Unreadable {
        /// The signature.
        signature: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What should be a signature is none.
    #[error(
        "has a signature that is none: {} is {what}, expected the four lines that minisign and `reseat sign` write: sign it again",
        signature.display()
    )]
    Malformed {
        /// The signature.
        signature: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Whoever has signed it is not trusted.
    #[error(
        "is signed by key {found}, which is not trusted here: expected {}: sign it with one that is, or add that one to `trusted_keys`",
        keys(trusted)
    )]
    ForeignKey {
        /// Whose signature it is.
        found: KeyId,
        /// The keys that are trusted.
        trusted: Vec<KeyId>,
    },
    /// The signature and the file do not belong together.
    #[error(
        "has a signature that is not of these bytes: it claims to be by key {key}, which is trusted, but is of another file or an earlier build, or one of the two was changed since: sign it again; it is tried again then"
    )]
    OtherBytes {
        /// Whose signature it claims to be.
        key: KeyId,
    },
}

impl NotSigned {
    /// Whether a signature that somebody is still writing could look like this.
    pub fn may_be_incomplete(&self) -> bool {
        matches!(self, NotSigned::Malformed { .. })
    }
}

fn keys(trusted: &[KeyId]) -> String {
    let ids: Vec<_> = trusted.iter().map(KeyId::to_string).collect();
    match ids.as_slice() {
        [one] => format!("key {one}"),
        several => format!("one of the keys {}", several.join(", ")),
    }
}

/// Where a library's signature is.
pub fn signature_of(library: &Path) -> PathBuf {
    let mut name = OsString::from(library);
    name.push(SIGNATURE_ENDING);
    PathBuf::from(name)
}

/// Checks that these bytes are signed by one of these keys, and gives the signature. Without any key nothing is asked for,
/// or read.
///
/// # Errors
///
/// [`NotSigned`] says what is wrong, and what to do.
pub(crate) fn check_signed(
    bytes: &[u8],
    at: &SignatureAt,
    trusted: &[TrustedKey],
) -> Result<Option<Arc<str>>, NotSigned> {
    if trusted.is_empty() {
        return Ok(None);
    }
    match at {
        SignatureAt::Beside(library) => beside(bytes, library, trusted).map(|(_, text)| Some(text)),
        SignatureAt::Kept(None) => Err(NotSigned::KeptWithout),
        SignatureAt::Kept(Some(text)) => {
            let place = Path::new("what was kept of it");
            let verified = match verify(bytes, text, place, trusted) {
                // Of the file, before the mark was cleared in the copy.
                Err(NotSigned::OtherBytes { .. }) if let Some(marked) = marked(bytes) => {
                    verify(&marked, text, place, trusted)
                }
                verified => verified,
            };
            verified.map(|_| Some(text.clone()))
        }
    }
}

/// Whose signature of these bytes lies beside the library at this path, and its text.
///
/// # Errors
///
/// As above.
pub(crate) fn beside(
    bytes: &[u8],
    library: &Path,
    trusted: &[TrustedKey],
) -> Result<(KeyId, Arc<str>), NotSigned> {
    let signature = signature_of(library);
    let text = read(&signature)?.ok_or_else(|| NotSigned::Missing {
        library: library.to_owned(),
        signature: signature.clone(),
        trusted: ids(trusted),
    })?;
    verify(bytes, &text, &signature, trusted).map(|id| (id, text))
}

/// Who is said to have signed the library at this path. Nothing is checked.
///
/// # Errors
///
/// What lies there is no signature.
pub(crate) fn claimed_signer(library: &Path) -> Result<Option<KeyId>, NotSigned> {
    let signature = signature_of(library);
    read(&signature)?.map(|text| parse(&text, &signature).map(|(_, id)| id)).transpose()
}

fn ids(trusted: &[TrustedKey]) -> Vec<KeyId> {
    trusted.iter().map(TrustedKey::id).collect()
}

/// The text of a signature. `None`: there is none.
fn read(signature: &Path) -> Result<Option<Arc<str>>, NotSigned> {
    let malformed = |what| NotSigned::Malformed { signature: signature.to_owned(), what };
    let file = match open_file(signature) {
        Ok(file) => file,
        Err(VetError::Unreadable { source }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(VetError::NotAFile { .. }) => return Err(malformed("no regular file")),
        Err(VetError::Unreadable { source }) => {
            return Err(NotSigned::Unreadable { signature: signature.to_owned(), source });
        }
        Err(other) => {
            let source = io::Error::other(other);
            return Err(NotSigned::Unreadable { signature: signature.to_owned(), source });
        }
    };
    let text = bounded(&file)
        .map_err(|source| NotSigned::Unreadable { signature: signature.to_owned(), source })?
        .ok_or_else(|| malformed("too long"))?;
    String::from_utf8(text).map(|text| Some(text.into())).map_err(|_| malformed("not text"))
}

/// All of a file. `None`: it is too long.
fn bounded(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= LIMIT).then_some(text))
}

fn parse(text: &str, place: &Path) -> Result<(Signature, KeyId), NotSigned> {
    let malformed = |what| NotSigned::Malformed { signature: place.to_owned(), what };
    if text.trim().is_empty() {
        return Err(malformed("empty"));
    }
    let id = text.lines().nth(1).and_then(KeyId::in_line);
    let signature = Signature::decode(text).ok();
    signature.zip(id).ok_or_else(|| malformed("something else"))
}

fn verify(bytes: &[u8], text: &str, place: &Path, trusted: &[TrustedKey]) -> Result<KeyId, NotSigned> {
    let (signature, found) = parse(text, place)?;
    // Two keys may have one number: it is drawn by lot, or by somebody who means harm.
    let mut named = trusted.iter().filter(|key| key.id == found).peekable();
    if named.peek().is_none() {
        return Err(NotSigned::ForeignKey { found, trusted: ids(trusted) });
    }
    // What minisign wrote before 0.10 is as good a signature.
    match named.any(|trusted| trusted.key.verify(bytes, &signature, true).is_ok()) {
        true => Ok(found),
        false => Err(NotSigned::OtherBytes { key: found }),
    }
}

/// These bytes as they were before the mark was cleared that forbids unloading. `None`: there is no place for one.
fn marked(bytes: &[u8]) -> Option<Vec<u8>> {
    let aligned = Aligned::new(bytes);
    let offset = Library::parse(aligned.bytes()).ok()?.entry_offset(object::elf::DT_FLAGS_1)?;
    let at = usize::try_from(offset).ok()?;
    let mut marked = bytes.to_vec();
    let value = marked.get_mut(at..at + 8)?;
    let flags = u64::from_le_bytes((&*value).try_into().ok()?) | object::elf::DF_1_NODELETE.0;
    value.copy_from_slice(&flags.to_le_bytes());
    Some(marked)
}
