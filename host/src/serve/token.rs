//! The secret that HTTP clients show, and the file in which it is found.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

/// Where the token is, within the state directory.
pub const TOKEN: &str = "http.token";

/// 256 bits of the system's randomness, as 64 hexadecimal digits. Each host has its own.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// # Errors
    /// The system has no randomness.
    pub fn random() -> Result<Token> {
        let mut bytes = [0u8; 32];
        let filled =
            getrandom(&mut bytes, GetRandomFlags::empty()).context("the system has no randomness")?;
        ensure!(filled == bytes.len(), "the system has no randomness");
        Ok(Token(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is it. The time that it takes says nothing of where the two differ, nor of the token's length.
    pub fn is(&self, shown: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(&self.0), Sha256::digest(shown));
        let differing = ours.iter().zip(theirs.iter()).fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
        differing == 0
    }
}

/// A token on disk, for nobody but the host's own user. It is removed with the value, which has to be gone before the
/// directory's claim is.
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// Writes a token into a claimed state directory.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn write(state_dir: &Path, token: &Token) -> Result<TokenFile> {
        TokenFile::clear(state_dir)?;
        let path = std::path::absolute(state_dir)?.join(TOKEN);
        let written = || -> io::Result<()> {
            // Made by this call or not at all, so that nobody else's file or link is written to.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            writeln!(file, "{}", token.as_str())
        };
        written().with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(TokenFile(path))
    }

    /// Removes what a host has left behind that was killed.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(state_dir: &Path) -> Result<()> {
        let path = state_dir.join(TOKEN);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", path.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_and_nothing_else() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        assert_eq!(one.as_str().len(), 64);
        assert!(one.is(one.as_str()));
        for wrong in ["", &one.as_str()[..63], &format!("{}0", one.as_str()), other.as_str()] {
            assert!(!one.is(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_was_left_behind_is_replaced_and_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(TOKEN)).unwrap();
        let token = Token::random().unwrap();
        let file = TokenFile::write(dir.path(), &token).unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap().trim(), token.as_str());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "mine");
        drop(file);
        assert!(!dir.path().join(TOKEN).exists());
    }
}
