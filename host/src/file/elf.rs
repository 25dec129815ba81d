//! An ELF shared library as bytes: where its segments, notes, dynamic entries and symbols are.
//!
//! Invariants:
//! 1. Total on any input: every offset is checked against the bytes before it is used, and nothing is
//!    allocated in proportion to a number that the file claims.
//! 2. A [`Library`] exists only for a 64-bit little-endian shared object whose segments and sections all lie
//!    inside the file.
//! 3. Tables are found as the dynamic linker finds them, through the program headers: a file without a
//!    section table is as good as any.

use object::LittleEndian;
use object::elf::{self, Dyn64, FileHeader64, ProgramHeader64, SectionHeader64, Sym64};
use object::read::elf::{
    FileHeader, GnuHashTable, HashTable, NoteIterator, ProgramHeader, SectionHeader, Sym,
};
use object::read::{ReadRef, StringTable};

use super::error::{Part, VetError};

type Header = FileHeader64<LittleEndian>;
type Segment = ProgramHeader64<LittleEndian>;
type Section = SectionHeader64<LittleEndian>;

/// A symbol of the dynamic symbol table.
pub(super) type Symbol = Sym64<LittleEndian>;

/// The only byte order that is read.
pub(super) const LE: LittleEndian = LittleEndian;

/// A shared library whose parts all lie inside its bytes.
pub(super) struct Library<'data> {
    bytes: &'data [u8],
    header: &'data Header,
    segments: &'data [Segment],
    dynamic: &'data [Dyn64<LittleEndian>],
    strings: StringTable<'data>,
}

impl<'data> Library<'data> {
    /// Reads the tables. The bytes must be aligned to 8, or tables are taken for damaged.
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self, VetError> {
        let header = header(bytes)?;
        let segments = segments(bytes, header)?;
        sections(bytes, header)?;
        let mut library = Library { bytes, header, segments, dynamic: &[], strings: StringTable::default() };
        library.dynamic = library.dynamic_entries()?;
        library.strings = library.dynamic_strings()?;
        Ok(library)
    }

    /// The machine it was built for.
    pub(super) fn machine(&self) -> elf::Machine {
        self.header.e_machine(LE)
    }

