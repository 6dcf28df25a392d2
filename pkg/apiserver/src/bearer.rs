//! Tokens that administrators give out: a role, an end, and the hash of a secret that is shown once.
//!
//! A token reads `<id>.<secret>`. The secret has 256 random bits, so one round of SHA-256 is all that its hash needs.

use axum::body::Body;
use http::{HeaderMap, Method, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use warren_store::{Durability, Record, Store, Table};
use warren_types::Secret;

use crate::auth::User;
use crate::authority::hex;
use crate::error::{ApiError, ApiResult};
use crate::reply;
use crate::tokens::{Tokens, equal};

/// Where tokens are made, listed and revoked.
pub(crate) const PATH: &str = "/v1-warren/tokens";
/// Largest body of a request here.
pub(crate) const BODY_LIMIT: usize = 16 << 10;
/// Most tokens at a time.
const MOST: usize = 10_000;
/// Longest description.
const DESCRIPTION: usize = 500;
/// How long a token is listed after its end.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What a token's bearer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Join nodes, nothing else.
    Node,
    /// Read all but Secrets.
    Viewer,
}

/// A token on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    id: String,
    role: Role,
    /// SHA-256 of the secret, hex.
    hash: String,
    description: String,
    created: Timestamp,
    expires: Option<Timestamp>,
}

impl Record for TokenRow {
    const TABLE: &'static str = "tokens";
    fn key(&self) -> String {
        self.id.clone()
    }
}

impl TokenRow {
    fn ended(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
    fn shown(&self, now: Timestamp) -> serde_json::Value {
        json!({ "expired": self.ended(now), "id": self.id, "role": self.role, "description": self.description,
            "created": self.created, "expires": self.expires })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    role: Role,
    ttl_seconds: Option<i64>,
    #[serde(default)]
    description: String,
}

/// The tokens of a server.
#[derive(Clone)]
pub(crate) struct Bearers {
    table: Table<TokenRow>,
    files: Tokens,
}

fn hash(secret: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref())
}

impl Bearers {
    pub(crate) fn new(store: &Store, files: Tokens) -> Self {
        Self { table: store.table(), files }
    }

    /// The id and role of a token. Takes the same time whatever of its secret is wrong.
    fn find(&self, token: &str, now: Timestamp) -> ApiResult<(String, Role)> {
        let (id, secret) = token.split_once('.').unwrap_or((token, ""));
        let row = self.table.get(id);
        let known = row.as_ref().map_or("", |r| r.hash.as_str());
        match row.as_ref().filter(|_| equal(known, &hash(secret))) {
            Some(row) if row.ended(now) => Err(ApiError::unauthorized(
                "Unauthorized: this token has expired; an administrator makes one with `warren token create`",
            )),
            Some(row) => Ok((row.id.clone(), row.role)),
            None => Err(ApiError::unauthorized("Unauthorized: this token is wrong or was revoked")),
        }
    }

    /// Whether `secret` may join a node: that of a token file, or a whole token of the role.
    pub(crate) fn may_join(&self, secret: &str, now: Timestamp) -> ApiResult<()> {
        if self.files.may_join(secret) {
            return Ok(());
        }
        match self.find(secret, now) {
            Ok((_, Role::Node)) => Ok(()),
            Err(e) if secret.contains('.') => Err(e),
            _ => Err(ApiError::unauthorized(
                "the join token is wrong; the server's file server/agent-token holds the right one",
            )),
        }
    }

