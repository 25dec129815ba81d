//! A manifest while its lines are read, one after another, in any order.
//!
//! The only order that matters is that methods follow their interface.

use std::str::FromStr;

use super::manifest::{
    InterfaceManifest, InterfaceVersion, Manifest, ManifestError, MethodManifest, PanicStrategy,
    RequirementManifest, StateVersions, excerpt, number,
};

/// The lines read so far.
#[derive(Default)]
pub(super) struct Draft {
    plugin: Option<(String, String)>,
    boundary: Option<u32>,
    state: Option<Option<StateVersions>>,
    target: Option<String>,
    panic: Option<PanicStrategy>,
    profile: Option<String>,
    rustc: Option<String>,
    features: Option<Vec<String>>,
    interfaces: Vec<InterfaceManifest>,
    requires: Vec<RequirementManifest>,
}

impl Draft {
    /// Takes in one line.
    pub(super) fn line(&mut self, line: usize, text: &str) -> Result<(), ManifestError> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let value = |what| Value { line, what, text: rest };
        match word {
            "plugin" => once(&mut self.plugin, value("plugin"), plugin),
            "boundary" => once(&mut self.boundary, value("boundary"), boundary),
            "state" => once(&mut self.state, value("state"), state),
            "target" => once(&mut self.target, value("target"), |v| v.word("a target triple")),
            "panic" => once(&mut self.panic, value("panic"), panic_strategy),
            "profile" => once(&mut self.profile, value("profile"), |v| v.word("the name of a profile")),
            "rustc" => once(&mut self.rustc, value("rustc"), rustc),
            "features" => once(&mut self.features, value("features"), features),
            "interface" => self.interface(value("interface")),
            "method" => self.method(value("method")),
            "requires" => self.requires(value("requires"), false),
            "optional" => self.requires(value("optional"), true),
            "uses" => self.uses(value("uses")),
            _ => Ok(()), // a fact that this host does not know yet, by invariant 3 of the manifest
        }
    }

    /// The manifest, if nothing is missing.
    pub(super) fn finish(self) -> Result<Manifest, ManifestError> {
        let missing = |what| ManifestError::Missing { what };
        let (plugin, version) = self.plugin.ok_or(missing("plugin"))?;
        Ok(Manifest {
            plugin,
            version,
            boundary: self.boundary.ok_or(missing("boundary"))?,
            state: self.state.ok_or(missing("state"))?,
            target: self.target.ok_or(missing("target"))?,
            panic: self.panic.ok_or(missing("panic"))?,
            profile: self.profile.ok_or(missing("profile"))?,
            rustc: self.rustc.ok_or(missing("rustc"))?,
            features: self.features.ok_or(missing("features"))?,
            interfaces: self.interfaces,
            requires: self.requires,
        })
    }

    fn interface(&mut self, value: Value<'_>) -> Result<(), ManifestError> {
        let interface = interface(&value)?;
        if self.interfaces.iter().any(|known| known.name == interface.name) {
            return Err(value.twice(format!("interface {}", interface.name)));
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn requires(&mut self, value: Value<'_>, optional: bool) -> Result<(), ManifestError> {
        let interface = interface(&value)?;
        if self.requires.iter().any(|known| known.interface.name == interface.name) {
            return Err(value.twice(format!("requirement {}", interface.name)));
        }
        self.requires.push(RequirementManifest { interface, optional });
        Ok(())
    }

    fn method(&mut self, value: Value<'_>) -> Result<(), ManifestError> {
        let outside = ManifestError::MethodOutsideInterface { line: value.line };
        add_method(self.interfaces.last_mut().ok_or(outside)?, &value)
    }

    fn uses(&mut self, value: Value<'_>) -> Result<(), ManifestError> {
        let outside = ManifestError::MethodOutsideInterface { line: value.line };
        add_method(&mut self.requires.last_mut().ok_or(outside)?.interface, &value)
    }
}

fn interface(value: &Value<'_>) -> Result<InterfaceManifest, ManifestError> {
    let expected = "a name and a version, as in `RateLimiter 1.1`";
    let (name, version) = value.split(expected)?;
    let named = is_name(name, |c| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '-'));
    let version = InterfaceVersion::from_str(version).ok().filter(|_| named);
    let version = version.ok_or_else(|| value.bad(expected))?;
    Ok(InterfaceManifest { name: name.to_owned(), version, methods: Vec::new() })
}

fn add_method(interface: &mut InterfaceManifest, value: &Value<'_>) -> Result<(), ManifestError> {
    let method = method(value)?;
    if interface.method(&method.name).is_some() {
        return Err(value.twice(format!("method {} of {}", method.name, interface.name)));
    }
    interface.methods.push(method);
    Ok(())
}

/// What follows the first word of a line.
struct Value<'a> {
    line: usize,
    what: &'static str,
    text: &'a str,
}

