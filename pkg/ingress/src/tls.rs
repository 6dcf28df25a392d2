//! Certificates, and which one a client is shown.

use crate::worker::Shared;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio_rustls::TlsAcceptor;

/// Certificates by the name that a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For names of any depth below these.
    below: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Serves a host (`example.org`, `*.example.org`) by a certificate; the first of a host counts, so the oldest object is
    /// to come first.
    pub fn add(&mut self, host: &str, certificate: Arc<CertifiedKey>) -> &mut Self {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.into()).or_insert(certificate),
            None => self.exact.entry(host.into()).or_insert(certificate),
        };
        self
    }

    /// Serves all names below `parent`, of however many labels, by a certificate; the first of a parent counts.
    pub fn add_below(&mut self, parent: &str, certificate: Arc<CertifiedKey>) -> &mut Self {
        self.below.entry(parent.to_ascii_lowercase().into()).or_insert(certificate);
        self
    }

    /// The certificate for names that have none, and for clients that ask for no name.
    pub fn set_default(&mut self, certificate: Arc<CertifiedKey>) -> &mut Self {
        self.default = Some(certificate);
        self
    }

    /// The certificate for a name: of exactly the name, of its wildcard, of the nearest name above, or the default.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        name.as_deref().and_then(|name| self.own(name)).or(self.default.as_ref())
    }

    /// The certificate of a name in lower case itself.
    fn own(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        let parents = || std::iter::successors(Some(name), |name| Some(name.split_once('.')?.1)).skip(1);
        let below = || match self.below.is_empty() {
            true => None,
            false => parents().find_map(|parent| self.below.get(parent)),
        };
        self.exact.get(name).or_else(wildcard).or_else(below)
    }

    /// Whether everybody who was shown a certificate of `before` for a name is shown the same now.
    pub(crate) fn keeps(&self, before: &Self) -> bool {
        type Map = HashMap<Box<str>, Arc<CertifiedKey>>;
        let same =
            |a: &Arc<CertifiedKey>, b: Option<&Arc<CertifiedKey>>| b.is_some_and(|b| Arc::ptr_eq(a, b));
        let kept = |before: &Map, now: &Map| before.iter().all(|(name, shown)| same(shown, now.get(name)));
        kept(&before.exact, &self.exact)
            && kept(&before.wildcard, &self.wildcard)
            && kept(&before.below, &self.below)
            && before.default.as_ref().is_none_or(|shown| same(shown, self.default.as_ref()))
            && self
                .exact
                .iter()
                .all(|(name, now)| before.own(name).is_none_or(|shown| Arc::ptr_eq(shown, now)))
            // Who of those below was shown another by a wider name is not known.
            && (self.below.len() == before.below.len())
    }

    /// Whether a connection that was made for a name may be used for a host too: the name has no certificate of its own, or
    /// that of the host, or one that covers the host. Both are in lower case.
    pub(crate) fn is_shared(&self, name: &str, host: &str) -> bool {
        let Some(shown) = self.own(name) else { return true };
        if self.own(host).is_some_and(|own| Arc::ptr_eq(own, shown)) {
            return true;
        }
        let covers = || {
            let parsed = ParsedCertificate::try_from(shown.end_entity_cert().ok()?).ok()?;
            let host = host.trim_matches(['[', ']']);
            verify_server_name(&parsed, &ServerName::try_from(host).ok()?).ok()
        };
        covers().is_some()
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain is no PEM, or empty.
    #[error("the certificate is not in PEM: {0}; write the chain into tls.crt, the leaf first")]
    Chain(rustls::pki_types::pem::Error),
    /// There is no certificate in it.
    #[error("tls.crt holds no certificate; write the chain into it, the leaf first")]
    NoCertificate,
    /// The key is no PEM.
    #[error("the key is not in PEM: {0}; write the private key into tls.key")]
    Key(rustls::pki_types::pem::Error),
    /// Key and certificate do not fit, or are of a kind that is not served.
    #[error(
        "certificate and key cannot be used: {0}; they must belong together (RSA, ECDSA P-256 or P-384, Ed25519)"
    )]
    Unusable(#[from] rustls::Error),
}

/// A certificate chain and its key, both in PEM.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Chain)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

/// Shows each client the certificate of the table of that moment.
struct Resolver(Weak<Shared>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let live = self.0.upgrade()?.live();
        live.table.certificates().find(hello.server_name()).cloned()
    }
}

/// Takes handshakes: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, tickets whose keys rotate.
pub(crate) fn acceptor(shared: &Arc<Shared>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let resolver = Arc::new(Resolver(Arc::downgrade(shared)));
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = shared.tickets.clone();
    // Tickets do; what the server itself would remember is memory that clients could fill.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}
