//! Join tokens (first contact of a host), API tokens (users) and the secrets of sessions and console tickets: 256 random
//! bits each, of which only a hash is ever stored.
//!
//! The hash is plain SHA-256 on purpose. Slow hashes (argon2, scrypt) make guessing a *weak*
//! secret expensive; these secrets are uniformly random with 256 bits, so no hash makes guessing
//! feasible, and a fast one doesn't turn every request into a denial of service on ourselves.
//! Hashes are compared in constant time. `Debug` never shows a secret.
//!
//! Not here: storage, expiry and single use; the controller owns those.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gantry_types::Name;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::fingerprint::{parse_hex, write_hex};
use crate::{Fingerprint, TrustError};

const SECRET_SIZE_BYTES: usize = 32;

/// What is stored of a token: SHA-256 of its secret, as 64 hex digits.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &Secret) -> Self {
        Self(Sha256::digest(secret.0).into())
    }
}

/// Whether two secrets are the same, in constant time for secrets of one length.
pub fn same_text(shown: &str, expected: &str) -> bool {
    shown.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// Constant time.
impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({self})")
    }
}

impl FromStr for SecretHash {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        parse_hex(text).map(Self).ok_or_else(|| TrustError::Invalid {
            what: "stored token hash",
            value: text.chars().take(80).collect(),
            reason: "64 hex digits are expected".into(),
        })
    }
}

impl TryFrom<String> for SecretHash {
    type Error = TrustError;

    fn try_from(text: String) -> Result<Self, TrustError> {
        text.parse()
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        hash.to_string()
    }
}

#[derive(Clone)]
struct Secret([u8; SECRET_SIZE_BYTES]);

impl Secret {
    fn random() -> Self {
        Self(rand::random())
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }

    fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

/// What a host needs to join: a secret the controller recognises, and the CA's fingerprint by
/// which the host recognises the controller. Text form `gjt1.<secret>.<fingerprint>`.
#[derive(Clone)]
pub struct JoinToken {
    secret: Secret,
    ca_fingerprint: Fingerprint,
}

impl JoinToken {
    const PREFIX: &'static str = "gjt1.";

    pub fn create(ca_fingerprint: Fingerprint) -> Self {
        Self { secret: Secret::random(), ca_fingerprint }
    }

    /// The text handed to the operator, shown once.
    pub fn to_text(&self) -> String {
        let secret = self.secret.text();
        format!("{}{secret}.{}", Self::PREFIX, self.ca_fingerprint)
    }

    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let invalid = |reason| TrustError::Token { kind: "join token", prefix: Self::PREFIX, reason };
        let rest = text.trim().strip_prefix(Self::PREFIX);
        let rest = rest.ok_or_else(|| invalid("it has another beginning"))?;
        let (secret, fingerprint) = rest.split_once('.').ok_or_else(|| invalid("its last part is missing"))?;
        Ok(Self {
            secret: Secret::parse(secret).ok_or_else(|| invalid("its secret part is damaged"))?,
            ca_fingerprint: fingerprint.parse().map_err(|_| invalid("its fingerprint part is damaged"))?,
        })
    }

    pub fn ca_fingerprint(&self) -> Fingerprint {
        self.ca_fingerprint
    }

    /// What the controller stores and looks the token up by.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// Constant time.
    pub fn matches(&self, stored: &SecretHash) -> bool {
        self.hash() == *stored
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(secret hidden, CA {})", self.ca_fingerprint)
    }
}

/// A user's token, `gat1.<id>.<secret>`: found by its id, proven by its secret.
#[derive(Clone)]
pub struct ApiToken {
    id: Name,
    secret: Secret,
}

impl ApiToken {
    const PREFIX: &'static str = "gat1.";

    /// A new secret for the token object called `id`.
    pub fn create(id: Name) -> Self {
        Self { id, secret: Secret::random() }
    }

    /// Not secret; names the token in lists and logs.
    pub fn id(&self) -> &Name {
        &self.id
    }

    /// The text handed to the user, shown once.
    pub fn to_text(&self) -> String {
        format!("{}{}.{}", Self::PREFIX, self.id, self.secret.text())
    }

