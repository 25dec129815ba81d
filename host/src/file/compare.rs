//! Whether a plugin's interface fits the host's: the compatibility rule, and the difference when it does not.
//!
//! Same name, same major version, and every method that both know has the same fingerprint. A method that
//! only the host knows is missing and answers `Unsupported`; one that only the plugin knows is never called.

use std::fmt;

use serde::Serialize;

use super::difference::differing_parts;
use super::manifest::{InterfaceManifest, InterfaceVersion, MethodManifest};

/// How far two versions of an interface agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compatibility {
    /// How many methods both know.
    pub shared: usize,
    /// Methods that the host knows and the plugin lacks.
    pub missing: Vec<String>,
}

/// Why a plugin does not fit an interface. Printed, it has three lines for each method that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InterfaceDifference {
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's version.
    pub plugin_version: String,
    /// The interface's name on the host's side.
    pub interface: String,
    /// The interface's version on the host's side.
    pub interface_version: InterfaceVersion,
    /// What differs.
    pub difference: Difference,
}

/// What differs between two interfaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Difference {
    /// The plugin's interface has another name.
    Name {
        /// The plugin's.
        found: String,
    },
    /// The major versions differ: the interface was changed, not extended.
    Major {
        /// The plugin's.
        found: InterfaceVersion,
    },
    /// Methods that both know differ.
    Methods(Vec<MethodDifference>),
}

/// A method that both sides know and do not agree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MethodDifference {
    /// The name of the method.
    pub method: String,
    /// The host's signature.
    pub host: String,
    /// The plugin's signature.
    pub plugin: String,
}

/// Compares the host's interface with that of the plugin `plugin` of version `plugin_version`.
///
/// # Errors
///
/// [`InterfaceDifference`] names everything that keeps the plugin from being used through this interface.
pub fn compare(
    ours: &InterfaceManifest,
    theirs: &InterfaceManifest,
    plugin: &str,
    plugin_version: &str,
) -> Result<Compatibility, InterfaceDifference> {
    difference(ours, theirs).map_err(|difference| InterfaceDifference {
        plugin: plugin.to_owned(),
        plugin_version: plugin_version.to_owned(),
        interface: ours.name.clone(),
        interface_version: ours.version,
        difference,
    })
}

fn difference(ours: &InterfaceManifest, theirs: &InterfaceManifest) -> Result<Compatibility, Difference> {
    if ours.name != theirs.name {
        return Err(Difference::Name { found: theirs.name.clone() });
    }
    if ours.version.major != theirs.version.major {
        return Err(Difference::Major { found: theirs.version });
    }
    let mut found = Compatibility { shared: 0, missing: Vec::new() };
    let mut differing = Vec::new();
    for method in &ours.methods {
        match theirs.method(&method.name) {
            None => found.missing.push(method.name.clone()),
            Some(other) if other.fingerprint == method.fingerprint => found.shared += 1,
            Some(other) => differing.push(MethodDifference::new(method, other)),
        }
    }
    if differing.is_empty() { Ok(found) } else { Err(Difference::Methods(differing)) }
}

impl MethodDifference {
    fn new(ours: &MethodManifest, theirs: &MethodManifest) -> Self {
        let (mut host, mut plugin) = (ours.signature.clone(), theirs.signature.clone());
        if host == plugin {
            // The texts hide it, so the fingerprints have to show it.
            host += &format!(" fingerprint:{:016x}", ours.fingerprint);
            plugin += &format!(" fingerprint:{:016x}", theirs.fingerprint);
        }
        MethodDifference { method: ours.name.clone(), host, plugin }
    }
}

impl std::error::Error for InterfaceDifference {}

impl fmt::Display for InterfaceDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = format!(
            "{} {} does not fit interface {} {}",
            self.plugin, self.plugin_version, self.interface, self.interface_version
        );
        match &self.difference {
            Difference::Name { found } => write!(f, "{head}: it implements {found}"),
            Difference::Major { found } => {
                write!(
                    f,
                    "{head}: it was built against version {found}: rebuild the plugin against the host's"
                )
            }
            Difference::Methods(methods) => {
                for (index, method) in methods.iter().enumerate() {
                    let newline = if index == 0 { "" } else { "\n" };
                    let (host, plugin) = differing_parts(&method.host, &method.plugin);
                    write!(f, "{newline}{head}: method `{}` differs", method.method)?;
                    write!(f, "\n  host:   {host}\n  plugin: {plugin}")?;
                }
                Ok(())
            }
        }
    }
}
