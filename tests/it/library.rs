use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use object::elf;
use reseat_tests::stamp;

/// The bytes of a library, as a fixture's build or made from one.
#[derive(Clone)]
pub struct Build {
    bytes: Arc<Vec<u8>>,
    /// What stands between `lib` and `.so` in its file name: builds of one plugin share it.
    slot: String,
}

impl From<&str> for Build {
    fn from(fixture: &str) -> Build {
        Build::of(fixture)
    }
}

impl Build {
    /// What cargo made of `fixtures/<fixture>.rs`.
    pub fn of(fixture: &str) -> Build {
        static READ: LazyLock<Mutex<HashMap<String, Arc<Vec<u8>>>>> = LazyLock::new(Mutex::default);
        let mut read = lock(&READ);
        let bytes = read.entry(fixture.to_owned()).or_insert_with(|| {
            let path = fixture_path(fixture);
            Arc::new(std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        });
        let slot = plugin_name(bytes).unwrap_or_else(|| fixture.to_owned());
        Build { bytes: bytes.clone(), slot }
    }

    /// Any bytes, to be put at `lib<slot>.so`.
    pub fn raw(slot: &str, bytes: impl Into<Vec<u8>>) -> Build {
        Build { bytes: Arc::new(bytes.into()), slot: slot.to_owned() }
    }

    /// The same bytes under another file name.
    pub fn in_slot(self, slot: &str) -> Build {
        Build { slot: slot.to_owned(), ..self }
    }

    /// Another build of a fixture that uses `stamp!`.
    pub fn stamped(self, number: u32) -> Build {
        assert!(number < 10_000);
        let mut places = 0;
        let build = self.changed(|bytes| {
            for at in find(bytes, stamp::MARK) {
                let digits = at + stamp::MARK.len();
                bytes[digits..digits + 4].copy_from_slice(format!("{number:04}").as_bytes());
                places += 1;
            }
        });
        assert_ne!(places, 0, "{} has no stamp", build.slot);
        build
    }

    /// The plugin that it is a build of.
    pub fn plugin(&self) -> String {
        self.slot.clone()
    }

    /// The same plugin under another name of the same length.
    pub fn named(self, name: &str) -> Build {
        let old = self.slot.clone();
        assert_eq!(old.len(), name.len(), "{old} and {name} are not of one length");
        let named = self.changed(|bytes| {
            for at in find(bytes, old.as_bytes()) {
                bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
            }
        });
        named.in_slot(name).vouched()
    }

    /// Another text in the manifest; what becomes shorter is filled up with newlines, as padding is.
    pub fn with_manifest(self, from: &str, to: &str) -> Build {
        self.changed(|bytes| {
            let (start, end) = manifest_range(bytes).expect("it has a manifest");
            let text = std::str::from_utf8(&bytes[start..end]).expect("manifests are text");
            assert!(text.contains(from), "{from:?} is not in {text}");
            let mut text = text.replacen(from, to, 1);
            assert!(text.len() <= end - start, "{to:?} is too long");
            text.push_str(&"\n".repeat(end - start - text.len()));
            bytes[start..end].copy_from_slice(text.as_bytes());
        })
    }

    /// With a descriptor that vouches for the manifest as it is now.
    pub fn vouched(self) -> Build {
        self.changed(|bytes| {
            let (start, end) = manifest_range(bytes).expect("it has a manifest");
            let text = bytes[start..end].trim_ascii_end().iter().chain(b"\n");
            let hash: u64 = text.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            let at = find(bytes, &plugin_api::abi::MAGIC)[0] + 24;
            bytes[at..at + 8].copy_from_slice(&hash.to_le_bytes());
        })
    }

    /// Bytes of the descriptor, from `offset` on, through `change`.
    pub fn with_descriptor(self, offset: usize, change: impl Fn(&mut u8)) -> Build {
        self.changed(|bytes| {
            let places = find(bytes, &plugin_api::abi::MAGIC);
            assert_eq!(places.len(), 1, "there is one descriptor");
            change(&mut bytes[places[0] + offset]);
        })
    }

    /// As if it had been linked with `-z nodelete`.
    pub fn never_unloaded(self) -> Build {
        let mut entry = elf::DT_FLAGS_1.0.to_le_bytes().to_vec();
        entry.extend(elf::DF_1_NOW.0.to_le_bytes());
        self.changed(|bytes| {
            let places = find(bytes, &entry);
            assert_eq!(places.len(), 1, "libraries of Rust are linked with -z now");
            bytes[places[0] + 8] |= elf::DF_1_NODELETE.0 as u8;
        })
    }

    /// As if its descriptor were a symbol of which the loader keeps one for the whole process.
    pub fn with_unique_descriptor(self) -> Build {
        let symbol = self.descriptor_symbol();
        self.changed(|bytes| {
            // The table for the loader comes before the one for debuggers.
            let at = find(bytes, &symbol)[0];
            // Four bytes before address and size: binding and type, then visibility and section.
            bytes[at - 4] = (elf::STB_GNU_UNIQUE.0 << 4) | elf::STT_OBJECT.0;
        })
    }

    /// Address and size of the descriptor, as they stand in the table of symbols.
    fn descriptor_symbol(&self) -> Vec<u8> {
        use object::{Object as _, ObjectSymbol as _};
        let file = object::File::parse(&**self.bytes).expect("fixtures are ELF files");
        let mut symbols = file.dynamic_symbols();
        let symbol = symbols.find(|symbol| symbol.name() == Ok("RESEAT_PLUGIN")).expect("it is exported");
        [symbol.address().to_le_bytes(), symbol.size().to_le_bytes()].concat()
    }

    /// The first so many bytes.
    pub fn cut(self, len: usize) -> Build {
        self.changed(|bytes| bytes.truncate(len))
    }

    /// Anything else.
    pub fn changed(self, change: impl FnOnce(&mut Vec<u8>)) -> Build {
        let mut bytes = Arc::unwrap_or_clone(self.bytes);
        change(&mut bytes);
        Build { bytes: Arc::new(bytes), slot: self.slot }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("lib{}.so", self.slot)
    }

    /// The ends of its headers, tables, segments and sections: where a writer might have stopped.
    pub fn boundaries(&self) -> Vec<usize> {
        use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
        let file = ElfFile64::<object::Endianness>::parse(&**self.bytes).expect("fixtures are ELF files");
        let (endian, header) = (file.endian(), file.elf_header());
        let segments = file.elf_program_headers().iter().map(|s| s.p_offset(endian) + s.p_filesz(endian));
        let sections = file.elf_section_table().iter().filter_map(|s| s.file_range(endian));
        let mut all: Vec<u64> = vec![0, 4, 16, size_of_val(header) as u64, header.e_shoff(endian)];
        all.push(header.e_phoff(endian) + 56 * file.elf_program_headers().len() as u64);
        all.extend(segments);
        all.extend(sections.flat_map(|(start, len)| [start, start + len]));
        let mut all: Vec<usize> =
            all.into_iter().map(|at| at as usize).filter(|&at| at < self.bytes.len()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Where `needle` is.
pub fn find(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    // `windows` is slow without optimisation; the standard library's text search is not.
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = memmem(&bytes[from..], needle) {
        found.push(from + at);
        from += at + needle.len();
    }
    found
}

fn memmem(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    // SAFETY: both slices are valid for their lengths, and nothing is written.
    let at =
        unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), needle.as_ptr().cast(), needle.len()) };
    (!at.is_null()).then(|| at.addr() - bytes.as_ptr().addr())
}

/// Where the manifest's text is, padding included.
pub fn manifest_range(bytes: &[u8]) -> Option<(usize, usize)> {
    let start = *find(bytes, b"reseat-manifest 1\n").first()?;
    // The note's header: sizes of name and text, type, and the name in eight bytes.
    let size = bytes[start - 16..start - 12].try_into().expect("four bytes");
    Some((start, start + u32::from_le_bytes(size) as usize))
}

fn plugin_name(bytes: &[u8]) -> Option<String> {
    let (start, end) = manifest_range(bytes)?;
    let text = std::str::from_utf8(&bytes[start..end]).ok()?;
    text.lines().find_map(|line| line.strip_prefix("plugin ")?.split(' ').next()).map(str::to_owned)
}

/// Where cargo put a fixture, beside this program whatever the profile and target directory.
///
/// `cargo test --test it` builds no examples: then they are built now, once. `RESEAT_FIXTURES` in the environment
/// names another directory, whose libraries are taken as they are: `scripts/linkers` builds them in many ways.
fn fixture_path(fixture: &str) -> PathBuf {
    if let Some(elsewhere) = std::env::var_os("RESEAT_FIXTURES") {
        return Path::new(&elsewhere).join(format!("lib{fixture}.so"));
    }
    static BUILDING: Mutex<bool> = Mutex::new(false);
    let program = std::env::current_exe().expect("this program has a path");
    let profile_dir = program.ancestors().nth(2).expect("…/<profile>/deps/it-<hash>");
    let path = profile_dir.join("examples").join(format!("lib{fixture}.so"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{fixture}.rs"));
    let mut built = lock(&BUILDING);
    if !*built && !is_newer(&path, &source) {
        cargo_build(profile_dir, &["-p", env!("CARGO_PKG_NAME"), "--examples"]);
        *built = true;
    }
    path
}

fn is_newer(path: &Path, source: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    modified(path).is_some_and(|made| modified(source).is_none_or(|written| made >= written))
}

/// A program of this project, beside this one; built if it is not there.
pub fn beside(name: &str, build: &[&str]) -> PathBuf {
    let program = std::env::current_exe().expect("this program has a path");
    let profile_dir = program.ancestors().nth(2).expect("…/<profile>/deps/it-<hash>");
    let path = profile_dir.join(name);
    if !path.exists() {
        cargo_build(profile_dir, build);
    }
    path
}

/// Builds something of this project with the settings that this program was built with.
fn cargo_build(profile_dir: &Path, what: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.arg("build").args(what);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let name = |dir: &Path| dir.file_name().expect("it has a name").to_owned();
    match name(profile_dir).to_str() {
        Some("debug") => {}
        _ => {
            command.arg("--profile").arg(name(profile_dir));
        }
    }
    let above = profile_dir.parent().expect("the profile's directory is in the target directory");
    // Between the target directory and the profile's there may be one for the target's triple.
    let target_dir = if above.join("CACHEDIR.TAG").exists() {
        above
    } else {
        command.arg("--target").arg(name(above));
        above.parent().expect("a triple's directory is in the target directory")
    };
    command.arg("--target-dir").arg(target_dir);
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "it cannot be built: {command:?}");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
