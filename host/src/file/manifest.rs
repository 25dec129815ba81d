//! The manifest: what a plugin says about itself in a text inside its file, read without running its code.
//!
//! Invariants:
//! 1. Parsing is total: any bytes give a manifest or an error that names the line.
//! 2. What is accepted is printable: no control characters, and a plugin name that is safe in a file name and
//!    a URL.
//! 3. A line whose first word is unknown is skipped, so that a newer plugin-api may add facts. Known lines
//!    are strict.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::draft::Draft;

/// The manifest version this host reads.
pub const MANIFEST_VERSION: u32 = 1;

/// No manifest is longer than this. A real one has a few hundred bytes.
pub const MANIFEST_LIMIT: usize = 1 << 18;

/// What a plugin file says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// The plugin's name: `[a-z0-9][a-z0-9_-]{0,63}`.
    pub plugin: String,
    /// The plugin's version, as its author gave it.
    pub version: String,
    /// The version of the boundary that the plugin was built against.
    pub boundary: u32,
    /// The state versions it writes and reads; `None` for a stateless plugin.
    pub state: Option<StateVersions>,
    /// The target triple it was built for.
    pub target: String,
    /// What a panic does in it.
    pub panic: PanicStrategy,
    /// The cargo profile, e.g. `release`.
    pub profile: String,
    /// The compiler, e.g. `1.95.0 (59807616e 2026-04-14)`.
    pub rustc: String,
    /// The cargo features it was built with.
    pub features: Vec<String>,
    /// The interfaces it implements, each name once.
    pub interfaces: Vec<InterfaceManifest>,
    /// The interfaces of other plugins that it calls, each name once.
    pub requires: Vec<RequirementManifest>,
}

/// An interface that a plugin calls and another one implements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequirementManifest {
    /// As the plugin was built with it, but with the least version that will do.
    pub interface: InterfaceManifest,
    /// Whether the plugin does without, too.
    pub optional: bool,
}

impl Manifest {
    /// Reads a manifest from the contents of its note. Trailing newlines and NULs are padding.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] names the line, what was found there and what was expected.
    pub fn parse(note: &[u8]) -> Result<Manifest, ManifestError> {
        let text = text_of(note)?;
        let mut lines = text.lines().enumerate();
        check_version(lines.next().map_or("", |(_, line)| line))?;
        let mut draft = Draft::default();
        for (index, line) in lines {
            draft.line(index + 1, line)?;
        }
        draft.finish()
    }

    /// The interface of this name, if the plugin implements it.
    pub fn interface(&self, name: &str) -> Option<&InterfaceManifest> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }
}

/// The state versions a plugin writes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StateVersions {
    /// The version it writes by default, and the newest it reads.
    pub writes: u32,
    /// The oldest version it can write.
    pub writes_from: u32,
    /// The oldest version it reads.
    pub reads_from: u32,
    /// Whether it may be saved while calls go on.
    pub beside_calls: bool,
}

impl StateVersions {
    /// Whether a state of this version can be restored by the plugin.
    pub fn reads(&self, version: u32) -> bool {
        (self.reads_from..=self.writes).contains(&version)
    }

    /// The newest version that this one writes and `other` reads.
    pub fn in_common(&self, other: &StateVersions) -> Option<u32> {
        let newest = self.writes.min(other.writes);
        (newest >= self.writes_from.max(other.reads_from)).then_some(newest)
    }
}

/// What a panic does in a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PanicStrategy {
    /// It unwinds and can be contained.
    Unwind,
    /// It ends the process; such a plugin is refused.
    Abort,
}

/// One interface as a plugin, or the host, knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceManifest {
    /// The name of the trait.
    pub name: String,
    /// The version of the interface.
    pub version: InterfaceVersion,
    /// Its methods, each name once.
    pub methods: Vec<MethodManifest>,
}

impl InterfaceManifest {
    /// The method of this name, if it is known.
    pub fn method(&self, name: &str) -> Option<&MethodManifest> {
        self.methods.iter().find(|method| method.name == name)
    }
}

