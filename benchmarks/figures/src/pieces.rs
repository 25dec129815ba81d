//! Plugins made from one library, which differ by the names that stand in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use callee_interface::Part;
use reseat::{Handle, Host, Options, TrustedDir};

/// One of up to ten thousand.
#[derive(Clone, Copy)]
pub struct Piece {
    number: usize,
    /// Whether there is one more that this one calls.
    calls_the_next: bool,
}

impl Piece {
    /// One that calls nobody.
    pub fn alone(number: usize) -> Piece {
        Piece { number, calls_the_next: false }
    }

    /// One of a chain of so many, each of which cannot do without the next.
    pub fn of_chain(number: usize, length: usize) -> Piece {
        Piece { number, calls_the_next: number + 1 < length }
    }

    /// The plugin's name.
    pub fn name(self) -> String {
        name(self.number)
    }

    /// Puts it into a directory.
    pub fn install(self, directory: &Path) {
        fs::write(self.path(directory), self.bytes(0)).expect("it is ours");
    }

    /// Its file there.
    pub fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("lib{}.so", name(self.number)))
    }

    /// Its library; each build is another one.
    pub fn bytes(self, build: usize) -> Vec<u8> {
        static BUILT: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let library = std::env::current_exe().expect("Linux knows").with_file_name("libpiece.so");
            fs::read(library).expect("cargo build -p piece was run")
        });
        let mut bytes = BUILT.clone();
        replace(&mut bytes, "piece0000", &name(self.number));
        replace(&mut bytes, "Above0000", &format!("Above{:04}", self.number));
        replace(&mut bytes, "Below0000", &format!("Above{:04}", self.number + 1));
        self.vouch(&mut bytes);
        bytes.extend(build.to_le_bytes());
        bytes
    }

    /// Makes the manifest that of this piece, and has the descriptor vouch for it.
    fn vouch(self, bytes: &mut [u8]) {
        let start = *places(bytes, b"reseat-manifest 1\n").first().expect("it has a manifest");
        // The note's header: sizes of name and text, type, and the name in eight bytes.
        let size = u32::from_le_bytes(bytes[start - 16..start - 12].try_into().expect("four bytes"));
        let padded = &mut bytes[start..start + size as usize];
        let mut text = String::from_utf8(padded.to_vec()).expect("manifests are text");
        if !self.calls_the_next {
            // All that is behind it is about what it requires.
            text.truncate(text.find("\nrequires ").expect("it requires something") + 1);
        }
        padded.fill(b'\n');
        padded[..text.len()].copy_from_slice(text.as_bytes());
        let text = text.trim_end().bytes().chain([b'\n']);
        let hash: u64 = text.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let descriptor = places(bytes, &plugin_api::abi::MAGIC)[0] + 24;
        bytes[descriptor..descriptor + 8].copy_from_slice(&hash.to_le_bytes());
    }
}

/// The plugin's name.
pub fn name(number: usize) -> String {
    format!("piece{number:04}")
}

/// A host that serves what is in a directory.
pub fn host(dir: &Path, plugins: &Path) -> Host {
    // SAFETY: only this program writes there.
    let trusted = unsafe { TrustedDir::new(plugins) };
    let state_dir = dir.join("state");
    let options = Options { watch: vec![trusted], state_dir, probation: None, ..Options::default() };
    Host::start(options).expect("the host starts")
}

/// A handle of a piece.
pub fn handle(host: &Host, number: usize) -> Handle<dyn Part> {
    host.plugin(&name(number)).expect("it is loaded")
}

fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    for at in places(bytes, from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
}

fn places(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    bytes.windows(wanted.len()).enumerate().filter(|(_, found)| *found == wanted).map(|(at, _)| at).collect()
}
