//! Joining a server with a token.
//!
//! A token carries a hash of the public key of the server's certificate authority. The authority's certificate is
//! fetched first, over a connection that proves nothing and over which nothing secret is sent; when its key has the
//! token's hash, a second connection is made that trusts this authority alone, and only there the token's secret and
//! the node's password are shown. The node's key is made here and never leaves.

mod http;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::fmt;
use warren_types::{NodeName, Secret};

use http::{Answer, Endpoint, Trust};

/// Largest answer that is read.
const ANSWER_LIMIT: usize = 256 << 10;

/// Why a token was refused. Never carries the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidToken {
    /// Nothing there.
    #[error("the join token is empty; `warren server --print-token` prints it on the server")]
    Empty,
    /// A bare secret: the server could not be told from an impostor.
    #[error(
        "the join token does not begin with K10 and the hash of the server's authority; without it an impostor could take the token. Copy all of server/agent-token from the server's data directory"
    )]
    NoHash,
    /// The hash is not 64 hexadecimal digits.
    #[error("the join token is damaged: after K10 come 64 hexadecimal digits and ::; copy it again")]
    Hash,
    /// No user or no secret.
    #[error("the join token is cut short: it ends in ::node:<secret>; copy it again")]
    Shape,
    /// Another kind of token.
    #[error("the join token is for another user than `node` or `server`; use the one in server/agent-token")]
    User,
}

/// A join token: `K10<SHA-256 of the authority's public key>::<user>:<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    key_hash: [u8; 32],
    secret: Secret,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(K10{}::...)", hex(&self.key_hash))
    }
}

impl JoinToken {
    /// Reads a token; blanks around it do not matter.
    ///
    /// # Errors
    /// [`InvalidToken`], with what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidToken::Empty);
        }
        let rest = text.strip_prefix("K10").ok_or(InvalidToken::NoHash)?;
        let (hash, credentials) = rest.split_once("::").ok_or(InvalidToken::Hash)?;
        let key_hash = unhex(hash).ok_or(InvalidToken::Hash)?;
        let (user, secret) = credentials.split_once(':').ok_or(InvalidToken::Shape)?;
        if !matches!(user, "node" | "server") {
            return Err(InvalidToken::User);
        }
        if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(InvalidToken::Shape);
        }
        Ok(Self { key_hash, secret: Secret::new(secret) })
    }
}

/// Whether `server` is an address that can be joined; the whole URL, with its port.
///
/// # Errors
/// [`JoinError::Address`], with what is wrong with it.
pub fn server_url(server: &str) -> Result<String, JoinError> {
    Ok(Endpoint::parse(server)?.url())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(s: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> =
        s.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() == 64)?;
    let bytes: Vec<u8> = digits.chunks(2).map(|d| d[0] * 16 + d[1]).collect();
    bytes.try_into().ok()
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The server's address cannot be used.
    #[error("server {server:?} is not an address such as https://192.0.2.1:6443: {reason}")]
    Address {
        /// As given.
        server: String,
        /// Why.
        reason: String,
    },
    /// The server does not answer. Try again.
    #[error("server {server} does not answer: {reason}")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        reason: String,
    },
    /// What answers has another authority than the token names. Nothing secret was sent.
    #[error(
        "{server} is not the server that the token is for: its authority's key has hash {found}, the token names {wanted}; check --server and take the token from this server. Nothing secret was sent"
    )]
    WrongAuthority {
        /// Its address.
        server: String,
        /// Hash of what it showed.
        found: String,
        /// Hash in the token.
        wanted: String,
    },
    /// The token's secret is wrong or was replaced.
    #[error("server {server} refused the join token: {message}")]
    WrongToken {
        /// Its address.
        server: String,
        /// What it said.
        message: String,
    },
    /// Another node has this name.
    #[error("server {server} refused node name {name}: {message}")]
    NameTaken {
        /// Its address.
        server: String,
        /// The name.
        name: NodeName,
        /// What it said.
        message: String,
    },
    /// The server answered with something else.
    #[error("server {server} answered {code}: {message}")]
    Refused {
        /// Its address.
        server: String,
        /// HTTP status code.
        code: u16,
        /// What it said.
        message: String,
    },
    /// What the server sent cannot be used.
    #[error("server {server} sent {what} that cannot be used: {reason}")]
    Answer {
        /// Its address.
        server: String,
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key for this node: {0}")]
    Key(String),
}

impl JoinError {
    /// Whether trying again later may help without anyone doing anything.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            _ => false,
        }
    }
}

/// What a node holds after it joined.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Certificate of the server's authority.
    pub ca_pem: String,
    /// This node's certificate.
    pub cert_pem: String,
    /// This node's key.
    pub key_pem: Secret,
    /// URL of the server.
    pub server: String,
}

