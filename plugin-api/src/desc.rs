//! What an interface looks like, as plain constants.
//!
//! Nothing in here is a function pointer, so the compiler can fold a whole interface into text: that
//! text is the manifest in the library file, and it can be read without running any code of the
//! library. The grammar of the text is written beside [`TypeDesc`].

/// A version of an interface. The major number names the contract, the minor number counts what has
/// been added to it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Two interfaces with different major numbers have nothing to do with each other.
    pub major: u32,
    /// A higher minor number knows more methods.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One interface: the trait's name, its version and its methods in the order of declaration.
#[derive(Debug)]
pub struct InterfaceDesc {
    /// The trait's name.
    pub name: &'static str,
    /// The version given to `#[interface]`.
    pub version: Version,
    /// The methods, in the order of declaration.
    pub methods: &'static [MethodDesc],
}

/// One method of an interface.
#[derive(Debug)]
pub struct MethodDesc {
    /// The method's name: methods of two builds are matched by it.
    pub name: &'static str,
    /// The interface version that introduced it.
    pub since: Version,
    /// The parameters after `&self`.
    pub params: &'static [ParamDesc],
    /// What it returns; for a `Result<T>` this is `T`.
    pub result: &'static TypeDesc,
    /// Whether it returns a `Result`.
    pub fallible: bool,
}

/// One parameter of a method. Its name is for people; it is not part of the fingerprint.
#[derive(Debug)]
pub struct ParamDesc {
    /// The name in the declaration.
    pub name: &'static str,
    /// Its type.
    pub ty: &'static TypeDesc,
}

/// The shape of a type on the boundary.
///
/// As text:
///
/// | type | text |
/// | --- | --- |
/// | primitives, `String`, `&str` | their Rust name |
/// | `Vec<T>`, `Option<T>`, `&[T]`, `&T`, `[T;4]`, `(A,B)` | as in Rust |
/// | callback | `&mut FnMut(A,B)` |
/// | struct | `Name{field:T@offset,…}#size/align` |
/// | enum | `Name\|i32{Variant=0,Other=1(T),Third=2{field:T}}` |
#[derive(Debug)]
pub enum TypeDesc {
    /// A type that its name describes completely.
    Named(&'static str),
    /// Something around one other type.
    Around {
        /// Text before, e.g. `Vec<`.
        open: &'static str,
        /// The inner type.
        inner: &'static TypeDesc,
        /// Text after, e.g. `>`.
        close: &'static str,
    },
    /// An array of fixed length.
    Array {
        /// The element.
        inner: &'static TypeDesc,
        /// How many.
        len: usize,
    },
    /// A list of types in brackets.
    List {
        /// Text before, e.g. `(`.
        open: &'static str,
        /// The members.
        items: &'static [&'static TypeDesc],
        /// Text after, e.g. `)`.
        close: &'static str,
    },
    /// A struct with named or numbered fields.
    Struct {
        /// The type's name.
        name: &'static str,
        /// Its fields, with their offsets in the crossing form.
        fields: &'static [FieldDesc],
        /// Size of the crossing form in bytes.
        size: usize,
        /// Alignment of the crossing form in bytes.
        align: usize,
    },
    /// An enum.
    Enum {
        /// The type's name.
        name: &'static str,
        /// The integer type of its discriminant.
        repr: &'static str,
        /// Its variants.
        variants: &'static [VariantDesc],
    },
}

/// One field of a struct.
#[derive(Debug)]
pub struct FieldDesc {
    /// Its name, or its number in a tuple struct.
    pub name: &'static str,
    /// Offset in the crossing form, in bytes.
    pub offset: usize,
    /// Its type.
    pub ty: &'static TypeDesc,
}

/// One variant of an enum.
#[derive(Debug)]
pub struct VariantDesc {
    /// Its name.
    pub name: &'static str,
    /// Its discriminant.
    pub value: i64,
    /// What it carries.
    pub payload: Payload,
}

/// What a variant carries.
#[derive(Debug)]
pub enum Payload {
    /// Nothing.
    Unit,
    /// Values by position.
    Tuple(&'static [&'static TypeDesc]),
    /// Values by name.
    Named(&'static [(&'static str, &'static TypeDesc)]),
}

/// What a plugin states about its state.
#[derive(Debug, Clone, Copy)]
pub struct StateDesc {
    /// The version it writes unless asked for another; 0: it is stateless.
    pub writes: u32,
    /// The oldest version it can write.
    pub writes_from: u32,
    /// The oldest version it reads.
    pub reads_from: u32,
    /// Whether it may be saved while calls go on.
    pub beside_calls: bool,
}

/// Everything that goes into the manifest of one plugin.
#[derive(Debug)]
pub struct ManifestDesc {
    /// The plugin's name: its identity.
    pub plugin: &'static str,
    /// The plugin's own version.
    pub version: &'static str,
    /// Its state versions.
    pub state: StateDesc,
    /// `unwind` or `abort`.
    pub panic: &'static str,
    /// `debug` or `release`.
    pub profile: &'static str,
    /// The interfaces it implements.
    pub interfaces: &'static [&'static InterfaceDesc],
    /// The interfaces of other plugins that it calls.
    pub requires: &'static [RequirementDesc],
}

/// An interface that a plugin calls and another one implements.
#[derive(Debug)]
pub struct RequirementDesc {
    /// The interface, as the plugin was built with it.
    pub interface: &'static InterfaceDesc,
    /// The least version that will do.
    pub version: Version,
    /// Whether the plugin does without, too.
    pub optional: bool,
}

impl RequirementDesc {
    /// `version`: the least that will do; `None`: the one that the plugin was built with.
    pub const fn new(
        interface: &'static InterfaceDesc,
        version: Option<(u32, u32)>,
        optional: bool,
    ) -> RequirementDesc {
        let version = match version {
            Some((major, minor)) => Version { major, minor },
            None => interface.version,
        };
        assert!(
            version.major == interface.version.major && version.minor <= interface.version.minor,
            "a requirement names a version that the interface has had: of the major version that this crate is built with, and no later than that one"
        );
        RequirementDesc { interface, version, optional }
    }
}

/// Whether `name` can be a plugin's name: `[a-z0-9][a-z0-9_-]{0,63}`. Names end up in file names, URLs
/// and log lines.
pub const fn is_plugin_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 {
        return false;
    }
    let mut i = 0;
    while i < bytes.len() {
        let plain = bytes[i].is_ascii_lowercase() || bytes[i].is_ascii_digit();
        if !plain && (i == 0 || (bytes[i] != b'_' && bytes[i] != b'-')) {
            return false;
        }
        i += 1;
    }
    true
}
