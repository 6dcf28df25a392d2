//! How a node joins: it shows a token, binds its name to a password of its own, and gets a certificate.

use axum::body::Body;
use http::{HeaderMap, Response, StatusCode, header};
use jiff::Timestamp;
use ring::pbkdf2;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use warren_store::{Durability, Record, Store, Table};
use warren_types::{NodeName, Secret};

use crate::auth::{NODE_PREFIX, NODES, Peer, User};
use crate::authority::{Authority, hex};
use crate::bearer::Bearers;
use crate::error::{ApiError, ApiResult};

/// Failures that one address may have in [`WINDOW`].
const FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered.
const REMEMBERED: usize = 4096;
/// Rounds of PBKDF2; node passwords are random and long, so this guards against a weak generator, not a weak word.
const ROUNDS: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// What holds a node's name: the hash of the password it first came with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodePassword {
    name: String,
    salt: String,
    hash: String,
}

impl Record for NodePassword {
    const TABLE: &'static str = "node_passwords";
    fn key(&self) -> String {
        self.name.clone()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinRequest {
    node_name: String,
    node_password: Secret,
    csr: String,
}

#[derive(Deserialize)]
struct RenewRequest {
    csr: String,
}

/// The join endpoint.
pub(crate) struct Joining {
    authority: Arc<Authority>,
    bearers: Bearers,
    passwords: Table<NodePassword>,
    /// One join at a time looks at a name and takes it.
    taking: tokio::sync::Mutex<()>,
    failures: Mutex<Failures>,
}

impl Joining {
    pub(crate) fn new(authority: Arc<Authority>, bearers: Bearers, store: &Store) -> Self {
        Self {
            authority,
            bearers,
            passwords: store.table(),
            taking: tokio::sync::Mutex::new(()),
            failures: Mutex::new(Failures::default()),
        }
    }

    fn failures<R>(&self, f: impl FnOnce(&mut Failures) -> R) -> R {
        f(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers `POST /v1-warren/join`.
    pub(crate) async fn answer(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        body: &[u8],
    ) -> ApiResult<Response<Body>> {
        if self.failures(|f| f.blocked(peer.address, Instant::now())) {
            let message = "too many failed joins from this address; wait a minute";
            return Err(ApiError::too_many_requests(message, u32::try_from(WINDOW.as_secs()).unwrap_or(60)));
        }
        let result = self.join(headers, body).await;
        match &result {
            Err(e) if matches!(e.code, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                self.failures(|f| f.failed(peer.address, Instant::now()));
                tracing::warn!(from = %peer.address, error = %e.message, "join refused");
            }
            _ => {}
        }
        result
    }

    async fn join(&self, headers: &HeaderMap, body: &[u8]) -> ApiResult<Response<Body>> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let secret = Secret::new(bearer.and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default().trim());
        self.bearers.may_join(secret.expose(), Timestamp::now())?;
        let request: JoinRequest = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the body is not a join request: {e}")))?;
        let name = NodeName::new(request.node_name).map_err(|e| ApiError::bad_request(e.to_string()))?;
        if !(16..=1024).contains(&request.node_password.expose().len()) {
            return Err(ApiError::bad_request("nodePassword must have 16 to 1024 characters"));
        }
        let certificate = self
            .authority
            .sign_request(&request.csr, &format!("{NODE_PREFIX}{name}"), NODES)
            .map_err(|e| ApiError::bad_request(format!("csr: {e}")))?;
        self.take_name(&name, request.node_password).await?;
        tracing::info!(node = %name, "node joined");
        Ok(crate::reply::json(
            StatusCode::OK,
            &json!({ "certificate": certificate, "ca": self.authority.ca_pem }),
        ))
    }

    /// Answers `POST /v1-warren/renew`: a node that shows its certificate gets the next one for the same name.
    pub(crate) fn renew(&self, user: &User, body: &[u8]) -> ApiResult<Response<Body>> {
        let User::Node(name) = user else {
            return Err(ApiError::forbidden("only nodes renew their certificates here, each its own"));
        };
        // With its Node object a node loses its name; its certificate is not to outlive that for ever.
        if self.passwords.get(name).is_none() {
            return Err(ApiError::forbidden(format!(
                "node {name:?} was deleted; it must join again with a token"
            )));
        }
        let request: RenewRequest = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the body is not a renewal: {e}")))?;
        let certificate = self
            .authority
            .sign_request(&request.csr, &format!("{NODE_PREFIX}{name}"), NODES)
            .map_err(|e| ApiError::bad_request(format!("csr: {e}")))?;
        tracing::info!(node = name, "certificate renewed");
        Ok(crate::reply::json(
            StatusCode::OK,
            &json!({ "certificate": certificate, "ca": self.authority.ca_pem }),
        ))
    }

    /// Binds the name to the password, or checks that it is bound to this one.
    async fn take_name(&self, name: &NodeName, password: Secret) -> ApiResult<()> {
        let _one_at_a_time = self.taking.lock().await;
        let known = self.passwords.get(name.as_str());
        let salt: [u8; 16] = match &known {
            Some(row) => unhex(&row.salt)
                .and_then(|s| s.try_into().ok())
                .ok_or_else(|| ApiError::internal("a stored salt is damaged"))?,
            None => crate::meta::random()?,
        };
        let hash = tokio::task::spawn_blocking(move || derive(&salt, password.expose()))
            .await
            .map_err(ApiError::internal)?;
        match known {
            Some(row) if crate::tokens::equal(&row.hash, &hex(&hash)) => Ok(()),
            Some(_) => Err(ApiError::forbidden(format!(
                "node name {name:?} is held by another node; choose another --node-name, or run `kubectl delete node {name}` when that node is gone",
                name = name.as_str()
            ))),
            None => {
                let row = NodePassword { name: name.to_string(), salt: hex(&salt), hash: hex(&hash) };
                self.passwords
                    .put(row, Durability::Flushed)
                    .await
                    .map(drop)
                    .map_err(|e| ApiError::unavailable(format!("the node could not be recorded: {e}")))
            }
        }
    }

    /// Frees the name of a deleted node.
    pub(crate) async fn forget(&self, name: &str) {
        if let Err(error) = self.passwords.delete(name, Durability::Flushed).await {
            tracing::warn!(node = name, %error, "the name of a deleted node could not be freed");
        }
    }
}

fn derive(salt: &[u8], password: &str) -> [u8; 32] {
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, password.as_bytes(), &mut out);
    out
}

fn unhex(s: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        s.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    Some(digits?.chunks(2).map(|d| d.iter().fold(0, |n, d| n * 16 + d)).collect())
}

/// Failed joins by address; IPv6 by /64, of which one host has all.
#[derive(Default)]
struct Failures(BTreeMap<IpAddr, (u32, Instant)>);

/// The one who has an address.
pub(crate) fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(a) => Ipv6Addr::from(u128::from(a) >> 64 << 64).into(),
        v4 => v4,
    }
}

impl Failures {
    fn blocked(&mut self, address: IpAddr, now: Instant) -> bool {
        self.0
            .get(&source(address))
            .is_some_and(|(n, since)| *n >= FAILURES && now.duration_since(*since) < WINDOW)
    }
    fn failed(&mut self, address: IpAddr, now: Instant) {
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_first();
        }
        let entry = self.0.entry(source(address)).or_insert((0, now));
        if now.duration_since(entry.1) >= WINDOW {
            *entry = (0, now);
        }
        entry.0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_block_an_address_for_a_while() {
        let (mut f, t) = (Failures::default(), Instant::now());
        let a: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..FAILURES {
            assert!(!f.blocked(a, t));
            f.failed(a, t);
        }
        assert!(f.blocked(a, t) && f.blocked("2001:db8::2".parse().unwrap(), t));
        assert!(!f.blocked("2001:db9::1".parse().unwrap(), t));
        assert!(!f.blocked(a, t + WINDOW));
        for i in 0..10_000u32 {
            f.failed(std::net::Ipv4Addr::from(i).into(), t);
        }
        assert!(f.0.len() <= REMEMBERED);
    }

    #[test]
    fn hex_round_trips() {
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!(unhex("zz"), None);
    }
}
