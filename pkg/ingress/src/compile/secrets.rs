//! Secrets: certificates and users, read once for each content.

use super::fault;
use crate::auth::Users;
use crate::tls::certified;
use rustls::sign::CertifiedKey;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use warren_types::{Fault, SecretContent, SecretObject, SecretRef};

/// Secrets, and what was read of them.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    rows: HashMap<SecretRef, Arc<SecretObject>>,
    certificates: RefCell<HashMap<SecretRef, Result<Arc<CertifiedKey>, Fault>>>,
    users: RefCell<HashMap<SecretRef, Result<Arc<Users>, Fault>>>,
}

impl Secrets {
    /// Says whether something changed.
    pub(super) fn set(&mut self, key: &SecretRef, row: Option<Arc<SecretObject>>) -> bool {
        if self.rows.get(key) == row.as_ref() {
            return false;
        }
        self.certificates.get_mut().remove(key);
        self.users.get_mut().remove(key);
        match row {
            None => self.rows.remove(key),
            Some(row) => self.rows.insert(key.clone(), row),
        };
        true
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &SecretRef> {
        self.rows.keys()
    }

    /// The certificate in a Secret; none while the Secret has not been read yet.
    pub(super) fn certificate(&self, key: &SecretRef) -> Option<Result<Arc<CertifiedKey>, Fault>> {
        let row = self.rows.get(key)?;
        let mut known = self.certificates.borrow_mut();
        let read = || {
            let content = content(row)?;
            let (chain, private) = (entry(key, content, "tls.crt")?, entry(key, content, "tls.key")?);
            certified(chain, private).map_err(|e| fault("CertificateInvalid", format!("Secret {key}: {e}")))
        };
        Some(known.entry(key.clone()).or_insert_with(read).clone())
    }

    /// Whether the API says that there is no such Secret.
    pub(super) fn is_missing(&self, key: &SecretRef) -> bool {
        self.rows.get(key).is_some_and(|row| row.content.is_none())
    }

    /// The users in a Secret; none while the Secret has not been read yet.
    pub(super) fn users(&self, key: &SecretRef) -> Option<Result<Arc<Users>, Fault>> {
        let row = self.rows.get(key)?;
        let mut known = self.users.borrow_mut();
        let read = || {
            let file = entry(key, content(row)?, "auth")?;
            let users = Users::from_htpasswd(file);
            users.map(Arc::new).map_err(|e| fault("UsersInvalid", format!("Secret {key}, entry auth: {e}")))
        };
        Some(known.entry(key.clone()).or_insert_with(read).clone())
    }
}

fn content(row: &SecretObject) -> Result<&SecretContent, Fault> {
    let missing = || fault("SecretMissing", format!("there is no Secret {}", row.key));
    row.content.as_ref().ok_or_else(missing)
}

fn entry<'a>(key: &SecretRef, content: &'a SecretContent, name: &str) -> Result<&'a [u8], Fault> {
    let missing = || fault("SecretMissing", format!("Secret {key} has no entry {name}"));
    content.data.get(name).map(|bytes| bytes.expose()).ok_or_else(missing)
}
