//! Certificates that this server uses itself: made anew in time, put in place without closing a connection.

use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_types::Secret;

use crate::ServerError;
use crate::auth::MASTERS;
use crate::authority::{Authority, Identity, renewal_due, write_private};

/// Longest time between two looks: a clock that was set forward is noticed within it.
const LOOK: Duration = Duration::from_secs(3600);

/// The certificate that new connections are shown.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Keeps the server's certificate and the administrator's kubeconfig good.
pub(crate) struct Renewal {
    pub(crate) authority: Arc<Authority>,
    /// Names in the server's certificate.
    pub(crate) names: Vec<String>,
    /// URL in the kubeconfig.
    pub(crate) url: String,
    /// Where the kubeconfig is kept.
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) shown: Arc<Shown>,
    /// The certificate in the kubeconfig.
    pub(crate) admin: Vec<u8>,
}

fn certified(authority: &Authority, names: &[String]) -> Result<Arc<CertifiedKey>, ServerError> {
    let serving = authority.server(names)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&serving.key)
        .map_err(|e| ServerError::Certificates(format!("server: {e}")))?;
    Ok(Arc::new(CertifiedKey::new(vec![serving.cert], key)))
}

impl Renewal {
    /// Makes the first certificates, writes the kubeconfig.
    pub(crate) fn begin(
        authority: Arc<Authority>,
        names: Vec<String>,
        url: String,
        kubeconfig: Option<PathBuf>,
    ) -> Result<(Self, Secret), ServerError> {
        let shown = Arc::new(Shown(RwLock::new(certified(&authority, &names)?)));
        let mut renewal = Self { authority, names, url, kubeconfig, shown, admin: Vec::new() };
        let text = renewal.write_kubeconfig()?;
        Ok((renewal, text))
    }

    fn write_kubeconfig(&mut self) -> Result<Secret, ServerError> {
        let admin: Identity = self.authority.client("system:admin", MASTERS)?;
        let text = crate::kubeconfig::render(&self.url, &self.authority.ca_pem, &admin);
        if let Some(path) = &self.kubeconfig {
            write_private(path, text.expose().as_bytes())?;
        }
        self.admin = admin.cert_der;
        Ok(text)
    }

    /// Looks at both certificates and makes those anew that end soon.
    fn look(&mut self, now: Timestamp) -> Result<(), ServerError> {
        let life = self.authority.life;
        let current = self.shown.current();
        if current.end_entity_cert().map_or(true, |c| renewal_due(c, life, now)) {
            let next = certified(&self.authority, &self.names)?;
            *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = next;
            tracing::info!("the server's certificate was renewed");
        }
        if renewal_due(&self.admin, life, now) {
            self.write_kubeconfig()?;
            let path = self.kubeconfig.as_deref().unwrap_or(std::path::Path::new("-"));
            tracing::info!(path = %path.display(), "the administrator's kubeconfig was renewed");
        }
        Ok(())
    }

    /// Keeps them good until `stop`. A renewal that fails is tried again: there is a third of the life for it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let every = LOOK.min(self.authority.life / 20);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            if let Err(error) = self.look(Timestamp::now()) {
                tracing::error!(%error, "a certificate could not be renewed; trying again");
            }
        }
    }
}
