//! Certificates that nobody signed, by `openssl`: of another make than what is tested.

use crate::lab::succeeded;
use anyhow::Result;
use base64::Engine as _;
use serde_json::{Value, json};
use std::process::Command;

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Certificate {
    /// As a Secret of the namespace `default`.
    #[must_use]
    pub fn secret(&self, name: &str) -> Value {
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "default"},
            "data": {"tls.crt": encoded(&self.cert), "tls.key": encoded(&self.key)},
        })
    }
}

/// A certificate for a host, for two days.
///
/// # Errors
/// When `openssl` fails.
pub fn certificate(host: &str) -> Result<Certificate> {
    let dir = tempfile::tempdir()?;
    let (key, cert) = (dir.path().join("key"), dir.path().join("cert"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2"])
        .args(curve)
        .args(["-subj", "/CN=test", "-addext", &format!("subjectAltName=DNS:{host}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()?;
    succeeded("openssl", &made)?;
    Ok(Certificate { cert: std::fs::read_to_string(cert)?, key: std::fs::read_to_string(key)? })
}
