//! Passwords of users: hashed with Argon2id (RFC 9106), made up where nobody chose one.
//!
//! Hashing costs about 19 MiB and tens of milliseconds on purpose. Whoever calls it keeps it off the async runtime and
//! bounds how many run at once. Not here: who may log in how often; the controller owns that.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash as Phc};

use crate::TrustError;

/// Shortest and longest password, in bytes.
pub const PASSWORD_LENGTH: std::ops::RangeInclusive<usize> = 10..=256;

/// Without characters that are mistaken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 20 characters of 5 bits.
const GENERATED_CHARACTERS: usize = 20;

/// A PHC string (`$argon2id$v=19$…`).
#[derive(Clone)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// With a fresh salt, and the parameters that OWASP recommends (19 MiB, 2 passes).
    pub fn of(password: &str) -> Result<Self, TrustError> {
        let hash = Argon2::default().hash_password(password.as_bytes()).map_err(|error| TrustError::Invalid {
            what: "password",
            value: "(hidden)".into(),
            reason: error.to_string(),
        })?;
        Ok(Self(hash.to_string()))
    }

    /// What was stored.
    pub fn stored(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Constant time in the password. A damaged hash fits no password.
    pub fn fits(&self, password: &str) -> bool {
        Phc::new(&self.0).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
    }
}

/// A password of 100 random bits, in groups that can be read aloud.
pub fn generate_password() -> String {
    let bytes: [u8; GENERATED_CHARACTERS] = rand::random();
    let mut password = String::with_capacity(GENERATED_CHARACTERS + 3);
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 && index % 5 == 0 {
            password.push('-');
        }
        password.push(char::from(ALPHABET[usize::from(byte % 32)]));
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_fits_and_each_hash_has_its_own_salt() {
        let (one, other) = (PasswordHash::of("correct horse").unwrap(), PasswordHash::of("correct horse").unwrap());
        assert!(one.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.as_str());
        assert_ne!(one.as_str(), other.as_str());
        assert!(one.fits("correct horse") && PasswordHash::stored(other.as_str()).fits("correct horse"));
        for wrong in ["", "correct hors", "correct horse ", "Correct horse"] {
            assert!(!one.fits(wrong), "{wrong}");
        }
        assert!(!PasswordHash::stored("").fits("") && !PasswordHash::stored("$argon2id$damaged").fits("damaged"));
    }

    #[test]
    fn generated_passwords_are_long_enough_and_differ() {
        let (one, other) = (generate_password(), generate_password());
        assert!(PASSWORD_LENGTH.contains(&one.len()), "{one}");
        assert_ne!(one, other);
        assert!(one.split('-').all(|group| group.len() == 5), "{one}");
    }
}
