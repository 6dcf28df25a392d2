//! Keys and secrets that cannot be printed by accident.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroize;

/// Why a key was refused. Never carries the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is 32 bytes in base64, 44 characters")]
pub struct InvalidKey;

fn decode(s: &str) -> Result<[u8; 32], InvalidKey> {
    let mut out = [0u8; 32];
    match STANDARD.decode_slice(s, &mut out) {
        Ok(32) => Ok(out),
        _ => Err(InvalidKey),
    }
}

/// A WireGuard public key (Curve25519).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Reads the base64 form that `wg` prints.
    ///
    /// # Errors
    /// [`InvalidKey`] when it is not 32 bytes of base64.
    pub fn parse(s: &str) -> Result<Self, InvalidKey> {
        decode(s).map(Self)
    }
}
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for PublicKey {
    type Error = InvalidKey;
    fn try_from(s: String) -> Result<Self, InvalidKey> {
        Self::parse(&s)
    }
}
impl From<PublicKey> for String {
    fn from(k: PublicKey) -> String {
        k.to_string()
    }
}

/// A WireGuard private key. Wiped on drop; prints as `(secret)`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// Takes the bytes of a private key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The bytes, for the one call that hands them to the kernel or a cipher.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
impl TryFrom<String> for SecretKey {
    type Error = InvalidKey;
    fn try_from(mut s: String) -> Result<Self, InvalidKey> {
        let key = decode(&s).map(Self);
        s.zeroize();
        key
    }
}
impl From<SecretKey> for String {
    fn from(k: SecretKey) -> String {
        STANDARD.encode(k.0)
    }
}

/// A secret text: a token, a password, a PEM private key. Wiped on drop; prints as `(secret)`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(s: impl Into<String>) -> Self {
        Self(s.into())
    }
    /// The text, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Secret bytes: a key file, a list of passwords. Wiped on drop; prints as `(secret)`; stored as base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretBytes(Vec<u8>);

/// Why secret bytes were refused. Never carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64 as RFC 4648 has it")]
pub struct InvalidSecretBytes;

impl SecretBytes {
    /// Wraps secret bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
    /// Reads base64, as the API writes `data` of Secrets.
    ///
    /// # Errors
    /// [`InvalidSecretBytes`] when it is none.
    pub fn from_base64(text: &str) -> Result<Self, InvalidSecretBytes> {
        STANDARD.decode(text).map(Self).map_err(|_| InvalidSecretBytes)
    }
    /// The bytes, for the one call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
impl TryFrom<String> for SecretBytes {
    type Error = InvalidSecretBytes;
    fn try_from(mut s: String) -> Result<Self, InvalidSecretBytes> {
        let bytes = Self::from_base64(&s);
        s.zeroize();
        bytes
    }
}
impl From<SecretBytes> for String {
    fn from(secret: SecretBytes) -> String {
        STANDARD.encode(&secret.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_round_trip_as_base64() {
        let k = PublicKey([7; 32]);
        assert_eq!(PublicKey::parse(&k.to_string()), Ok(k));
        for bad in
            ["", "AAAA", &"A".repeat(43), &"A".repeat(48), "not base64 at all, but 44 characters long..."]
        {
            assert_eq!(PublicKey::parse(bad), Err(InvalidKey), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_key_that_prints_as_it_was_or_is_refused(
            noise in "\\PC{0,60}", bytes: [u8; 32], at in 0usize..44, other in "[ -~]", cut in 0usize..=44,
        ) {
            let good = PublicKey(bytes).to_string();
            let mut mutated = good.clone();
            mutated.replace_range(at..=at, &other);
            for text in [noise.as_str(), &mutated, &good[..cut], &format!("{good}{noise}")] {
                if let Ok(key) = PublicKey::parse(text) {
                    proptest::prop_assert_eq!(key.to_string(), text);
                }
                let secret = SecretKey::try_from(text.to_owned());
                proptest::prop_assert_eq!(secret.is_ok(), PublicKey::parse(text).is_ok());
            }
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", SecretKey::from_bytes([1; 32])), "(secret)");
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "(secret)");
        assert_eq!(format!("{:?}", SecretBytes::new(b"hunter2".to_vec())), "(secret)");
    }

    #[test]
    fn secret_bytes_are_stored_as_base64_and_refused_without_being_shown() {
        let secret = SecretBytes::new(vec![0, 255, 10]);
        let stored = serde_json::to_string(&secret).unwrap();
        assert_eq!(stored, "\"AP8K\"");
        assert_eq!(serde_json::from_str::<SecretBytes>(&stored).unwrap(), secret);
        let error = serde_json::from_str::<SecretBytes>("\"hunter2!\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
