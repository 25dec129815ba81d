//! What a file is, and whether it would be accepted: answered from its bytes alone.

use std::path::Path;

use serde::Serialize;

use crate::error::CheckError;
use crate::file::{
    self, ContentHash, Facts, InterfaceManifest, KeyId, Manifest, RequirementManifest, StateVersions,
    TrustedKey, Vetted,
};
use crate::plugin::{Build, Plugin};
use crate::reload::{continues, expect, fits};
use crate::status::{InterfaceStatus, MethodStatus};

/// What a plugin's file says of itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The plugin's name.
    pub plugin: String,
    /// The version of the build.
    pub version: String,
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
    /// Its size.
    pub bytes: u64,
    /// The target it was built for.
    pub target: String,
    /// `debug` or `release`.
    pub profile: String,
    /// The compiler that built it.
    pub rustc: String,
    /// The state versions it writes and reads; `None` for a stateless plugin.
    pub state: Option<StateVersions>,
    /// What can be called.
    pub interfaces: Vec<InterfaceStatus>,
    /// The signature beside it, if there is one.
    pub signature: Option<SignatureStatus>,
    /// What will be special about it, e.g. that it cannot be unloaded.
    pub notes: Vec<String>,
}

/// What is known of a library's signature.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SignatureStatus {
    /// The number of the key.
    pub key: String,
    /// Whether it was checked, with a key that is trusted. Otherwise it is what the signature says of itself.
    pub is_trusted: bool,
}

/// What is this file? Runs no code of it.
///
/// # Errors
/// It is not a plugin that this host could load, and why.
pub fn inspect(file: &Path) -> Result<Inspection, CheckError> {
    read(file).map(|build| inspection(&build))
}

/// Which of these keys has signed this library, by the signature beside it? Runs no code of it.
///
/// # Errors
/// None of them has: it would be refused where they are [`Options::trusted_keys`](crate::Options::trusted_keys).
pub fn signer(file: &Path, trusted: &[TrustedKey]) -> Result<KeyId, CheckError> {
    let unreadable =
        |source| CheckError::Vet { file: file.to_owned(), reason: file::VetError::Unreadable { source } };
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let signed = file::beside(&bytes, file, trusted);
    signed.map(|(key, _)| key).map_err(|reason| CheckError::NotSigned { file: file.to_owned(), reason })
}

/// Would `file` be accepted where `against` serves? Runs no code of either.
///
/// # Errors
/// It would not, or one of the two is not a plugin.
pub fn compare(file: &Path, against: &Path) -> Result<Inspection, CheckError> {
    let (old, new) = (read(against)?, read(file)?);
    continues(&old.manifest, &new.manifest)
        .map_err(|reason| CheckError::Unfit { file: file.to_owned(), reason })?;
    Ok(inspection(&new))
}

pub(crate) fn live(file: &Path, plugin: &Plugin, trusted: &[TrustedKey]) -> Result<Inspection, CheckError> {
    let build = read(file)?;
    let serving = plugin.record().serving.clone();
    let unfit = |reason| CheckError::Unfit { file: file.to_owned(), reason };
    if build.manifest.plugin != plugin.name {
        let other = crate::refusal::RefusalReason::OtherPlugin {
            found: build.manifest.plugin.clone(),
            expected: plugin.name.clone(),
        };
        return Err(unfit(other));
    }
    fits(plugin, serving.as_ref().map(|serving| &*serving.build), &build, None).map_err(unfit)?;
    let mut inspection = inspection(&build);
    if !trusted.is_empty() {
        let key = signer(file, trusted)?.to_string();
        inspection.signature = Some(SignatureStatus { key, is_trusted: true });
    }
    Ok(inspection)
}

pub(crate) fn read(path: &Path) -> Result<Build, CheckError> {
    let vet = |reason| CheckError::Vet { file: path.to_owned(), reason };
    let Vetted { manifest, facts } = file::vet_path(path, &expect(path)).map_err(vet)?;
    let bytes = std::fs::read(path).map_err(|source| vet(file::VetError::Unreadable { source }))?;
    Ok(Build { manifest, facts, hash: ContentHash::of(&bytes), signature: None, file: path.to_owned() })
}

fn inspection(build: &Build) -> Inspection {
    let Build { manifest, facts, hash, file, .. } = build;
    let (signature, mut notes) = (file::claimed_signer(file), notes(facts));
    notes.extend(signature.as_ref().err().map(ToString::to_string));
    notes.extend(manifest.requires.iter().map(called));
    let claimed = |key: KeyId| SignatureStatus { key: key.to_string(), is_trusted: false };
    Inspection {
        plugin: manifest.plugin.clone(),
        version: manifest.version.clone(),
        hash: hash.to_string(),
        bytes: facts.bytes,
        target: manifest.target.clone(),
        profile: manifest.profile.clone(),
        rustc: manifest.rustc.clone(),
        state: manifest.state,
        interfaces: interfaces(manifest),
        signature: signature.ok().flatten().map(claimed),
        notes,
    }
}

/// What the bytes foretell.
fn called(RequirementManifest { interface, optional }: &RequirementManifest) -> String {
    let InterfaceManifest { name, version, .. } = interface;
    match optional {
        true => format!("calls {name} {version} of another plugin, if there is one"),
        false => format!("calls {name} {version} of another plugin, and waits until there is one"),
    }
}

fn notes(facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(symbol) = facts.unique_symbols.first() {
        notes.push(format!(
            "will not be unloaded: it defines {} unique symbols (e.g. {symbol}), which bind a library for ever; compile its C++ with -fno-gnu-unique",
            facts.unique_symbols.len()
        ));
    }
    if facts.static_tls {
        notes.push(format!(
            "uses static thread-local storage ({} bytes): some 14 overlapping loads exhaust it, and then a reload is refused",
            facts.tls_bytes
        ));
    }
    if facts.nodelete.is_some() {
        notes.push(
            "is marked never to be unloaded (-z nodelete); the host clears the mark in its private copy"
                .into(),
        );
    }
    notes
}

/// The interfaces of a manifest, for people.
pub(crate) fn interfaces(manifest: &Manifest) -> Vec<InterfaceStatus> {
    manifest.interfaces.iter().map(interface).collect()
}

fn interface(interface: &InterfaceManifest) -> InterfaceStatus {
    let methods = interface.methods.iter().map(|method| {
        // A signature from a newer grammar is shown as it stands.
        match file::Signature::parse(&method.signature) {
            Ok(signature) => MethodStatus {
                name: method.name.clone(),
                signature: file::human(&signature),
                example: file::example_args(&signature),
            },
            Err(_) => MethodStatus {
                name: method.name.clone(),
                signature: method.signature.clone(),
                example: serde_json::Value::Null,
            },
        }
    });
    InterfaceStatus {
        name: interface.name.clone(),
        version: interface.version.to_string(),
        methods: methods.collect(),
    }
}