    pub fn parse(text: &str) -> Result<Self, TrustError> {
        let invalid = |reason| TrustError::Token { kind: "API token", prefix: Self::PREFIX, reason };
        let rest = text.trim().strip_prefix(Self::PREFIX);
        let rest = rest.ok_or_else(|| invalid("it has another beginning"))?;
        let (id, secret) = rest.split_once('.').ok_or_else(|| invalid("its last part is missing"))?;
        Ok(Self {
            id: id.parse().map_err(|_| invalid("its id part is damaged"))?,
            secret: Secret::parse(secret).ok_or_else(|| invalid("its secret part is damaged"))?,
        })
    }

    /// What the controller stores under the token's id.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.secret)
    }

    /// Constant time.
    pub fn matches(&self, stored: &SecretHash) -> bool {
        self.hash() == *stored
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiToken({}, secret hidden)", self.id)
    }
}

/// A secret without more to it: a session's cookie, a console's ticket. 43 characters that need no escaping in a URL.
#[derive(Clone)]
pub struct RandomSecret(Secret);

impl RandomSecret {
    pub fn create() -> Self {
        Self(Secret::random())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Secret::parse(text).map(Self)
    }

    /// The text handed out, once.
    pub fn to_text(&self) -> String {
        self.0.text()
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }

    /// Another secret that only the holder of this one, or who made it, can know; this one can't be found from it.
    pub fn derived(&self, purpose: &str) -> String {
        let digest = Sha256::new().chain_update(self.0.0).chain_update(purpose);
        URL_SAFE_NO_PAD.encode(digest.finalize())
    }
}

impl fmt::Debug for RandomSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RandomSecret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other_character(character: u8) -> char {
        if character == b'A' { 'B' } else { 'A' }
    }

    #[test]
    fn tokens_survive_their_text_form() {
        let join = JoinToken::create(Fingerprint::of_der(b"ca"));
        let parsed = JoinToken::parse(&format!(" {}\n", join.to_text())).unwrap();
        assert!(parsed.matches(&join.hash()));
        assert_eq!(parsed.ca_fingerprint(), Fingerprint::of_der(b"ca"));
        let api = ApiToken::create("admin".parse().unwrap());
        let parsed = ApiToken::parse(&api.to_text()).unwrap();
        assert!(parsed.matches(&api.hash()));
        assert_eq!(parsed.id(), api.id());
        assert!(!ApiToken::create("admin".parse().unwrap()).matches(&api.hash()));
    }

    #[test]
    fn any_changed_character_of_a_secret_is_noticed() {
        let token = ApiToken::create("admin".parse().unwrap());
        let text = token.to_text();
        let secret_start = text.rfind('.').unwrap() + 1;
        for position in secret_start..text.len() {
            let mut tampered = text.clone();
            let replacement = other_character(text.as_bytes()[position]);
            tampered.replace_range(position..=position, &replacement.to_string());
            let accepted = ApiToken::parse(&tampered).is_ok_and(|it| it.matches(&token.hash()));
            assert!(!accepted, "position {position}");
        }
    }

    #[test]
    fn cut_and_foreign_tokens_are_refused_without_repeating_them() {
        let text = JoinToken::create(Fingerprint::of_der(b"ca")).to_text();
        for length in 0..text.len() {
            let error = JoinToken::parse(&text[..length]).unwrap_err().to_string();
            assert!(length < 12 || !error.contains(&text[5..length]), "{error}");
        }
        assert!(JoinToken::parse(&ApiToken::create("admin".parse().unwrap()).to_text()).is_err());
        assert!(ApiToken::parse(&text).is_err());
    }

    #[test]
    fn debug_hides_secrets_and_hashes_are_stored_as_text() {
        let token = ApiToken::create("admin".parse().unwrap());
        let secret = token.to_text().rsplit('.').next().unwrap().to_owned();
        assert!(!format!("{token:?}").contains(&secret));
        let json = serde_json::to_string(&token.hash()).unwrap();
        let stored: SecretHash = serde_json::from_str(&json).unwrap();
        assert!(token.matches(&stored));
    }
}
