//! Why a file was refused, from its bytes and its place alone.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::manifest::ManifestError;

/// No plugin file is larger than this.
pub const FILE_LIMIT: u64 = 1 << 30;

/// Why a file was refused. Printed, it is the rest of a sentence that begins with the file: "libx.so … is
/// empty".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VetError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {source}")]
    Unreadable {
        /// What the system says.
        source: io::Error,
    },
    /// It is not a regular file.
    #[error("is {kind}, expected a regular file")]
    NotAFile {
        /// What it is.
        kind: FileKind,
    },
    /// It is larger than any plugin.
    #[error("has {bytes} bytes, more than the limit of {FILE_LIMIT}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It does not begin as an ELF file does.
    #[error("is not a shared library: it begins with {begins}{}, expected 7f 45 4c 46", in_brackets(.looks_like))]
    NotElf {
        /// Its first bytes, in hex.
        begins: String,
        /// What files that begin so usually are.
        looks_like: Option<&'static str>,
        /// Whether the manifest's mark was seen in it.
        marked: bool,
    },
    /// It is an ELF file of another kind.
    #[error("is not a shared library that can be opened: it is {found}{}", crate_type_hint(.found))]
    NotSharedLibrary {
        /// What it is.
        found: &'static str,
        /// Whether the manifest's mark was seen in it.
        marked: bool,
    },
    /// It was built for another machine.
    #[error("is built for {found}, this machine is {expected}: build the plugin for {expected}")]
    ForeignMachine {
        /// The file's machine.
        found: String,
        /// This machine.
        expected: &'static str,
        /// Whether the manifest's mark was seen in it.
        marked: bool,
    },
    /// Part of it lies behind its end.
    #[error(
        "is cut short: {part} ends at byte {ends_at}, the file has {bytes} bytes: it is still being written \
         or was copied in part"
    )]
    CutShort {
        /// What lies outside.
        part: Part,
        /// Where that would end.
        ends_at: u64,
        /// How long the file is.
        bytes: u64,
        /// Whether the manifest's mark was seen in it.
        marked: bool,
    },
    /// Its tables contradict themselves.
    #[error("is damaged: {what}: build it again, or copy it again")]
    Damaged {
        /// Which rule is broken.
        what: &'static str,
        /// Whether the manifest's mark was seen in it.
        marked: bool,
    },
    /// It is a shared library without our note.
    #[error(
        "has no reseat manifest: it was not built with plugin-api's export_plugin!, or its notes were stripped \
         (keep section .note.reseat)"
    )]
    NoManifest {
        /// Whether the manifest's mark was seen elsewhere in it.
        marked: bool,
    },
    /// It has our note more than once.
    #[error(
        "has {found} reseat manifests, expected one: use export_plugin! once, in the cdylib crate itself"
    )]
    SeveralManifests {
        /// How many.
        found: usize,
    },
    /// The manifest cannot be used.
    #[error("has an unusable manifest: {source}")]
    Manifest {
        /// What is wrong with it.
        #[from]
        source: ManifestError,
    },
    /// It was built against another boundary.
    #[error(
        "is built for boundary {found}, this host speaks {expected}: rebuild the plugin against the host's \
         plugin-api"
    )]
    ForeignBoundary {
        /// The plugin's.
        found: u32,
        /// The host's.
        expected: u32,
    },
    /// A panic in it would end the host.
    #[error(
        "is built with panic=abort, so a panic in it would end the host: build it with panic = \"unwind\" in \
         its cargo profile"
    )]
    PanicAborts,
    /// It was built for another system.
    #[error("is built for target {found}, this host is {expected}: build the plugin for {expected}")]
    ForeignTarget {
        /// The plugin's target.
        found: String,
        /// This host, as far as it matters.
        expected: String,
    },
    /// It does not export what the host looks for.
    #[error("exports no usable {symbol}: {fault}: use export_plugin! in the cdylib crate itself")]
    NoDescriptor {
        /// The name of the symbol.
        symbol: &'static str,
        /// What is wrong with it.
        fault: DescriptorFault,
    },
    /// It needs a library that would not be found.
    #[error("needs {library}, which was not found{}: install it or set LD_LIBRARY_PATH", directories(.searched))]
    MissingLibrary {
        /// The name it asks for.
        library: String,
        /// How many directories were searched; 0 if the name is a path.
        searched: usize,
    },
    /// It needs a library that lies beside it and would not be found beside the private copy.
    #[error(
        "needs {library}, which is only found beside it in {}: plugins are opened from a private copy, so put \
         the library where the system looks, or link it statically", .directory.display()
    )]
    LibraryBeside {
        /// The name it asks for.
        library: String,
        /// Where it is.
        directory: PathBuf,
    },
    /// Somebody else may change the file or its directory.
    #[error("{}{is_open}: whoever changes it runs code in this process", place(.path))]
    NotOurs {
        /// The directory in question; `None` for the file itself.
        path: Option<PathBuf>,
        /// In which way.
        is_open: Exposure,
    },
}