    /// Segments of one type.
    pub(super) fn segments(&self, kind: elf::ProgramType) -> impl Iterator<Item = &'data Segment> {
        self.segments.iter().filter(move |segment| segment.p_type(LE) == kind)
    }

    /// The contents of the notes of this name (without its NUL) and type.
    pub(super) fn notes(&self, name: &'data [u8], kind: u32) -> Vec<&'data [u8]> {
        let mut found: Vec<&[u8]> = Vec::new();
        for segment in self.segments(elf::PT_NOTE) {
            let Ok(data) = segment.data(LE, self.bytes) else { continue };
            let Ok(notes) = NoteIterator::<Header>::new(LE, segment.p_align(LE), data) else { continue };
            let ours =
                notes.map_while(Result::ok).filter(|note| note.name() == name && note.n_type(LE).0 == kind);
            for note in ours {
                // Two segments may cover one note.
                if !found.iter().any(|known| std::ptr::eq(*known, note.desc())) && found.len() < 16 {
                    found.push(note.desc());
                }
            }
        }
        found
    }

    /// The values of the dynamic entries with this tag.
    pub(super) fn entries(&self, tag: elf::DynamicTag) -> impl Iterator<Item = u64> {
        self.dynamic.iter().filter(move |entry| entry.d_tag.get(LE) == tag).map(|entry| entry.d_val.get(LE))
    }

    /// The value of the first dynamic entry with this tag.
    pub(super) fn entry(&self, tag: elf::DynamicTag) -> Option<u64> {
        self.entries(tag).next()
    }

    /// Where in the file the value of the first dynamic entry with this tag is.
    pub(super) fn entry_offset(&self, tag: elf::DynamicTag) -> Option<u64> {
        let index = self.dynamic.iter().position(|entry| entry.d_tag.get(LE) == tag)?;
        let table = self.segments(elf::PT_DYNAMIC).next()?.p_offset(LE);
        Some(table + (index * size_of::<Dyn64<LittleEndian>>() + 8) as u64)
    }

    /// A string of the dynamic string table.
    pub(super) fn string(&self, offset: u64) -> Option<&'data [u8]> {
        self.strings.get(u32::try_from(offset).ok()?).ok()
    }

    /// The name of a symbol.
    pub(super) fn name(&self, symbol: &Symbol) -> Option<&'data [u8]> {
        self.string(symbol.st_name(LE).into())
    }

    /// The dynamic symbols.
    pub(super) fn symbols(&self) -> Result<&'data [Symbol], VetError> {
        let damaged = || damaged("its symbol table lies outside of what is loaded");
        let Some(address) = self.entry(elf::DT_SYMTAB) else { return Ok(&[]) };
        let table = self.loaded(address).ok_or_else(damaged)?;
        table.read_slice_at(0, self.symbol_count()?).map_err(|()| damaged())
    }

    /// Whether this range of addresses is part of what is loaded.
    pub(super) fn is_loaded(&self, address: u64, size: u64) -> bool {
        self.segments(elf::PT_LOAD).any(|segment| {
            let inside = address.checked_sub(segment.p_vaddr(LE));
            inside.and_then(|start| start.checked_add(size)).is_some_and(|end| end <= segment.p_memsz(LE))
        })
    }

    /// How long the symbol table is: only the hash tables know.
    fn symbol_count(&self) -> Result<usize, VetError> {
        let damaged = || damaged("its symbol hash table cannot be read");
        if let Some(address) = self.entry(elf::DT_GNU_HASH) {
            let data = self.loaded(address).ok_or_else(damaged)?;
            let table = GnuHashTable::<Header>::parse(LE, data).map_err(|_| damaged())?;
            // A table without any symbol in it still says where it would begin.
            return Ok(table.symbol_table_length(LE).unwrap_or(table.symbol_base()) as usize);
        }
        let Some(address) = self.entry(elf::DT_HASH) else { return Ok(0) };
        let data = self.loaded(address).ok_or_else(damaged)?;
        HashTable::<Header>::parse(LE, data)
            .map(|table| table.symbol_table_length() as usize)
            .map_err(|_| damaged())
    }

    /// The bytes from this address to the end of the contents of its segment.
    fn loaded(&self, address: u64) -> Option<&'data [u8]> {
        self.segments(elf::PT_LOAD).find_map(|segment| {
            let start = usize::try_from(address.checked_sub(segment.p_vaddr(LE))?).ok()?;
            segment.data(LE, self.bytes).ok()?.get(start..).filter(|rest| !rest.is_empty())
        })
    }

    fn dynamic_entries(&self) -> Result<&'data [Dyn64<LittleEndian>], VetError> {
        let segment = self.segments(elf::PT_DYNAMIC).next().ok_or(damaged("it has no dynamic segment"))?;
        let entries = segment.dynamic(LE, self.bytes).ok().flatten();
        let entries = entries.ok_or(damaged("its dynamic segment cannot be read"))?;
        let end = entries.iter().position(|entry| entry.d_tag.get(LE) == elf::DT_NULL);
        Ok(&entries[..end.unwrap_or(entries.len())])
    }

    fn dynamic_strings(&self) -> Result<StringTable<'data>, VetError> {
        let damaged = || damaged("its string table lies outside of what is loaded");
        let Some(address) = self.entry(elf::DT_STRTAB) else { return Ok(StringTable::default()) };
        let size = self.entry(elf::DT_STRSZ).ok_or_else(damaged)?;
        let data = self.loaded(address).filter(|data| size <= data.len() as u64).ok_or_else(damaged)?;
        Ok(StringTable::new(data, 0, size))
    }
}

fn damaged(what: &'static str) -> VetError {
    VetError::Damaged { what, marked: false }
}

