//! Users and passwords of basic authentication.

use crate::state::lock;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// How many passwords are remembered as right, so that their hash is not computed for each request.
const REMEMBERED: usize = 1024;
/// The longest value of `Authorization` that is looked at.
const LONGEST: usize = 1024;

/// Users, and the hashes of their passwords as `htpasswd` writes them.
#[derive(Default)]
pub struct Users {
    hashes: Arc<HashMap<Vec<u8>, Hash>>,
    /// Digests of what was found right.
    right: Mutex<HashSet<[u8; 32]>>,
}

impl std::fmt::Debug for Users {
    /// How many, never who.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} users", self.hashes.len())
    }
}

/// The hash of a password.
enum Hash {
    Bcrypt(String),
    /// `$apr1$` and `$1$`: the magic, the salt, and what comes of it.
    Md5 {
        magic: &'static str,
        salt: String,
        hash: String,
    },
    /// `{SHA}` and `{SSHA}`: the digest, and the salt.
    Sha1 {
        digest: [u8; 20],
        salt: Vec<u8>,
    },
}

/// Why users cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// A line is not `user:hash`.
    #[error("line {0} of the users is not `user:hash`; write it with htpasswd")]
    Line(usize),
    /// A hash is of a kind that is not understood.
    #[error("the hash in line {0} of the users is not understood; use bcrypt (htpasswd -B), apr1 or SHA")]
    Hash(usize),
}

/// Whether a request is a user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Known,
    Unknown,
}

impl Users {
    /// Reads lines as `htpasswd` writes them.
    pub fn from_htpasswd(text: &[u8]) -> Result<Self, UsersError> {
        let mut hashes = HashMap::new();
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':').ok_or(UsersError::Line(at + 1))?;
            let hash = std::str::from_utf8(&line[colon + 1..]).ok().and_then(Hash::parse);
            let hash = hash.ok_or(UsersError::Hash(at + 1))?;
            hashes.insert(line[..colon].to_vec(), hash);
        }
        Ok(Self { hashes: Arc::new(hashes), right: Mutex::default() })
    }

    /// Checks the value of `Authorization`. The work is done on another thread, since a good hash takes its time.
    pub(crate) async fn verify(&self, shown: Option<&[u8]>) -> Verdict {
        let Some((user, password)) = shown.and_then(credentials) else { return Verdict::Unknown };
        if !self.hashes.contains_key(&user) {
            return Verdict::Unknown;
        }
        let remembered: [u8; 32] = {
            let both = [&user[..], b":", &password[..]].concat();
            let mut bytes = [0; 32];
            bytes.copy_from_slice(digest(&SHA256, &both).as_ref());
            bytes
        };
        if lock(&self.right).contains(&remembered) {
            return Verdict::Known;
        }
        let hashes = self.hashes.clone();
        let check = move || hashes.get(&user).is_some_and(|hash| hash.is_of(&password));
        if !matches!(tokio::task::spawn_blocking(check).await, Ok(true)) {
            return Verdict::Unknown;
        }
        let mut right = lock(&self.right);
        if right.len() >= REMEMBERED {
            right.clear();
        }
        right.insert(remembered);
        Verdict::Known
    }
}

/// User and password.
fn credentials(shown: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, value) = shown.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") || value.len() > LONGEST {
        return None;
    }
    let mut user = STANDARD.decode(value.trim_ascii()).ok()?;
    let colon = user.iter().position(|byte| *byte == b':')?;
    let password = user.split_off(colon + 1);
    user.pop();
    Some((user, password))
}

impl Hash {
    fn parse(text: &str) -> Option<Self> {
        if ["$2a$", "$2b$", "$2y$"].iter().any(|magic| text.starts_with(magic)) {
            return Some(Self::Bcrypt(text.to_owned()));
        }
        for magic in ["$apr1$", "$1$"] {
            if let Some(rest) = text.strip_prefix(magic) {
                let (salt, hash) = rest.split_once('$')?;
                return Some(Self::Md5 {
                    magic,
                    salt: salt.chars().take(8).collect(),
                    hash: hash.to_owned(),
                });
            }
        }
        let encoded = text.strip_prefix("{SHA}").or_else(|| text.strip_prefix("{SSHA}"))?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (digest, salt) = decoded.split_first_chunk::<20>()?;
        Some(Self::Sha1 { digest: *digest, salt: salt.to_vec() })
    }

