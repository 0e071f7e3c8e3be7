//! Encryption of a repository: of everything in it but its mark.
//!
//! ```text
//!  passphrase ─ Argon2id, salt ─▶ wrapping key ─▶ opens the repository's key, which the mark keeps wrapped
//!  repository's key ─ BLAKE3 derive_key ─▶ key of contents (AES-256-GCM), key of names (keyed BLAKE3)
//! ```
//! An object is sealed with its path, so that none can be put in another's place. The name of a chunk is made with a key, so
//! that who reads the repository can't look whether it has a content that he knows. What stays visible: how many objects
//! there are, how large they are, and when they were written.
//!
//! Nonces are random: a key seals far fewer than the 2^32 objects of NIST SP 800-38D, because a chunk is sealed once.

use std::fmt;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::chunk::ChunkId;

const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// What an object takes more than its content.
pub(crate) const OVERHEAD_BYTES: u64 = NONCE_LEN as u64 + 16;
/// The second recommended choice of RFC 9106, for machines that do more than this.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// A mark is hostile input: nobody is made to compute for ever.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
const WRAPPING: &[u8] = b"gantry backup repository key";

/// What the mark of an encrypted repository says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wrapped {
    /// Argon2id (RFC 9106).
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// In hex.
    salt: String,
    /// The repository's key, sealed; in hex.
    key: String,
}

/// What a content is called.
#[derive(Clone, Copy, Default)]
pub(crate) struct Names(Option<[u8; KEY_BYTES]>);

impl Names {
    pub fn of(self, content: &[u8]) -> ChunkId {
        match self.0 {
            Some(key) if content.iter().any(|byte| *byte != 0) => {
                ChunkId(*blake3::keyed_hash(&key, content).as_bytes())
            }
            _ => ChunkId::of(content),
        }
    }
}

/// The repository's key, in use.
#[derive(Clone)]
pub(crate) struct Seal {
    contents: Arc<LessSafeKey>,
    pub names: Names,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

/// What was sealed otherwise, or is another object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

impl Seal {
    /// A new repository's, with what its mark has to say for whoever has the passphrase.
    pub fn make(passphrase: &str) -> Result<(Self, Wrapped), Forged> {
        let random = SystemRandom::new();
        let (mut key, mut salt) = ([0; KEY_BYTES], [0; SALT_BYTES]);
        random.fill(&mut key).map_err(|_| Forged)?;
        random.fill(&mut salt).map_err(|_| Forged)?;
        let mut wrapped =
            Wrapped { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt: to_hex(&salt), key: String::new() };
        wrapped.key = to_hex(&seal(&wrapped.wrapping_key(passphrase)?, WRAPPING, key.to_vec())?);
        Ok((Self::of(&key)?, wrapped))
    }

    /// `Err` for another passphrase than the one that it was made with, or a mark that was changed.
    pub fn unwrap(wrapped: &Wrapped, passphrase: &str) -> Result<Self, Forged> {
        let sealed = from_hex(&wrapped.key).ok_or(Forged)?;
        Self::of(&open(&wrapped.wrapping_key(passphrase)?, WRAPPING, sealed)?)
    }

    fn of(key: &[u8]) -> Result<Self, Forged> {
        let contents = aead_key(&blake3::derive_key("gantry backup repository: contents of objects", key))?;
        let names = Names(Some(blake3::derive_key("gantry backup repository: names of chunks", key)));
        Ok(Self { contents: Arc::new(contents), names })
    }

    pub fn seal(&self, path: &str, content: Vec<u8>) -> Result<Vec<u8>, Forged> {
        seal(&self.contents, path.as_bytes(), content)
    }

    pub fn open(&self, path: &str, sealed: Vec<u8>) -> Result<Vec<u8>, Forged> {
        open(&self.contents, path.as_bytes(), sealed)
    }
}

impl Wrapped {
    fn wrapping_key(&self, passphrase: &str) -> Result<LessSafeKey, Forged> {
        let fits = self.memory_kib <= MEMORY_KIB_MAX && self.passes <= PASSES_MAX && self.lanes <= LANES_MAX;
        let salt = from_hex(&self.salt).filter(|_| fits).ok_or(Forged)?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES)).map_err(|_| Forged)?;
        let mut key = [0; KEY_BYTES];
        let derived = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
            passphrase.as_bytes(),
            &salt,
            &mut key,
        );
        derived.map_err(|_| Forged)?;
        aead_key(&key)
    }
}

fn aead_key(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, Forged> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| Forged)
}

fn seal(key: &LessSafeKey, bound_to: &[u8], mut content: Vec<u8>) -> Result<Vec<u8>, Forged> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| Forged)?;
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to), &mut content)
        .map_err(|_| Forged)?;
    let mut sealed = nonce.to_vec();
    sealed.append(&mut content);
    Ok(sealed)
}

fn open(key: &LessSafeKey, bound_to: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>, Forged> {
    let (nonce, content) = sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or(Forged)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = key.open_in_place(nonce, Aad::from(bound_to), content).map_err(|_| Forged)?;
    Ok(opened.to_vec())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_opens_and_only_at_its_own_place() {
        let (made, mut wrapped) = Seal::make("correct horse").unwrap();
        let sealed = made.seal("chunks/ab/abcd", b"content".to_vec()).unwrap();
        assert_eq!(sealed.len() as u64, 7 + OVERHEAD_BYTES);
        let again = Seal::unwrap(&wrapped, "correct horse").unwrap();
        assert_eq!(again.open("chunks/ab/abcd", sealed.clone()).unwrap(), b"content");
        assert_eq!(again.names.of(b"x"), made.names.of(b"x"));
        assert_ne!(again.names.of(b"x"), ChunkId::of(b"x"));
        assert_eq!(again.names.of(&[0; 8]), ChunkId::ZEROS);
        assert_eq!(again.open("chunks/ab/abce", sealed.clone()), Err(Forged));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(again.open("chunks/ab/abcd", changed), Err(Forged));
        }
        assert_eq!(again.open("chunks/ab/abcd", sealed[..20].to_vec()), Err(Forged));
        assert!(Seal::unwrap(&wrapped, "correct horsf").is_err());
        // No mark makes its reader compute for ever.
        wrapped.passes = u32::MAX;
        assert!(Seal::unwrap(&wrapped, "correct horse").is_err());
    }
}