    /// Who shows these headers; none without an `Authorization`.
    pub(crate) fn user(&self, headers: &HeaderMap, now: Timestamp) -> ApiResult<Option<User>> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let bearer = value.to_str().ok().and_then(|v| v.split_once(' '));
        let Some((_, token)) = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
            return Err(ApiError::unauthorized(
                "Unauthorized: only `Authorization: Bearer TOKEN` is known here",
            ));
        };
        let (id, role) = self.find(token.trim(), now)?;
        match role {
            Role::Admin => Ok(Some(User::Admin(format!("warren:token:{id}")))),
            Role::Viewer => Ok(Some(User::Viewer(format!("warren:token:{id}")))),
            Role::Node => Err(ApiError::unauthorized(
                "Unauthorized: a node token only joins nodes; `warren token create --role viewer` makes one that reads",
            )),
        }
    }

    /// Answers [`PATH`] and what is below it, for administrators.
    pub(crate) async fn answer(
        &self,
        user: &User,
        method: &Method,
        path: &str,
        body: &[u8],
        now: Timestamp,
    ) -> ApiResult<Response<Body>> {
        if !matches!(user, User::Admin(_)) {
            return Err(ApiError::forbidden(format!("User {:?} is no administrator", user.name())));
        }
        let id = path.strip_prefix(PATH).and_then(|p| p.strip_prefix('/')).unwrap_or_default();
        match (method.as_str(), id) {
            ("GET" | "HEAD", "") => Ok(self.list(now)),
            ("POST", "") => self.create(body, now).await,
            ("DELETE", id) if !id.is_empty() => self.revoke(id, now).await,
            ("GET" | "HEAD" | "POST" | "DELETE", _) => Err(ApiError::no_such_path()),
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn list(&self, now: Timestamp) -> Response<Body> {
        let rows: Vec<_> = self.table.snapshot().rows.values().map(|r| r.shown(now)).collect();
        reply::json(StatusCode::OK, &json!({ "tokens": rows }))
    }

    async fn create(&self, body: &[u8], now: Timestamp) -> ApiResult<Response<Body>> {
        let wanted: Wanted = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the body is not a token request: {e}")))?;
        if wanted.description.len() > DESCRIPTION || wanted.description.chars().any(char::is_control) {
            return Err(ApiError::bad_request(format!(
                "description: at most {DESCRIPTION} bytes and no control characters"
            )));
        }
        let expires = match wanted.ttl_seconds {
            None => None,
            Some(ttl) if ttl > 0 => Some(
                now.checked_add(SignedDuration::from_secs(ttl))
                    .map_err(|_| ApiError::bad_request(format!("ttlSeconds: {ttl} is too long")))?,
            ),
            Some(ttl) => {
                return Err(ApiError::bad_request(format!("ttlSeconds: {ttl} must be greater than 0")));
            }
        };
        self.forget_ended(now).await?;
        if self.table.snapshot().rows.len() >= MOST {
            return Err(ApiError::forbidden(format!("there are {MOST} tokens; revoke some first")));
        }
        let (id, secret) = (hex(&crate::meta::random::<5>()?), hex(&crate::meta::random::<32>()?));
        let row = TokenRow {
            id: id.clone(),
            role: wanted.role,
            hash: hash(&secret),
            description: wanted.description,
            created: now,
            expires,
        };
        let mut shown = row.shown(now);
        self.table.put(row, Durability::Flushed).await.map_err(unavailable)?;
        let token = Secret::new(format!("{id}.{secret}"));
        shown["token"] = match wanted.role {
            Role::Node => self.files.full_node_token(&token).expose().into(),
            Role::Admin | Role::Viewer => token.expose().into(),
        };
        tracing::info!(id, role = ?wanted.role, "token made");
        Ok(reply::json(StatusCode::CREATED, &shown))
    }

    async fn forget_ended(&self, now: Timestamp) -> ApiResult<()> {
        let old = now.checked_sub(REMEMBERED).unwrap_or(Timestamp::UNIX_EPOCH);
        for row in self.table.snapshot().rows.values().filter(|r| r.ended(old)) {
            self.table.delete(&row.id, Durability::Flushed).await.map_err(unavailable)?;
        }
        Ok(())
    }

    async fn revoke(&self, id: &str, now: Timestamp) -> ApiResult<Response<Body>> {
        let Some(row) = self.table.get(id) else {
            return Err(ApiError::missing(format!(
                "token {id:?} not found; `warren token list` shows those there are"
            )));
        };
        self.table.delete(id, Durability::Flushed).await.map_err(unavailable)?;
        tracing::info!(id, "token revoked");
        Ok(reply::json(StatusCode::OK, &row.shown(now)))
    }
}

fn unavailable(e: warren_store::StoreError) -> ApiError {
    ApiError::unavailable(format!("the token could not be recorded: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use http_body_util::BodyExt as _;

    async fn body(response: Response<Body>) -> serde_json::Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn tokens_have_a_role_and_an_end_and_no_secret_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap().store;
        let ca = Authority::open(&dir.path().join("tls"), Timestamp::now(), crate::authority::LIFE).unwrap();
        let bearers = Bearers::new(&store, Tokens::open(dir.path(), &ca, None).unwrap());
        let (admin, now) = (User::Admin("a".into()), Timestamp::UNIX_EPOCH);
        let ask = async |method: Method, path: &str, b: serde_json::Value| {
            bearers.answer(&admin, &method, path, b.to_string().as_bytes(), now).await
        };
        let viewer =
            body(ask(Method::POST, PATH, json!({"role": "viewer", "ttlSeconds": 60})).await.unwrap()).await;
        let node = body(ask(Method::POST, PATH, json!({"role": "node"})).await.unwrap()).await;
        let token = viewer["token"].as_str().unwrap();
        let headers = |text: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::AUTHORIZATION, text.parse().unwrap());
            h
        };
        let who = |text: &str, at: Timestamp| bearers.user(&headers(text), at);
        let name = format!("warren:token:{}", viewer["id"].as_str().unwrap());
        assert_eq!(who(&format!("bearer {token}"), now).unwrap(), Some(User::Viewer(name)));
        assert_eq!(bearers.user(&HeaderMap::new(), now).unwrap(), None);
        let later = now + SignedDuration::from_secs(60);
        for (text, at) in [
            (format!("Bearer {token}"), later),
            (format!("Bearer {}", &token[..token.len() - 1]), now),
            (format!("Bearer x{token}"), now),
            ("Bearer".into(), now),
            ("Basic YTpi".into(), now),
        ] {
            assert_eq!(who(&text, at).unwrap_err().code, 401, "{text}");
        }
        let join = node["token"].as_str().unwrap();
        assert!(join.starts_with(&format!("K10{}::node:", ca.key_hash)));
        let join = join.rsplit(':').next().unwrap();
        assert!(bearers.may_join(join, now).is_ok() && bearers.may_join(token, now).is_err());
        assert_eq!(who(&format!("Bearer {join}"), now).unwrap_err().code, 401);

        let rows = body(ask(Method::GET, PATH, json!(null)).await.unwrap()).await;
        assert!(rows["tokens"].as_array().unwrap().len() == 2 && !rows.to_string().contains("hash"));
        let secret = token.split_once('.').unwrap().1;
        let on_disk = serde_json::to_string(&*bearers.table.snapshot().rows.values().next().unwrap().clone());
        assert!(!on_disk.unwrap().contains(secret));
        let one = format!("{PATH}/{}", viewer["id"].as_str().unwrap());
        assert!(ask(Method::DELETE, &one, json!(null)).await.is_ok());
        assert_eq!(ask(Method::DELETE, &one, json!(null)).await.unwrap_err().code, 404);
        assert_eq!(who(&format!("Bearer {token}"), now).unwrap_err().code, 401);
        for bad in [json!({"role": "root"}), json!({"role": "node", "ttlSeconds": -1}), json!([1])] {
            assert_eq!(ask(Method::POST, PATH, bad).await.unwrap_err().code, 400);
        }
        let refused = bearers.answer(&User::Viewer("v".into()), &Method::GET, PATH, b"", now).await;
        assert_eq!(refused.unwrap_err().code, 403);
    }
}