    fn is_of(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Md5 { magic, salt, hash } => {
                same(md5_crypt(password, magic, salt).as_bytes(), hash.as_bytes())
            }
            Self::Sha1 { digest: wanted, salt } => {
                same(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[password, salt].concat()).as_ref(), wanted)
            }
        }
    }
}

/// Whether bytes are the same, in a time that does not say where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// The hash of `htpasswd -m` and of old password files: a thousand rounds of MD5.
fn md5_crypt(password: &[u8], magic: &str, salt: &str) -> String {
    let salt = salt.as_bytes();
    let inner: [u8; 16] =
        Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize().into();
    let mut context = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    for piece in password.chunks(16) {
        context.update(&inner[..piece.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        context.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut sum: [u8; 16] = context.finalize().into();
    for round in 0..1000 {
        let mut context = Md5::new();
        context.update(if round % 2 == 1 { password } else { &sum[..] });
        if round % 3 != 0 {
            context.update(salt);
        }
        if round % 7 != 0 {
            context.update(password);
        }
        context.update(if round % 2 == 1 { &sum[..] } else { password });
        sum = context.finalize().into();
    }
    const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hash = String::with_capacity(22);
    let mut put = |bytes: [u8; 3], letters: usize| {
        let mut number = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for _ in 0..letters {
            hash.push(char::from(LETTERS[(number & 63) as usize]));
            number >>= 6;
        }
    };
    for at in 0..5 {
        put([sum[at], sum[at + 6], sum[if at == 4 { 5 } else { at + 12 }]], 4);
    }
    put([0, 0, sum[11]], 2);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of `secret` by openssl and by the C library.
    const FILE: &[u8] = b"# users\n\
        apr1:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\r\n\
        md5:$1$saltsalt$9xy1btjgzLYfb7hivXtC//\n\
        bcrypt:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n\n\
        sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n\
        salted:{SSHA}fotSaRj7zSwEkhQKpykkLkWmLWBzYWx0\n";

    fn verify(users: &Users, shown: &str) -> Verdict {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(users.verify(Some(shown.as_bytes())))
    }

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    #[test]
    fn passwords_are_checked_by_each_kind_of_hash() {
        let salted =
            STANDARD.encode([digest(&SHA1_FOR_LEGACY_USE_ONLY, b"secretsalt").as_ref(), b"salt"].concat());
        let file = String::from_utf8_lossy(FILE).replace("fotSaRj7zSwEkhQKpykkLkWmLWBzYWx0", &salted);
        let users = Users::from_htpasswd(file.as_bytes()).unwrap();
        for user in ["apr1", "md5", "bcrypt", "sha", "salted"] {
            for _ in 0..2 {
                assert_eq!(verify(&users, &basic(user, "secret")), Verdict::Known, "{user}");
                assert_eq!(verify(&users, &basic(user, "secret ")), Verdict::Unknown, "{user}");
                assert_eq!(verify(&users, &basic(user, "")), Verdict::Unknown, "{user}");
            }
        }
        for shown in ["", "Basic", "Basic !", "Bearer c2hhOnNlY3JldA==", &basic("nobody", "secret")] {
            assert_eq!(verify(&users, shown), Verdict::Unknown, "{shown}");
        }
        assert_eq!(format!("{users:?}"), "5 users");
    }

    #[test]
    fn long_passwords_are_hashed_as_others_do() {
        let hash = md5_crypt(b"averyveryverylongpasswordindeed", "$apr1$", "xy");
        assert_eq!(hash, "XRz/c345EmOZzShSRUiTL1");
    }

    #[test]
    fn what_is_not_understood_is_named_by_its_line() {
        assert_eq!(
            Users::from_htpasswd(b"a:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nb").unwrap_err(),
            UsersError::Line(2)
        );
        assert_eq!(Users::from_htpasswd(b"a:plain").unwrap_err(), UsersError::Hash(1));
        assert_eq!(Users::from_htpasswd(b"a:{SHA}x").unwrap_err(), UsersError::Hash(1));
    }
}
