//! Join tokens: `K10<SHA-256 of the CA's public key>::<user>:<secret>`.

use std::path::Path;
use warren_types::Secret;

use crate::ServerError;
use crate::authority::{Authority, hex, read_optional, write_private};

/// The tokens of a server.
#[derive(Clone)]
pub(crate) struct Tokens {
    key_hash: String,
    server: Secret,
    node: Secret,
}

impl Tokens {
    /// Reads the tokens in `directory`, or makes them; `given` is a file whose secret is to be the node token.
    pub(crate) fn open(
        directory: &Path,
        authority: &Authority,
        given: Option<&Path>,
    ) -> Result<Self, ServerError> {
        let key_hash = authority.key_hash.clone();
        let given = given.map(|path| read_secret(path, &key_hash)).transpose()?.flatten();
        let server = keep(&directory.join("token"), "server", &key_hash, None)?;
        let node = keep(&directory.join("agent-token"), "node", &key_hash, given)?;
        Ok(Self { key_hash, server, node })
    }
    /// The whole token that nodes join with.
    pub(crate) fn node_token(&self) -> Secret {
        Secret::new(full(&self.key_hash, "node", &self.node))
    }
    /// A join token with another secret.
    pub(crate) fn full_node_token(&self, secret: &Secret) -> Secret {
        Secret::new(full(&self.key_hash, "node", secret))
    }
    /// Whether `secret` is that of a token file. Takes the same time whatever is wrong with it.
    pub(crate) fn may_join(&self, secret: &str) -> bool {
        let node = equal(secret, self.node.expose());
        let server = equal(secret, self.server.expose());
        node | server
    }
}

fn full(key_hash: &str, user: &str, secret: &Secret) -> String {
    format!("K10{key_hash}::{user}:{}", secret.expose())
}

/// Compares without telling by time where the difference is.
pub(crate) fn equal(a: &str, b: &str) -> bool {
    let hash = |s: &str| ring::digest::digest(&ring::digest::SHA256, s.as_bytes());
    let (a, b) = (hash(a), hash(b));
    a.as_ref().iter().zip(b.as_ref()).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// The secret in a token file: a full token for this authority, or the secret alone.
fn read_secret(path: &Path, key_hash: &str) -> Result<Option<Secret>, ServerError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    let refuse = |why: &str| Err(ServerError::Token { path: path.to_owned(), reason: why.into() });
    let text = Secret::new(text.trim());
    let secret = match text.expose().strip_prefix("K10") {
        Some(rest) => match rest.split_once("::") {
            Some((hash, _)) if hash != key_hash => {
                return refuse(
                    "it belongs to another certificate authority; remove the file, or restore server/tls",
                );
            }
            Some((_, credentials)) => credentials.split_once(':').map_or(credentials, |(_, secret)| secret),
            None => return refuse("it is cut short; a token reads K10<hash>::<user>:<secret>"),
        },
        None => text.expose(),
    };
    if secret.len() < 16 || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("the secret must have at least 16 printable characters and no blanks");
    }
    Ok(Some(Secret::new(secret)))
}

fn keep(path: &Path, user: &str, key_hash: &str, given: Option<Secret>) -> Result<Secret, ServerError> {
    let stored = read_secret(path, key_hash)?;
    let secret = match given.or_else(|| stored.clone()) {
        Some(secret) => secret,
        None => {
            let bytes: [u8; 32] = crate::meta::random()
                .map_err(|e| ServerError::Token { path: path.to_owned(), reason: e.message })?;
            Secret::new(hex(&bytes))
        }
    };
    if stored.as_ref() != Some(&secret) {
        write_private(path, format!("{}\n", full(key_hash, user, &secret)).as_bytes())?;
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_and_name_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::open(dir.path(), jiff::Timestamp::now(), crate::authority::LIFE).unwrap();
        let first = Tokens::open(dir.path(), &ca, None).unwrap();
        let again = Tokens::open(dir.path(), &ca, None).unwrap();
        assert_eq!(first.node_token(), again.node_token());
        let secret = first.node.expose();
        assert!(first.node_token().expose() == format!("K10{}::node:{secret}", ca.key_hash));
        assert!(first.may_join(secret) && first.may_join(first.server.expose()));
        assert!(!first.may_join("") && !first.may_join(&secret[1..]));
        let given = dir.path().join("given");
        std::fs::write(&given, "a-secret-of-my-own\n").unwrap();
        assert!(Tokens::open(dir.path(), &ca, Some(&given)).unwrap().may_join("a-secret-of-my-own"));
        for bad in ["short", "K10abc", &format!("K10{}::node:{}", "0".repeat(64), secret)] {
            std::fs::write(&given, bad).unwrap();
            assert!(Tokens::open(dir.path(), &ca, Some(&given)).is_err(), "{bad}");
        }
    }
}
