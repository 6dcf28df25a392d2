//! Secrets that hold certificates of the authority.

use crate::authority::{Authority, CaError, Issued, Leaf, Name, Root};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use warren_types::ingress::ANNOTATION_ISSUED;
use warren_types::{Secret, SecretContent};

/// The type of such a Secret.
const KIND: &str = "kubernetes.io/tls";

/// An Ingress that a Secret is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
}

impl Owner {
    fn reference(&self) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": self.name, "uid": self.uid})
    }
}

/// What matters of a Secret that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Whether it is as it was issued: it carries our mark, and the mark is that of its certificate. A certificate that
    /// somebody put in its place is theirs.
    pub is_ours: bool,
    /// Whether it is being deleted.
    pub ends: bool,
    owners: BTreeSet<Owner>,
    issued: Option<Issued>,
    /// The certificate of the authority that it holds.
    root_pem: Vec<u8>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn entry(secret: &Value, key: &str) -> Vec<u8> {
    let text = secret.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
    text.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}

/// The mark of a Secret with this certificate.
fn mark(cert: &[u8]) -> String {
    digest(&SHA256, cert).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

impl Found {
    /// Reads a Secret.
    #[must_use]
    pub fn read(secret: &Value) -> Self {
        let annotation = secret.pointer("/metadata/annotations").and_then(|all| all.get(ANNOTATION_ISSUED));
        let cert = entry(secret, "tls.crt");
        let is_ours = annotation.and_then(Value::as_str) == Some(&mark(&cert))
            && text(secret, "/type") == KIND
            && secret.get("immutable") != Some(&Value::Bool(true));
        let owners = secret.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let owner = |o: &Value| Owner { name: text(o, "/name").into(), uid: text(o, "/uid").into() };
        let key = String::from_utf8(entry(secret, "tls.key")).unwrap_or_default();
        Self {
            is_ours,
            ends: !text(secret, "/metadata/deletionTimestamp").is_empty(),
            owners: owners.into_iter().flatten().map(owner).collect(),
            issued: Issued::read(&cert, &key).filter(|_| is_ours),
            root_pem: entry(secret, "ca.crt"),
        }
    }

    pub(crate) fn is_of(&self, owners: &BTreeSet<Owner>) -> bool {
        self.owners == *owners
    }

    /// What was issued, when all of it is there.
    pub(crate) fn whole(&self, root: &Root) -> Option<&Issued> {
        self.issued.as_ref().filter(|_| self.root_pem == root.pem.as_bytes())
    }
}

/// A new Secret.
#[must_use]
pub fn body(name: &str, leaf: &Leaf, root: &Root, owners: &BTreeSet<Owner>) -> Value {
    let mut secret = json!({"metadata": {"name": name}, "type": KIND});
    set(&mut secret, Some((leaf, root)), owners);
    secret
}

/// Puts a certificate, when there is one, and the owners into a Secret of ours.
pub fn set(secret: &mut Value, leaf: Option<(&Leaf, &Root)>, owners: &BTreeSet<Owner>) {
    if let Some((leaf, root)) = leaf {
        let cert = leaf.cert_pem.as_bytes();
        secret["data"] = json!({
            "tls.crt": STANDARD.encode(cert),
            "tls.key": STANDARD.encode(leaf.key_pem.expose()),
            "ca.crt": STANDARD.encode(&root.pem),
        });
        if !secret["metadata"]["annotations"].is_object() {
            secret["metadata"]["annotations"] = json!({});
        }
        secret["metadata"]["annotations"][ANNOTATION_ISSUED] = mark(cert).into();
    }
    if !owners.is_empty() {
        secret["metadata"]["ownerReferences"] = owners.iter().map(Owner::reference).collect();
    }
}

/// A Secret with the certificate and the key of an authority.
#[must_use]
pub fn authority_body(name: &str, cert: &str, key: &Secret) -> Value {
    json!({"metadata": {"name": name}, "type": KIND,
        "data": {"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key.expose())}})
}

/// The authority that such a Secret holds.
///
/// # Errors
/// [`CaError`] when it holds none.
pub fn authority_of(secret: &Value) -> Result<Authority, CaError> {
    let text = |key| String::from_utf8(entry(secret, key)).unwrap_or_default();
    Authority::from_pem(&text("tls.crt"), &Secret::new(text("tls.key")))
}

/// How long the certificate that a Secret holds is good for these names, by the authority that it names.
pub(crate) fn good(content: &SecretContent, names: &BTreeSet<Name>, now: Timestamp) -> Option<Duration> {
    let entry = |key| std::str::from_utf8(content.data.get(key)?.expose()).ok();
    let root = Root::from_pem(entry("ca.crt")?).ok()?;
    let issued = Issued::read(entry("tls.crt")?.as_bytes(), entry("tls.key")?)?;
    (issued.names == *names).then(|| issued.rests(&root, now)).flatten()
}
