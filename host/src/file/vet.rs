//! Decides from bytes alone whether a file may be opened: opening runs its constructors, and opening a
//! truncated file can kill the process.
//!
//! Invariants:
//! 1. Total on hostile bytes: an answer, no panic, no allocation beyond the size of the file.
//! 2. No code of the file runs.
//! 3. The checks go from what makes a file a library, over what makes it a plugin, to what makes it ours, so
//!    that the first one that fails is the most telling.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{ProgramHeader, Sym};
use serde::Serialize;

use super::elf::{LE, Library};
use super::error::{DescriptorFault, FILE_LIMIT, FileKind, VetError};
use super::hash::At;
use super::manifest::{Manifest, PanicStrategy};
use super::{needed, trust};

/// The name of the note that holds the manifest, without its NUL.
const NOTE_NAME: &[u8] = b"RESEAT";
/// The type of that note.
const NOTE_TYPE: u32 = 1;
/// The exported symbol of the descriptor.
const DESCRIPTOR: &str = "RESEAT_PLUGIN";
/// Lists that are only shown end here.
const SHOWN_LIMIT: usize = 64;

/// What a file has to fit.
#[derive(Debug, Clone)]
pub struct Expect {
    /// The boundary version that this host speaks.
    pub boundary: u32,
    /// The path that the bytes came from, to explain why a library that lies beside it is not found.
    pub origin: Option<PathBuf>,
}

/// A file that may be opened.
#[derive(Debug, Clone, Serialize)]
pub struct Vetted {
    /// What it says about itself.
    pub manifest: Manifest,
    /// What its tables say about it.
    pub facts: Facts,
}

/// What matters about a library when it is opened and closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The size of the file.
    pub bytes: u64,
    /// Symbols that the dynamic linker keeps unique in the process: a library that defines one never unloads.
    /// At most 64 are listed.
    pub unique_symbols: Vec<String>,
    /// It uses static thread-local storage: space for it runs out after a dozen generations that overlap.
    pub static_tls: bool,
    /// The size of its thread-local storage.
    pub tls_bytes: u64,
    /// Where in the file the flags are that forbid unloading, see [`clear_nodelete`](super::clear_nodelete).
    pub nodelete: Option<u64>,
    /// The libraries that it needs.
    pub needed: Vec<String>,
    /// FNV-1a, 64 bits, of the manifest text: the descriptor in memory states the same.
    pub manifest_hash: u64,
    /// The linker's build id, in hex.
    pub build_id: Option<String>,
    /// How many functions run when it is opened.
    pub constructors: u64,
}

/// Decides whether these bytes may be opened as a plugin.
///
/// # Errors
///
/// [`VetError`] names the first thing that is wrong, with what was expected.
pub fn vet_bytes(bytes: &[u8], expect: &Expect) -> Result<Vetted, VetError> {
    let aligned = Aligned::new(bytes);
    let bytes = aligned.bytes();
    vet(bytes, expect).map_err(|error| error.with_mark(is_marked(bytes)))
}

/// Decides whether the file at this path may be opened as a plugin, and whether only we can change it. Does
/// not block, whatever the path leads to.
///
/// # Errors
///
/// [`VetError`] names the first thing that is wrong, with what was expected.
pub fn vet_path(path: &Path, expect: &Expect) -> Result<Vetted, VetError> {
    let unreadable = |source| VetError::Unreadable { source };
    let file = open_file(path)?;
    let bytes = read_whole(&file)?;
    let origin = expect.origin.clone().unwrap_or_else(|| path.to_owned());
    let expect = Expect { boundary: expect.boundary, origin: Some(origin) };
    let vetted = vet_bytes(&bytes, &expect)?;
    // Last, so that a library which is no plugin is not complained about.
    trust::check_owner(path, &file.metadata().map_err(unreadable)?)?;
    Ok(vetted)
}

