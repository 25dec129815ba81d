//! Turns descriptions into text while the compiler runs: signatures, fingerprints and the manifest note.

use crate::abi::BOUNDARY_VERSION;
use crate::desc::{InterfaceDesc, ManifestDesc, MethodDesc, Payload, RequirementDesc, TypeDesc};

/// What this was compiled for, as compilers and cargo call it.
pub const TARGET: &str = env!("RESEAT_TARGET");

/// A writer that works in constant evaluation. With `N == 0` it only counts and hashes.
pub struct Text<const N: usize> {
    /// The bytes written, as far as they fit; the rest stays a newline, which the manifest allows as padding.
    pub bytes: [u8; N],
    /// How many bytes were written, or would have been.
    pub len: usize,
    /// FNV-1a, 64 bits, over everything written (Fowler, Noll, Vo; draft-eastlake-fnv).
    pub hash: u64,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub const fn new() -> Self {
        Text { bytes: [b'\n'; N], len: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }

    const fn byte(&mut self, byte: u8) {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
        self.hash = (self.hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3);
    }

    const fn str(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn number(&mut self, value: u64) {
        if value >= 10 {
            self.number(value / 10);
        }
        self.byte(b'0' + (value % 10) as u8);
    }

    const fn signed(&mut self, value: i64) {
        if value < 0 {
            self.byte(b'-');
        }
        self.number(value.unsigned_abs());
    }

    const fn hex(&mut self, value: u64) {
        let mut shift = 64;
        while shift > 0 {
            shift -= 4;
            let digit = ((value >> shift) & 15) as u8;
            self.byte(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }

    const fn version(&mut self, version: crate::desc::Version) {
        self.number(version.major as u64);
        self.byte(b'.');
        self.number(version.minor as u64);
    }

    const fn types(&mut self, items: &[&TypeDesc]) {
        let mut i = 0;
        while i < items.len() {
            if i > 0 {
                self.byte(b',');
            }
            self.ty(items[i]);
            i += 1;
        }
    }

    /// The structure of a type, all the way down; the grammar is in [`TypeDesc`].
    const fn ty(&mut self, ty: &TypeDesc) {
        match ty {
            TypeDesc::Named(name) => self.str(name),
            TypeDesc::Around { open, inner, close } => {
                self.str(open);
                self.ty(inner);
                self.str(close);
            }
            TypeDesc::Array { inner, len } => {
                self.byte(b'[');
                self.ty(inner);
                self.byte(b';');
                self.number(*len as u64);
                self.byte(b']');
            }
            TypeDesc::List { open, items, close } => {
                self.str(open);
                self.types(items);
                self.str(close);
            }
            TypeDesc::Struct { name, fields, size, align } => {
                self.str(name);
                self.byte(b'{');
                let mut i = 0;
                while i < fields.len() {
                    if i > 0 {
                        self.byte(b',');
                    }
                    self.str(fields[i].name);
                    self.byte(b':');
                    self.ty(fields[i].ty);
                    self.byte(b'@');
                    self.number(fields[i].offset as u64);
                    i += 1;
                }
                self.str("}#");
                self.number(*size as u64);
                self.byte(b'/');
                self.number(*align as u64);
            }
            TypeDesc::Enum { name, repr, variants } => {
                self.str(name);
                self.byte(b'|');
                self.str(repr);
                self.byte(b'{');
                let mut i = 0;
                while i < variants.len() {
                    if i > 0 {
                        self.byte(b',');
                    }
                    self.str(variants[i].name);
                    self.byte(b'=');
                    self.signed(variants[i].value);
                    self.payload(&variants[i].payload);
                    i += 1;
                }
                self.byte(b'}');
            }
        }
    }

    const fn payload(&mut self, payload: &Payload) {
        match payload {
            Payload::Unit => {}
            Payload::Tuple(items) => {
                self.byte(b'(');
                self.types(items);
                self.byte(b')');
            }
            Payload::Named(fields) => {
                self.byte(b'{');
                let mut i = 0;
                while i < fields.len() {
                    if i > 0 {
                        self.byte(b',');
                    }
                    self.str(fields[i].0);
                    self.byte(b':');
                    self.ty(fields[i].1);
                    i += 1;
                }
                self.byte(b'}');
            }
        }
    }

    const fn signature(&mut self, method: &MethodDesc, names: bool) {
        self.str(method.name);
        self.byte(b'(');
        let mut i = 0;
        while i < method.params.len() {
            if i > 0 {
                self.str(", ");
            }
            if names {
                self.str(method.params[i].name);
                self.str(": ");
            }
            self.ty(method.params[i].ty);
            i += 1;
        }
        self.str(") -> ");
        if method.fallible {
            self.str("Result<");
        }
        self.ty(method.result);
        if method.fallible {
            self.byte(b'>');
        }
    }

    const fn interface(&mut self, interface: &InterfaceDesc) {
        self.str("\ninterface ");
        self.str(interface.name);
        self.byte(b' ');
        self.version(interface.version);
        self.methods("\nmethod ", interface);
    }

    const fn requirement(&mut self, requirement: &RequirementDesc) {
        self.str(if requirement.optional { "\noptional " } else { "\nrequires " });
        self.str(requirement.interface.name);
        self.byte(b' ');
        self.version(requirement.version);
        self.methods("\nuses ", requirement.interface);
    }

    const fn methods(&mut self, word: &str, interface: &InterfaceDesc) {
        let mut i = 0;
        while i < interface.methods.len() {
            let method = &interface.methods[i];
            self.str(word);
            self.hex(fingerprint(method));
            self.byte(b' ');
            self.version(method.since);
            self.byte(b' ');
            self.signature(method, true);
            i += 1;
        }
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// The 64-bit fingerprint of a method: its name and the structure of everything that crosses.
/// Parameter names are left out, so that renaming one breaks nobody.
pub const fn fingerprint(method: &MethodDesc) -> u64 {
    let mut text = Text::<0>::new();
    text.signature(method, false);
    text.hash
}

/// The 64-bit fingerprint of a type's description.
pub const fn layout(ty: &TypeDesc) -> u64 {
    let mut text = Text::<0>::new();
    text.ty(ty);
    text.hash
}

/// The readable signature of a method, with layouts, as it stands in the manifest.
pub fn signature(method: &MethodDesc) -> String {
    let mut count = Text::<0>::new();
    count.signature(method, true);
    // Long enough for every signature that a person could read; longer ones are cut, not refused.
    let mut text = Box::new(Text::<8192>::new());
    text.signature(method, true);
    String::from_utf8_lossy(&text.bytes[..count.len.min(8192)]).into_owned()
}

/// The manifest text of a plugin, evaluated by the compiler.
pub const fn manifest<const N: usize>(desc: &ManifestDesc) -> Text<N> {
    let mut text = Text::<N>::new();
    text.str("reseat-manifest 1\nplugin ");
    text.str(desc.plugin);
    text.byte(b' ');
    text.str(desc.version);
    text.str("\nboundary ");
    text.number(BOUNDARY_VERSION as u64);
    if desc.state.writes == 0 {
        text.str("\nstate none");
    } else {
        text.str("\nstate writes ");
        text.number(desc.state.writes_from as u64);
        text.str("..=");
        text.number(desc.state.writes as u64);
        text.str(" reads ");
        text.number(desc.state.reads_from as u64);
        text.str("..=");
        text.number(desc.state.writes as u64);
        if desc.state.beside_calls {
            text.str(" beside calls");
        }
    }
    text.str("\ntarget ");
    text.str(TARGET);
    text.str("\npanic ");
    text.str(desc.panic);
    text.str("\nprofile ");
    text.str(desc.profile);
    text.str("\nrustc ");
    text.str(env!("RESEAT_RUSTC"));
    text.str("\nfeatures -");
    let mut i = 0;
    while i < desc.interfaces.len() {
        text.interface(desc.interfaces[i]);
        i += 1;
    }
    let mut i = 0;
    while i < desc.requires.len() {
        text.requirement(&desc.requires[i]);
        i += 1;
    }
    text.byte(b'\n');
    text
}

/// An ELF note: name `RESEAT`, type 1, the manifest text as its descriptor.
#[repr(C, align(4))]
pub struct Note<const N: usize> {
    name_size: u32,
    desc_size: u32,
    kind: u32,
    name: [u8; 8],
    text: [u8; N],
}

impl<const N: usize> Note<N> {
    /// Wraps a manifest text whose length is a multiple of four.
    pub const fn new(text: [u8; N]) -> Self {
        assert!(N.is_multiple_of(4), "the descriptor of a note is padded to four bytes");
        Note { name_size: 7, desc_size: N as u32, kind: 1, name: *b"RESEAT\0\0", text }
    }
}
