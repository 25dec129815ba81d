//! `reseat sign`: keys and signatures, in the files of minisign.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};
use reseat::TrustedKey;
use reseat::file::signature_of;

use super::Failure;
use super::args::SignArgs;
use super::client::print;
use super::settings::{DEFAULT, Settings};

/// Where a password may be, for those who cannot be asked.
pub const PASSWORD: &str = "RESEAT_SIGN_PASSWORD";

/// The size of a secret key in its file.
const SECRET_BYTES: usize = 158;

/// `reseat sign`
pub fn sign(args: &SignArgs) -> Result<(), Failure> {
    if let Some(path) = &args.new_key {
        return new_key(path, args.no_password);
    }
    if args.output.is_some() && args.files.len() != 1 {
        return Err(Failure::Usage(anyhow!(
            "--output is for one library, and {} are named",
            args.files.len()
        )));
    }
    let signer = Signer::read(args.key.as_deref().expect("clap asks for it"), args.no_password)?;
    for file in &args.files {
        let signature = args.output.clone().unwrap_or_else(|| signature_of(file));
        signer.sign(file, &signature)?;
        print(&format!("{} is signed by key {}: {}", file.display(), signer.id()?, signature.display()))?;
    }
    Ok(())
}

/// Whoever signs: a secret key that is open.
pub struct Signer {
    key: SecretKey,
}

impl Signer {
    /// Reads a secret key, and asks for its password if it has one.
    pub fn read(path: &Path, no_password: bool) -> Result<Signer> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the key {} cannot be read", path.display()))?;
        let bytes = text.lines().nth(1).and_then(|line| Base64::decode_to_vec(line, None).ok());
        let bytes = bytes.filter(|bytes| bytes.len() == SECRET_BYTES);
        let bytes = bytes.with_context(|| format!("{} is no secret key of minisign", path.display()))?;
        if bytes[2..4] == [0, 0] {
            // It has no password. The tool writes no checksum into such a key, so it is not asked for.
            let key = SecretKey::from_bytes(&bytes);
            return key.map(|key| Signer { key }).with_context(|| format!("{} is damaged", path.display()));
        }
        if no_password {
            bail!("{} is protected by a password", path.display());
        }
        let password = password();
        let how = match password {
            Some(_) => "",
            None => ": its password is asked for on the terminal, or taken from RESEAT_SIGN_PASSWORD",
        };
        let key = SecretKeyBox::from(text).into_secret_key(password);
        let key = key.with_context(|| format!("{} cannot be used to sign{how}", path.display()))?;
        Ok(Signer { key })
    }

    /// Writes the signature of a library to a file, which is there when all of it is.
    pub fn sign(&self, file: &Path, signature: &Path) -> Result<()> {
        let bytes = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let comment = format!("timestamp:{}\tfile:{name}\tprehashed", super::time::now_ms() / 1000);
        // With it what was made is checked: a secret key without a password need not have a checksum.
        let public = PublicKey::from_secret_key(&self.key).context("the key is damaged")?;
        let made = minisign::sign(Some(&public), &self.key, BufReader::new(bytes), Some(&comment), None);
        let made = made.with_context(|| format!("{} cannot be signed", file.display()))?;
        let written = || format!("{} cannot be written", signature.display());
        let parent = signature.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut unfinished = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(parent.unwrap_or(Path::new(".")))
            .with_context(written)?;
        unfinished.write_all(made.into_string().as_bytes()).with_context(written)?;
        unfinished.persist(signature).with_context(written)?;
        Ok(())
    }

    /// By which its key is called.
    pub fn id(&self) -> Result<String> {
        let key = PublicKey::from_secret_key(&self.key).context("the key is damaged")?;
        Ok(key.to_base64().parse::<TrustedKey>()?.id().to_string())
    }
}

/// The password that is in the environment. `None`: it is asked for.
fn password() -> Option<String> {
    std::env::var(PASSWORD).ok()
}

fn new_key(path: &Path, no_password: bool) -> Result<(), Failure> {
    let public = PathBuf::from([path.as_os_str(), ".pub".as_ref()].join("".as_ref()));
    for there in [path, &public] {
        if there.exists() {
            return Err(anyhow!("{} is there already: it is not written over", there.display()).into());
        }
    }
    let made = match no_password {
        true => KeyPair::generate_unencrypted_keypair(),
        false => KeyPair::generate_encrypted_keypair(password()),
    };
    let how = match no_password || password().is_some() {
        true => "",
        false => {
            ": a password is asked for on the terminal, or taken from RESEAT_SIGN_PASSWORD; or say --no-password"
        }
    };
    let KeyPair { pk, sk } = made.with_context(|| format!("no key was made{how}"))?;
    let line = pk.to_base64();
    let id = line.parse::<TrustedKey>()?.id();
    write_new(path, 0o600, &sk.to_box(Some("minisign secret key, made by reseat"))?.into_string())?;
    write_new(&public, 0o644, &format!("untrusted comment: minisign public key {id}\n{line}\n"))?;
    print(&format!(
        "the secret key {id} is in {}, the public one in {}\ntrust it in reseat.toml: trusted_keys = [\"{line}\"]",
        path.display(),
        public.display()
    ))
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("{} cannot be written", path.display()))
}

/// The keys that were named, each by itself or by its file; if none was, those that the settings here name.
pub fn trusted(named: &[String]) -> Result<Vec<TrustedKey>> {
    if named.is_empty() {
        let settings = Settings::from(None).with_context(|| format!("{DEFAULT} may name trusted_keys"))?;
        return Ok(settings.trusted_keys().to_vec());
    }
    let read = |key: &String| {
        let text = match std::fs::read_to_string(key) {
            Ok(text) => text,
            Err(_) => key.clone(),
        };
        text.parse().with_context(|| format!("{key} is neither a public key nor a file with one"))
    };
    named.iter().map(read).collect()
}