fn header(bytes: &[u8]) -> Result<&Header, VetError> {
    check_beginning(bytes)?;
    let kind = |found| VetError::NotSharedLibrary { found, marked: false };
    match bytes.get(4..6) {
        Some([2, 1]) | None => {}
        Some([1, _]) => return Err(kind("a 32-bit ELF file")),
        _ => return Err(kind("an ELF file of another byte order")),
    }
    inside(bytes, Part::Header, 0, size_of::<Header>() as u64)?;
    let header = Header::parse(bytes).map_err(|_| damaged("its ELF header is not valid"))?;
    match header.e_type(LE) {
        elf::ET_DYN => Ok(header),
        elf::ET_REL => Err(kind("an object file")),
        elf::ET_EXEC => Err(kind("an executable")),
        elf::ET_CORE => Err(kind("a core dump")),
        _ => Err(kind("an ELF file of an unknown type")),
    }
}

fn check_beginning(bytes: &[u8]) -> Result<(), VetError> {
    const MAGIC: &[u8] = b"\x7fELF";
    if bytes.is_empty() {
        return Err(VetError::Empty);
    }
    if bytes.starts_with(MAGIC) || MAGIC.starts_with(bytes) {
        return Ok(());
    }
    let first = &bytes[..bytes.len().min(4)];
    let begins = first.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let looks_like = match bytes {
        [b'!', b'<', b'a', b'r', ..] => Some("a static library?"),
        [b'M', b'Z', ..] => Some("a Windows library?"),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => Some("a macOS library?"),
        [0, b'a', b's', b'm', ..] => Some("WebAssembly?"),
        [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..] => Some("compressed?"),
        _ if first.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')) => Some("text?"),
        _ => None,
    };
    Err(VetError::NotElf { begins, looks_like, marked: false })
}

fn segments<'data>(bytes: &'data [u8], header: &Header) -> Result<&'data [Segment], VetError> {
    let count = header.phnum(LE, bytes).map_err(|_| damaged("the number of its segments cannot be read"))?;
    if header.e_phoff(LE) == 0 || count == 0 {
        return Err(damaged("it has no segments"));
    }
    inside(bytes, Part::SegmentTable, header.e_phoff(LE), u64::from(count) * size_of::<Segment>() as u64)?;
    let segments =
        header.program_headers(LE, bytes).map_err(|_| damaged("its program headers cannot be read"))?;
    for (number, segment) in segments.iter().enumerate() {
        let (offset, size) = segment.file_range(LE);
        inside(bytes, Part::Segment(number), offset, size)?;
        if segment.p_type(LE) == elf::PT_LOAD && size > segment.p_memsz(LE) {
            return Err(damaged("a segment is larger in the file than in memory"));
        }
    }
    Ok(segments)
}

/// Checks the sections. The dynamic linker does not need them, but linkers and copiers write them last.
fn sections(bytes: &[u8], header: &Header) -> Result<(), VetError> {
    let offset = header.e_shoff(LE);
    if offset == 0 {
        return Ok(());
    }
    let entry = size_of::<Section>() as u64;
    inside(bytes, Part::SectionTable, offset, entry)?;
    let count = header.shnum(LE, bytes).map_err(|_| damaged("the number of its sections cannot be read"))?;
    inside(bytes, Part::SectionTable, offset, u64::from(count) * entry)?;
    let sections =
        header.section_headers(LE, bytes).map_err(|_| damaged("its section headers cannot be read"))?;
    for (number, section) in sections.iter().enumerate() {
        // Section 0 has no contents; its fields hold numbers too large for the header.
        if let Some((offset, size)) = section.file_range(LE).filter(|_| number > 0) {
            inside(bytes, Part::Section(number), offset, size)?;
        }
    }
    Ok(())
}

fn inside(bytes: &[u8], part: Part, offset: u64, size: u64) -> Result<(), VetError> {
    let (ends_at, bytes) = (offset.saturating_add(size), bytes.len() as u64);
    if ends_at <= bytes { Ok(()) } else { Err(VetError::CutShort { part, ends_at, bytes, marked: false }) }
}