impl<'a> Value<'a> {
    /// Two words.
    fn split(&self, expected: &'static str) -> Result<(&'a str, &'a str), ManifestError> {
        self.text.split_once(' ').ok_or_else(|| self.bad(expected))
    }

    /// One printable word.
    fn word(&self, expected: &'static str) -> Result<String, ManifestError> {
        if is_word(self.text) { Ok(self.text.to_owned()) } else { Err(self.bad(expected)) }
    }

    fn bad(&self, expected: &'static str) -> ManifestError {
        ManifestError::BadValue { line: self.line, what: self.what, found: excerpt(self.text), expected }
    }

    fn twice(&self, what: String) -> ManifestError {
        ManifestError::Twice { line: self.line, what }
    }
}

fn once<T>(
    slot: &mut Option<T>,
    value: Value<'_>,
    parse: impl FnOnce(&Value<'_>) -> Result<T, ManifestError>,
) -> Result<(), ManifestError> {
    if slot.is_some() {
        return Err(value.twice(format!("`{}`", value.what)));
    }
    *slot = Some(parse(&value)?);
    Ok(())
}

fn plugin(value: &Value<'_>) -> Result<(String, String), ManifestError> {
    let expected = "a name (at most 64 of a-z, 0-9, _ and -, the first a letter or a digit) and a version";
    let (name, version) = value.split(expected)?;
    if is_plugin_name(name) && is_word(version) {
        Ok((name.to_owned(), version.to_owned()))
    } else {
        Err(value.bad(expected))
    }
}

/// Whether a text can be the name of a plugin: safe in file names, URLs and listings.
pub fn is_plugin_name(name: &str) -> bool {
    let rest = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9'));
    first && name.len() <= 64 && name.bytes().all(rest)
}

fn boundary(value: &Value<'_>) -> Result<u32, ManifestError> {
    number(value.text).ok_or_else(|| value.bad("a number"))
}

fn state(value: &Value<'_>) -> Result<Option<StateVersions>, ManifestError> {
    if value.text == "none" {
        return Ok(None);
    }
    let versions = || {
        let range = |text: &str| {
            let (from, to) = text.split_once("..=")?;
            Some((number::<u32>(from)?, number::<u32>(to)?))
        };
        let (text, beside_calls) = match value.text.strip_suffix(" beside calls") {
            Some(text) => (text, true),
            None => (value.text, false),
        };
        let (writes, reads) = text.strip_prefix("writes ")?.split_once(" reads ")?;
        let ((writes_from, writes), (reads_from, to)) = (range(writes)?, range(reads)?);
        let possible = writes_from <= writes && reads_from <= writes && to == writes;
        possible.then_some(StateVersions { writes, writes_from, reads_from, beside_calls })
    };
    versions().map(Some).ok_or_else(|| value.bad("`none` or the form `writes 1..=2 reads 1..=2`"))
}

fn panic_strategy(value: &Value<'_>) -> Result<PanicStrategy, ManifestError> {
    match value.text {
        "unwind" => Ok(PanicStrategy::Unwind),
        "abort" => Ok(PanicStrategy::Abort),
        _ => Err(value.bad("`unwind` or `abort`")),
    }
}

fn rustc(value: &Value<'_>) -> Result<String, ManifestError> {
    let text = value.text.trim();
    if text.is_empty() { Err(value.bad("the compiler's version")) } else { Ok(text.to_owned()) }
}

fn features(value: &Value<'_>) -> Result<Vec<String>, ManifestError> {
    if value.text == "-" {
        return Ok(Vec::new());
    }
    let names = value.text.split(',').map(|name| is_word(name).then(|| name.to_owned()));
    names.collect::<Option<_>>().ok_or_else(|| value.bad("`-` or feature names with commas between them"))
}

fn method(value: &Value<'_>) -> Result<MethodManifest, ManifestError> {
    let parts = || {
        let (fingerprint, rest) = value.text.split_once(' ')?;
        let (since, signature) = rest.split_once(' ')?;
        let hex = fingerprint.len() == 16 && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
        let fingerprint = u64::from_str_radix(fingerprint, 16).ok().filter(|_| hex)?;
        let (name, _) = signature.split_once('(')?;
        is_name(name, |c| c.is_alphanumeric() || c == '_').then_some(())?;
        let (name, signature) = (name.to_owned(), signature.to_owned());
        Some(MethodManifest { name, since: since.parse().ok()?, fingerprint, signature })
    };
    parts().ok_or_else(|| value.bad("16 hex digits, a version and a signature"))
}

fn is_name(name: &str, allowed: impl Fn(char) -> bool) -> bool {
    !name.is_empty() && name.len() <= 128 && name.chars().all(allowed)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && text.chars().all(|c| !c.is_whitespace())
}