/// Opens a regular file for reading, and nothing else. Does not block.
///
/// # Errors
///
/// The path leads to something else, or the file cannot be opened.
pub fn open_file(path: &Path) -> Result<File, VetError> {
    let unreadable = |source| VetError::Unreadable { source };
    // Asked before it is opened, because opening a device can do something.
    let kind = |file: std::fs::Metadata| match FileKind::of(file.file_type()) {
        Some(kind) => Err(VetError::NotAFile { kind }),
        None => Ok(()),
    };
    kind(std::fs::metadata(path).map_err(unreadable)?)?;
    // Close-on-exec is set by the standard library.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    kind(file.metadata().map_err(unreadable)?)?;
    Ok(file)
}

/// All bytes of a file, up to the limit.
pub(super) fn read_whole(file: &File) -> Result<Vec<u8>, VetError> {
    let unreadable = |source| VetError::Unreadable { source };
    let expected = file.metadata().map_err(unreadable)?.len();
    if expected > FILE_LIMIT {
        return Err(VetError::TooLarge { bytes: expected });
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(expected as usize)
        .map_err(|_| unreadable(std::io::ErrorKind::OutOfMemory.into()))?;
    let read =
        At { file, offset: 0 }.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)? as u64;
    if read > FILE_LIMIT { Err(VetError::TooLarge { bytes: read }) } else { Ok(bytes) }
}

fn vet(bytes: &[u8], expect: &Expect) -> Result<Vetted, VetError> {
    let library = Library::parse(bytes)?;
    check_machine(&library)?;
    let flags = library.entry(elf::DT_FLAGS_1).unwrap_or(0);
    if flags & elf::DF_1_PIE.0 != 0 {
        return Err(VetError::NotSharedLibrary { found: "a position-independent executable", marked: false });
    }
    let manifest = manifest(&library)?;
    check_manifest(&manifest, expect)?;
    check_descriptor(&library)?;
    let facts = facts(&library, bytes.len() as u64)?;
    needed::check(&library, &facts.needed, expect.origin.as_deref())?;
    Ok(Vetted { manifest, facts })
}

fn check_machine(library: &Library<'_>) -> Result<(), VetError> {
    const NAMES: [(elf::Machine, &str); 6] = [
        (elf::EM_X86_64, "x86_64"),
        (elf::EM_AARCH64, "aarch64"),
        (elf::EM_RISCV, "riscv64"),
        (elf::EM_PPC64, "powerpc64"),
        (elf::EM_S390, "s390x"),
        (elf::EM_LOONGARCH, "loongarch64"),
    ];
    let (machine, expected) = (library.machine(), std::env::consts::ARCH);
    let found = NAMES.iter().find(|(known, _)| *known == machine).map(|(_, name)| *name);
    if found == Some(expected) {
        return Ok(());
    }
    let found = found.map_or_else(|| format!("ELF machine {}", machine.0), str::to_owned);
    Err(VetError::ForeignMachine { found, expected, marked: false })
}

fn manifest(library: &Library<'_>) -> Result<Manifest, VetError> {
    match library.notes(NOTE_NAME, NOTE_TYPE).as_slice() {
        [] => Err(VetError::NoManifest { marked: false }),
        [note] => Ok(Manifest::parse(note)?),
        several => Err(VetError::SeveralManifests { found: several.len() }),
    }
}

fn check_manifest(manifest: &Manifest, expect: &Expect) -> Result<(), VetError> {
    if manifest.boundary != expect.boundary {
        return Err(VetError::ForeignBoundary { found: manifest.boundary, expected: expect.boundary });
    }
    if manifest.panic == PanicStrategy::Abort {
        return Err(VetError::PanicAborts);
    }
    let parts: Vec<&str> = manifest.target.split('-').collect();
    let system = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    // Two C libraries in one process do not work; other environments are not told apart.
    let other_libc = if cfg!(target_env = "musl") { "gnu" } else { "musl" };
    let fits = parts[0] == std::env::consts::ARCH && parts.contains(&system) && !parts.contains(&other_libc);
    if fits {
        return Ok(());
    }
    let libc = if cfg!(target_env = "musl") { "-musl" } else { "" };
    let expected = format!("{}-{system}{libc}", std::env::consts::ARCH);
    Err(VetError::ForeignTarget { found: manifest.target.clone(), expected })
}