/// One method of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodManifest {
    /// The name of the method.
    pub name: String,
    /// The interface version that added it.
    pub since: InterfaceVersion,
    /// A digest of types and layouts; parameter names are not part of it. Printed as 16 hex digits, because a
    /// reader of JSON may keep numbers as floats.
    #[serde(serialize_with = "as_hex")]
    pub fingerprint: u64,
    /// The readable signature with layouts, see [`Signature`](super::Signature).
    pub signature: String,
}

fn as_hex<S: Serializer>(fingerprint: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{fingerprint:016x}"))
}

/// The version of an interface: another major does not fit, a higher minor has more methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InterfaceVersion {
    /// Changes when existing methods change.
    pub major: u32,
    /// Changes when methods are added.
    pub minor: u32,
}

impl fmt::Display for InterfaceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for InterfaceVersion {
    type Err = InvalidInterfaceVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        let (major, minor) = parts.ok_or_else(|| InvalidInterfaceVersion { found: excerpt(text) })?;
        Ok(InterfaceVersion { major, minor })
    }
}

/// A text is not an interface version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an interface version: expected two numbers, as in 1.0")]
pub struct InvalidInterfaceVersion {
    /// The text, shortened.
    pub found: String,
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It is longer than any manifest.
    #[error("the manifest has {bytes} bytes, the limit is {MANIFEST_LIMIT}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is not UTF-8.
    #[error("the manifest is not text: byte {at} is not UTF-8")]
    NotText {
        /// The first byte that is not.
        at: usize,
    },
    /// It has a character that could upset a terminal.
    #[error("line {line} of the manifest contains the control character U+{character:04X}")]
    ControlCharacter {
        /// The line, from 1.
        line: usize,
        /// The character's number.
        character: u32,
    },
    /// It does not begin as a manifest does.
    #[error("the manifest begins with {found:?}, expected \"reseat-manifest {MANIFEST_VERSION}\"")]
    NotAManifest {
        /// The first line, shortened.
        found: String,
    },
    /// It has a version that this host does not know.
    #[error(
        "the manifest has version {found}, this host reads version {MANIFEST_VERSION}: update the host, \
         or build the plugin against the host's plugin-api"
    )]
    UnknownVersion {
        /// The version as written.
        found: String,
    },
    /// A line that must be there is not.
    #[error("the manifest has no `{what}` line")]
    Missing {
        /// The first word of the line.
        what: &'static str,
    },
    /// Something that may be said once is said again.
    #[error("line {line} of the manifest gives {what} a second time")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// What is repeated.
        what: String,
    },
    /// A line does not have the value that it needs.
    #[error("line {line} of the manifest: `{what}` is {found:?}, expected {expected}")]
    BadValue {
        /// The line, from 1.
        line: usize,
        /// What the value is for.
        what: &'static str,
        /// The value, shortened.
        found: String,
        /// What it should look like.
        expected: &'static str,
    },
    /// A method comes before any interface.
    #[error("line {line} of the manifest is a method without an interface above it")]
    MethodOutsideInterface {
        /// The line, from 1.
        line: usize,
    },
}

fn text_of(note: &[u8]) -> Result<&str, ManifestError> {
    let padding = note.iter().rev().take_while(|byte| matches!(byte, 0 | b'\n')).count();
    let note = &note[..note.len() - padding];
    if note.len() > MANIFEST_LIMIT {
        return Err(ManifestError::TooLong { bytes: note.len() });
    }
    let text = str::from_utf8(note).map_err(|error| ManifestError::NotText { at: error.valid_up_to() })?;
    for (index, line) in text.split('\n').enumerate() {
        if let Some(character) = line.chars().find(|c| c.is_control()) {
            return Err(ManifestError::ControlCharacter { line: index + 1, character: character.into() });
        }
    }
    Ok(text)
}

fn check_version(first: &str) -> Result<(), ManifestError> {
    let version = first
        .strip_prefix("reseat-manifest ")
        .ok_or_else(|| ManifestError::NotAManifest { found: excerpt(first) })?;
    match number(version) {
        Some(MANIFEST_VERSION) => Ok(()),
        _ => Err(ManifestError::UnknownVersion { found: excerpt(version) }),
    }
}

/// A number written in digits only: `parse` alone would take `+1`.
pub(super) fn number<N: FromStr>(text: &str) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// At most 80 characters of a text, for a message.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
