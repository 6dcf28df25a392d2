//! Certificates that are made here.

use crate::tls::{CertificateError, certified};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Use(#[from] CertificateError),
}

/// A certificate for hosts that have none of their own: it names nobody, and nobody vouches for it.
pub(crate) fn self_signed() -> Result<Arc<CertifiedKey>, MakeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Warren ingress, no certificate for this host");
    let made = params.self_signed(&key)?;
    Ok(certified(made.pem().as_bytes(), key.serialize_pem().as_bytes())?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_can_be_made() {
        assert_eq!(super::self_signed().unwrap().cert.len(), 1);
    }
}
