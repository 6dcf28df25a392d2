//! A client of a Kubernetes API that notices when the other side is gone.
//!
//! A watch may be silent for a long time, so a dead connection looks like a quiet one. Three things tell them
//! apart: TCP keepalive (the peer's kernel is gone), the TCP user timeout (what we sent is not acknowledged), and a
//! limit on the time to the head of a response (the peer's process hangs). Every answer and every failure is noted
//! in the shared [`SourceStatus`].

use crate::SourceError;
use crate::status::SourceStatus;
use http::{Request, Response};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Service, ServiceBuilder};

/// How long a connection may take to be made: short, so that a healed network is found soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a peer's kernel may be silent.
const KEEPALIVE: Duration = Duration::from_secs(3);
/// How long a response's head may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the API is, and as whom to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAccess {
    /// From a kubeconfig file, its current context.
    Kubeconfig(PathBuf),
    /// From the service account that Kubernetes mounts into a pod.
    InCluster,
}

/// A connected-to-be client and the address it speaks to.
#[derive(Clone)]
pub struct ApiClient {
    /// The client; connects when used.
    pub client: kube::Client,
    /// `https://host:port`.
    pub address: String,
}

/// Directory of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl ApiAccess {
    /// The service account's access, when this process runs in a pod that has one.
    #[must_use]
    pub fn in_cluster() -> Option<Self> {
        let there = Path::new(SERVICE_ACCOUNT).join("token").exists()
            && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        there.then_some(Self::InCluster)
    }

    async fn config(&self) -> Result<kube::Config, SourceError> {
        match self {
            ApiAccess::InCluster => kube::Config::incluster()
                .map_err(|e| SourceError::Access { what: "service account".into(), reason: e.to_string() }),
            ApiAccess::Kubeconfig(path) => {
                let refuse = |e: kube::config::KubeconfigError| SourceError::Access {
                    what: format!("kubeconfig {}", path.display()),
                    reason: chain(&e),
                };
                let file = Kubeconfig::read_from(path).map_err(refuse)?;
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(refuse)
            }
        }
    }

    /// The URL of the API, without speaking to it.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn url(&self) -> Result<String, SourceError> {
        Ok(self.config().await?.cluster_url.to_string())
    }

    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read, or its keys and certificates cannot be used.
    pub async fn client(&self, status: &SourceStatus) -> Result<ApiClient, SourceError> {
        self.client_of(status, false).await
    }

    /// As [`ApiAccess::client`], for many watches: one connection carries them all, where the API speaks HTTP/2. An answer
    /// that is waited for should not share it, lest it wait for others too.
    ///
    /// # Errors
    /// As [`ApiAccess::client`].
    pub(crate) async fn shared_client(&self, status: &SourceStatus) -> Result<ApiClient, SourceError> {
        self.client_of(status, true).await
    }

    async fn client_of(&self, status: &SourceStatus, shared: bool) -> Result<ApiClient, SourceError> {
        let config = self.config().await?;
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let refuse =
            |e: kube::Error| SourceError::Access { what: format!("client for {address}"), reason: chain(&e) };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(Duration::from_secs(1)));
        connector.set_keepalive_retries(Some(3));
        connector.set_tcp_user_timeout(Some(Duration::from_secs(6)));
        let connector = if shared {
            over_http2(&config, connector).map_err(refuse)?
        } else {
            config.rustls_https_connector_with_connector(connector).map_err(refuse)?
        };
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build::<_, Body>(connector);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(refuse)?)
            .layer(config.extra_headers_layer().map_err(refuse)?)
            .map_err(BoxError::from)
            .service(Noted { inner: http, status: status.clone() });
        status.set_api(&address);
        Ok(ApiClient { client: kube::Client::new(service, config.default_namespace.clone()), address })
    }
}

/// As the connector of [`kube::client::ConfigExt`], with HTTP/2 where the other side speaks it.
fn over_http2(
    config: &kube::Config,
    connector: HttpConnector,
) -> Result<HttpsConnector<HttpConnector>, kube::Error> {
    let tls = config.rustls_client_config()?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|e| kube::Error::Service(Box::new(e)))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    Ok(builder.enable_all_versions().wrap_connector(connector))
}

/// An error with its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = cause.source();
    }
    out
}

/// Limits the time to a response's head, and notes every outcome.
#[derive(Clone)]
struct Noted<S> {
    inner: S,
    status: SourceStatus,
}

impl<S, B> Service<Request<Body>> for Noted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.inner.call(request);
        let status = self.status.clone();
        Box::pin(async move {
            let outcome = match tokio::time::timeout(RESPONSE_TIMEOUT, answer).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(e)) => Err(e.into()),
                Err(_) => Err(BoxError::from("the API accepted the request and did not answer within 20 s")),
            };
            match &outcome {
                Ok(_) => {
                    if status.contact() {
                        tracing::info!(api = %status.report().api, "the API answers");
                    }
                }
                Err(e) => {
                    let reason = chain(&**e);
                    if status.lost(&reason) {
                        tracing::warn!(api = %status.report().api, error = %reason, "the API does not answer; working from the store");
                    }
                }
            }
            outcome
        })
    }
}