fn check_descriptor(library: &Library<'_>) -> Result<(), VetError> {
    let symbols = library.symbols()?;
    let symbol = symbols.iter().find(|symbol| library.name(symbol) == Some(DESCRIPTOR.as_bytes()));
    let fault = match symbol {
        None => DescriptorFault::Absent,
        Some(symbol) if symbol.is_undefined(LE) => DescriptorFault::Undefined,
        Some(symbol) if symbol.st_value(LE) == 0 || symbol.st_size(LE) == 0 => DescriptorFault::Empty,
        Some(symbol) if !library.is_loaded(symbol.st_value(LE), symbol.st_size(LE)) => {
            DescriptorFault::Outside
        }
        Some(_) => return Ok(()),
    };
    Err(VetError::NoDescriptor { symbol: DESCRIPTOR, fault })
}

fn facts(library: &Library<'_>, bytes: u64) -> Result<Facts, VetError> {
    let flag = |tag, flag: u64| library.entry(tag).is_some_and(|flags| flags & flag != 0);
    let unique =
        |symbol: &&super::elf::Symbol| symbol.st_bind() == elf::STB_GNU_UNIQUE && !symbol.is_undefined(LE);
    let unique = library.symbols()?.iter().filter(unique).take(SHOWN_LIMIT);
    let nodelete = flag(elf::DT_FLAGS_1, elf::DF_1_NODELETE.0);
    let build_id = library.notes(b"GNU", elf::NT_GNU_BUILD_ID.0).first().copied();
    Ok(Facts {
        bytes,
        unique_symbols: unique.filter_map(|symbol| library.name(symbol)).map(shown).collect(),
        static_tls: flag(elf::DT_FLAGS, elf::DF_STATIC_TLS.0),
        tls_bytes: library.segments(elf::PT_TLS).map(|tls| tls.p_memsz(LE)).max().unwrap_or(0),
        nodelete: library.entry_offset(elf::DT_FLAGS_1).filter(|_| nodelete),
        needed: needed::names(library)?,
        manifest_hash: library.notes(NOTE_NAME, NOTE_TYPE).first().map_or(0, |note| text_hash(note)),
        build_id: build_id.map(|id| id.iter().take(SHOWN_LIMIT).map(|byte| format!("{byte:02x}")).collect()),
        constructors: library.entry(elf::DT_INIT_ARRAYSZ).unwrap_or(0) / 8
            + library.entries(elf::DT_INIT).take(1).count() as u64,
    })
}

/// The hash that the plugin's build made of the same text; what pads the note is not part of it.
fn text_hash(note: &[u8]) -> u64 {
    let padding = note.iter().rev().take_while(|&&byte| byte == b'\n' || byte == 0).count();
    let text = note[..note.len() - padding].iter().chain(b"\n");
    text.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
}

/// Whether the mark of a manifest is anywhere in the bytes: `RESEAT` and a NUL. Goes from NUL to NUL, which
/// the standard library finds quickly even in an unoptimised build.
fn is_marked(mut bytes: &[u8]) -> bool {
    while let Ok(text) = std::ffi::CStr::from_bytes_until_nul(bytes) {
        if text.to_bytes().ends_with(NOTE_NAME) {
            return true;
        }
        bytes = &bytes[text.count_bytes() + 1..];
    }
    false
}

/// Bytes at an address that is a multiple of 8, where the tables of an ELF file can be read in place.
pub(super) enum Aligned<'a> {
    Already(&'a [u8]),
    Copied(Vec<u64>, usize),
}

impl<'a> Aligned<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        if bytes.as_ptr().addr().is_multiple_of(8) {
            return Aligned::Already(bytes);
        }
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        object::pod::bytes_of_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Aligned::Copied(words, bytes.len())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Aligned::Already(bytes) => bytes,
            Aligned::Copied(words, length) => &object::pod::bytes_of_slice(words)[..*length],
        }
    }
}
