//! DNS over TLS (RFC 7858): connections are kept for a while and used again.
//!
//! An upstream's certificate must be for the name that is configured, or for its address, and signed by an authority that
//! the node trusts.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::exchange::{ExchangeError, by_stream};
use super::message::{Question, Reply};

/// A connection without questions is closed after this; servers usually wait for 10 s and more.
const IDLE: Duration = Duration::from_secs(8);
/// Most connections to one upstream.
const CONNECTIONS: usize = 32;

/// Why TLS to an upstream failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate authority is trusted.
    #[error(
        "this node trusts no certificate authority: install its package ca-certificates, or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// The configuration is refused.
    #[error("TLS can not be set up: {0}")]
    Setup(rustls::Error),
    /// The handshake failed.
    #[error("TLS handshake as {name}: {source}")]
    Handshake {
        /// The name its certificate must be for.
        name: String,
        /// What failed.
        source: std::io::Error,
    },
}

/// The authorities that sign upstreams' certificates.
#[derive(Debug, Clone, Default)]
pub struct Roots(Arc<OnceCell<Arc<RootCertStore>>>);

impl Roots {
    /// These, in place of those that the system trusts.
    #[must_use]
    pub fn given(store: RootCertStore) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(Arc::new(store)))))
    }

    async fn get(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(loaded.map(|loaded| loaded.certs).unwrap_or_default());
            if store.is_empty() { Err(TlsError::NoRoots) } else { Ok(Arc::new(store)) }
        };
        self.0.get_or_try_init(load).await.cloned()
    }
}

/// An upstream over TLS.
#[derive(Debug)]
pub(crate) struct TlsClient {
    name: ServerName<'static>,
    roots: Roots,
    connector: OnceCell<Connector>,
    idle: Mutex<Vec<(TlsStream<TcpStream>, Instant)>>,
    allowed: Semaphore,
}

struct Connector(TlsConnector);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl TlsClient {
    pub(crate) fn new(ip: IpAddr, name: Option<&str>, roots: Roots) -> Self {
        let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        Self {
            name: name.unwrap_or_else(|| ServerName::IpAddress(ip.into())),
            roots,
            connector: OnceCell::new(),
            idle: Mutex::default(),
            allowed: Semaphore::new(CONNECTIONS),
        }
    }

    pub(crate) async fn ask(
        &self,
        to: SocketAddr,
        question: &Question,
        edns: bool,
    ) -> Result<Reply, ExchangeError> {
        let Ok(_permit) = self.allowed.acquire().await else { return Err(ExchangeError::Silent) };
        // A server may have closed what was idle; that says nothing of it, so a new connection follows.
        while let Some(mut stream) = self.take_idle() {
            match by_stream(&mut stream, question, edns).await {
                Err(ExchangeError::Unreachable(_)) => {}
                other => return self.give_back(stream, other),
            }
        }
        let mut stream = self.connect(to).await?;
        let reply = by_stream(&mut stream, question, edns).await;
        self.give_back(stream, reply)
    }

    async fn connect(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>, ExchangeError> {
        let connector = self.connector.get_or_try_init(|| self.set_up()).await?;
        let stream = TcpStream::connect(to).await.map_err(ExchangeError::Unreachable)?;
        // Questions are small and waited for.
        stream.set_nodelay(true).map_err(ExchangeError::Unreachable)?;
        let connected = connector.0.connect(self.name.clone(), stream).await;
        connected
            .map_err(|source| TlsError::Handshake { name: self.name.to_str().into_owned(), source }.into())
    }

    async fn set_up(&self) -> Result<Connector, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(self.roots.get().await?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"dot".to_vec()];
        Ok(Connector(TlsConnector::from(Arc::new(config))))
    }

    fn take_idle(&self) -> Option<TlsStream<TcpStream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        idle.retain(|(_, since)| now.duration_since(*since) < IDLE);
        idle.pop().map(|(stream, _)| stream)
    }

    /// Keeps a connection that just worked; any other may have half an answer in it.
    fn give_back(
        &self,
        stream: TlsStream<TcpStream>,
        reply: Result<Reply, ExchangeError>,
    ) -> Result<Reply, ExchangeError> {
        if reply.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((stream, Instant::now()));
        }
        reply
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