impl Identity {
    /// A kubeconfig with everything embedded, as JSON (which is YAML too). It holds the key: store it with mode 0600.
    #[must_use]
    pub fn kubeconfig(&self) -> Secret {
        let encode = |s: &str| STANDARD.encode(s);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "warren", "preferences": {},
            "clusters": [{ "name": "warren", "cluster": {
                "server": self.server, "certificate-authority-data": encode(&self.ca_pem),
            } }],
            "users": [{ "name": "node", "user": {
                "client-certificate-data": encode(&self.cert_pem), "client-key-data": encode(self.key_pem.expose()),
            } }],
            "contexts": [{ "name": "warren", "context": { "cluster": "warren", "user": "node" } }],
        });
        Secret::new(format!("{config:#}\n"))
    }

    /// From what [`Identity::kubeconfig`] gave.
    #[must_use]
    pub fn from_kubeconfig(text: &str) -> Option<Self> {
        let config: Value = serde_json::from_str(text).ok()?;
        let decode =
            |pointer: &str| String::from_utf8(STANDARD.decode(config.pointer(pointer)?.as_str()?).ok()?).ok();
        Some(Self {
            ca_pem: decode("/clusters/0/cluster/certificate-authority-data")?,
            cert_pem: decode("/users/0/user/client-certificate-data")?,
            key_pem: Secret::new(decode("/users/0/user/client-key-data")?),
            server: config.pointer("/clusters/0/cluster/server")?.as_str()?.to_owned(),
        })
    }

    /// Seconds that the certificate is good for from `now` (since 1970) on; negative when it has ended.
    #[must_use]
    pub fn seconds_left(&self, now: i64) -> i64 {
        let der = CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).ok();
        let end = der.and_then(|d| {
            let (_, cert) = x509_parser::parse_x509_certificate(&d).ok()?;
            Some(cert.validity().not_after.timestamp())
        });
        end.map_or(-1, |end| end - now)
    }
}

/// Gets the next certificate, for a new key, by showing the one that there is.
///
/// # Errors
/// [`JoinError`]; see [`JoinError::is_temporary`].
pub async fn renew(identity: &Identity, node_name: &NodeName) -> Result<Identity, JoinError> {
    let endpoint = Endpoint::parse(&identity.server)?;
    let damaged =
        |e: rustls::pki_types::pem::Error| JoinError::Key(format!("the identity on disk is damaged: {e}"));
    let authority = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes()).map_err(damaged)?;
    let cert = CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).map_err(damaged)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes()).map_err(damaged)?;
    let trust = Trust::Mutual { authority: authority.clone(), cert, key };
    let (key, csr) = signing_request()?;
    let answer = endpoint.post("/v1-warren/renew", trust, None, &json!({ "csr": csr })).await?;
    accept(&endpoint, node_name, &authority, &key, &answer)
}

fn signing_request() -> Result<(KeyPair, String), JoinError> {
    let key = KeyPair::generate().map_err(|e| JoinError::Key(e.to_string()))?;
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|r| r.pem())
        .map_err(|e| JoinError::Key(e.to_string()))?;
    Ok((key, csr))
}

/// Joins `server` under `node_name`. The password keeps others from joining under this name later; the same password
/// joins again.
///
/// # Errors
/// [`JoinError`]; see [`JoinError::is_temporary`].
pub async fn join(
    server: &str,
    token: &JoinToken,
    node_name: &NodeName,
    node_password: &Secret,
) -> Result<Identity, JoinError> {
    let endpoint = Endpoint::parse(server)?;
    let ca = fetch_authority(&endpoint, token).await?;
    let (key, csr) = signing_request()?;
    let body = json!({ "nodeName": node_name, "nodePassword": node_password, "csr": csr });
    let trust = Trust::Only(ca.clone());
    let answer = endpoint.post("/v1-warren/join", trust, Some(&token.secret), &body).await?;
    accept(&endpoint, node_name, &ca, &key, &answer)
}

/// Checks a certificate that a server gave for `key`.
fn accept(
    endpoint: &Endpoint,
    node_name: &NodeName,
    authority: &CertificateDer<'static>,
    key: &KeyPair,
    answer: &Answer,
) -> Result<Identity, JoinError> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.code != 200 {
        return Err(refusal(endpoint, node_name, answer.code, &body));
    }
    let unusable = |reason: &str| JoinError::Answer {
        server: endpoint.url(),
        what: "a certificate",
        reason: reason.into(),
    };
    let cert_pem = body["certificate"].as_str().ok_or_else(|| unusable("it is missing"))?.to_owned();
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| unusable("it is not PEM"))?;
    if public_key(&cert).as_deref() != Some(&key.subject_public_key_info()) {
        return Err(unusable("it is for another key"));
    }
    Ok(Identity {
        ca_pem: pem(authority),
        cert_pem,
        key_pem: Secret::new(key.serialize_pem()),
        server: endpoint.url(),
    })
}

fn refusal(endpoint: &Endpoint, name: &NodeName, code: u16, body: &Value) -> JoinError {
    let server = endpoint.url();
    let message: String = body["message"].as_str().unwrap_or("no reason given").chars().take(500).collect();
    match code {
        401 => JoinError::WrongToken { server, message },
        403 => JoinError::NameTaken { server, name: name.clone(), message },
        _ => JoinError::Refused { server, code, message },
    }
}

/// Fetches the authority's certificate and holds it against the token.
async fn fetch_authority(
    endpoint: &Endpoint,
    token: &JoinToken,
) -> Result<CertificateDer<'static>, JoinError> {
    let answer = endpoint.get("/cacerts", Trust::Anyone).await?;
    let unusable =
        |reason: String| JoinError::Answer { server: endpoint.url(), what: "an authority", reason };
    if answer.code != 200 {
        return Err(unusable(format!("status code {}; is this a warren server?", answer.code)));
    }
    let mut found = String::new();
    for cert in CertificateDer::pem_slice_iter(&answer.body) {
        let cert = cert.map_err(|e| unusable(e.to_string()))?;
        let key = public_key(&cert).ok_or_else(|| unusable("it is not a certificate".into()))?;
        let hash = ring::digest::digest(&ring::digest::SHA256, &key);
        if hash.as_ref() == token.key_hash {
            return Ok(cert);
        }
        found = hex(hash.as_ref());
    }
    if found.is_empty() {
        return Err(unusable("there is no certificate in it".into()));
    }
    Err(JoinError::WrongAuthority { server: endpoint.url(), found, wanted: hex(&token.key_hash) })
}

/// A certificate's SubjectPublicKeyInfo.
fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(cert.public_key().raw.to_vec())
}

fn pem(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests;