impl VetError {
    /// Whether the file claims to be a plugin, so that refusing it is worth a message. A directory of build
    /// results holds many libraries that are not meant for us.
    pub fn claims_to_be_plugin(&self) -> bool {
        match self {
            VetError::NotAFile { .. } | VetError::TooLarge { .. } | VetError::Empty => false,
            VetError::NotElf { marked, .. }
            | VetError::NotSharedLibrary { marked, .. }
            | VetError::ForeignMachine { marked, .. }
            | VetError::CutShort { marked, .. }
            | VetError::Damaged { marked, .. }
            | VetError::NoManifest { marked } => *marked,
            _ => true,
        }
    }

    /// Whether a file that somebody is still writing could look like this, so that it is worth another look.
    /// A writer who closes and reopens the file between pieces passes every witness in between.
    pub fn may_be_incomplete(&self) -> bool {
        match self {
            VetError::Empty | VetError::CutShort { .. } | VetError::Damaged { .. } => true,
            // A preallocated file whose beginning has not been written yet.
            VetError::NotElf { begins, .. } => begins.split(' ').all(|byte| byte == "00"),
            _ => false,
        }
    }

    /// Records whether the bytes hold the mark of a manifest, where that is not obvious.
    pub(super) fn with_mark(mut self, found: bool) -> Self {
        match &mut self {
            VetError::NotElf { marked, .. }
            | VetError::NotSharedLibrary { marked, .. }
            | VetError::ForeignMachine { marked, .. }
            | VetError::CutShort { marked, .. }
            | VetError::Damaged { marked, .. }
            | VetError::NoManifest { marked } => *marked = found,
            _ => {}
        }
        self
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the file type of the same name")]
pub enum FileKind {
    Directory,
    Fifo,
    Socket,
    Device,
    Other,
}

impl FileKind {
    /// The kind of what is not a regular file.
    pub(super) fn of(kind: std::fs::FileType) -> Option<FileKind> {
        use std::os::unix::fs::FileTypeExt;
        match kind {
            _ if kind.is_file() => None,
            _ if kind.is_dir() => Some(FileKind::Directory),
            _ if kind.is_fifo() => Some(FileKind::Fifo),
            _ if kind.is_socket() => Some(FileKind::Socket),
            _ if kind.is_block_device() || kind.is_char_device() => Some(FileKind::Device),
            _ => Some(FileKind::Other),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Directory => "a directory",
            FileKind::Fifo => "a FIFO",
            FileKind::Socket => "a socket",
            FileKind::Device => "a device",
            FileKind::Other => "not a file",
        })
    }
}

/// A part of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The header at its beginning.
    Header,
    /// The table of segments.
    SegmentTable,
    /// The segment of this number.
    Segment(usize),
    /// The table of sections.
    SectionTable,
    /// The section of this number.
    Section(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Header => f.write_str("the ELF header"),
            Part::SegmentTable => f.write_str("the program header table"),
            Part::Segment(number) => write!(f, "segment {number}"),
            Part::SectionTable => f.write_str("the section header table"),
            Part::Section(number) => write!(f, "section {number}"),
        }
    }
}

/// What is wrong with the symbol of the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorFault {
    /// There is none of that name.
    #[error("no such symbol")]
    Absent,
    /// It is used but not defined.
    #[error("the symbol is undefined")]
    Undefined,
    /// It has no address or no size.
    #[error("the symbol is empty")]
    Empty,
    /// Its address is in no segment that is loaded.
    #[error("the symbol lies outside of what is loaded")]
    Outside,
}

/// In which way a file or directory is open to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exposure {
    /// Everybody may write.
    #[error("is writable by others (mode {mode:04o}; chmod o-w)")]
    Writable {
        /// The permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("belongs to user {owner}, expected root or user {us} (chown)")]
    Owner {
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
}

fn in_brackets(text: &Option<&'static str>) -> String {
    text.map_or_else(String::new, |text| format!(" ({text})"))
}

fn crate_type_hint(found: &str) -> &'static str {
    if found.contains("executable") || found.contains("object") {
        ": build it with crate-type cdylib"
    } else {
        ""
    }
}

fn place(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!("lies in {}, which ", path.display()))
}

fn directories(searched: &usize) -> String {
    if *searched == 0 { String::new() } else { format!(" in {searched} directories") }
}
