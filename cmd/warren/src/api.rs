//! A Kubernetes API for commands that a person types: one request, one answer, errors in words.

use crate::failure::{Hinted, UsageError};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where `warren server` writes the administrator's kubeconfig.
const KUBECONFIG: &str = "/etc/warren/kubeconfig";
/// Asks for discovery in one document.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Which API is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ApiArgs {
    /// Kubeconfig [default: what KUBECONFIG names, else /etc/warren/kubeconfig].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// An API.
pub(crate) struct Api {
    client: kube::Client,
    server: String,
}

/// A resource that the API has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short: Vec<String>,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// The path of an object, or of all of them.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str(&format!("/namespaces/{}", escape(namespace)));
        }
        path.push_str(&format!("/{}", self.plural));
        if let Some(name) = name {
            path.push_str(&format!("/{}", escape(name)));
        }
        path
    }
    /// `pod`, `ingress.networking.k8s.io`.
    pub(crate) fn shown(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }
    fn is_called(&self, name: &str) -> bool {
        let qualified = name.strip_suffix(&format!(".{}", self.group)).filter(|_| !self.group.is_empty());
        [Some(name), qualified].into_iter().flatten().any(|name| {
            name == self.plural
                || name == self.singular
                || self.kind.eq_ignore_ascii_case(name)
                || self.short.iter().any(|s| s == name)
        })
    }
}

/// Percent-encodes what a path segment cannot hold as it is.
fn escape(segment: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    segment.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What an API said no to.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its status code.
    pub(crate) code: u16,
    message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for Refused {}

/// Whether an error is the API's "there is none".
pub(crate) fn is_missing(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<Refused>().is_some_and(|r| r.code == 404))
}

fn read(path: &Path) -> anyhow::Result<Kubeconfig> {
    Kubeconfig::read_from(path).map_err(|e| UsageError(format!("kubeconfig {}: {e}", path.display())).into())
}

impl ApiArgs {
    fn kubeconfig(&self) -> anyhow::Result<Kubeconfig> {
        if let Some(path) = &self.kubeconfig {
            return read(path);
        }
        if std::env::var_os("KUBECONFIG").is_some_and(|v| !v.is_empty()) {
            let found = Kubeconfig::from_env().map_err(|e| UsageError(format!("KUBECONFIG: {e}")))?;
            return found.ok_or_else(|| UsageError("KUBECONFIG names no file that exists".into()).into());
        }
        let default = Path::new(KUBECONFIG);
        if default.exists() {
            return read(default);
        }
        Err(Hinted::new(
            format!("there is no kubeconfig at {KUBECONFIG}"),
            "on the server `warren server` writes it; elsewhere copy it, and name it with --kubeconfig or KUBECONFIG",
        )
        .into())
    }

    /// A client; connects when it is used.
    pub(crate) async fn api(&self) -> anyhow::Result<Api> {
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(self.kubeconfig()?, &options)
            .await
            .map_err(|e| UsageError(format!("the kubeconfig cannot be used: {e}")))?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = kube::Client::try_from(config).context("make a client")?;
        Ok(Api { client, server })
    }
}

/// Runs a command that talks to an API.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(work)
}

impl Api {
    /// Sends a request; an answer that is an error is one.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<http::Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::from(body)).context("make the request")?;
        let response = self.client.send(request).await.map_err(|e| self.unreachable(e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let bytes = collect(response).await?;
        let status: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let message = match status["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("{} answered {code}: {}", self.server, String::from_utf8_lossy(&bytes).trim()),
        };
        let refused = anyhow::Error::new(Refused { code, message });
        Err(match code {
            401 => refused.context(Hinted::new(
                format!("{} does not know these credentials", self.server),
                "the kubeconfig is old or another server's: copy it again, or make a token with `warren token create`",
            )),
            _ => refused,
        })
    }

    fn unreachable(&self, error: kube::Error) -> anyhow::Error {
        let hint = "is `warren server` running there? --kubeconfig or KUBECONFIG name another API";
        anyhow::Error::new(error).context(Hinted::new(format!("{} does not answer", self.server), hint))
    }

    /// Sends a request and reads the answer as JSON.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Value> {
        let response = self.send(method, path, headers, body).await?;
        let bytes = collect(response).await?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} answered something that is not JSON", self.server))
    }

    /// Everything that the API has.
    pub(crate) async fn resources(&self) -> anyhow::Result<Vec<Resource>> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let found = self.json(Method::GET, path, &[(header::ACCEPT, DISCOVERY)], Vec::new()).await?;
            all.extend(resources(&found));
        }
        Ok(all)
    }
}

/// The whole body of an answer.
pub(crate) async fn collect(response: http::Response<Body>) -> anyhow::Result<Bytes> {
    Ok(response.into_body().collect().await.context("the answer was cut off")?.to_bytes())
}

fn resources(discovery: &Value) -> Vec<Resource> {
    let list = |v: &Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let mut out = Vec::new();
    for group in list(discovery, "items") {
        for version in list(&group, "versions") {
            for r in list(&version, "resources") {
                let plural = text(&r, "resource");
                let singular = text(&r, "singularResource");
                out.push(Resource {
                    group: text(&group["metadata"], "name"),
                    version: text(&version, "version"),
                    singular: if singular.is_empty() { plural.clone() } else { singular },
                    plural,
                    short: list(&r, "shortNames")
                        .iter()
                        .filter_map(|s| s.as_str().map(str::to_owned))
                        .collect(),
                    kind: text(&r["responseKind"], "kind"),
                    namespaced: r["scope"] == "Namespaced",
                });
            }
        }
    }
    out
}

/// The resource that a person means by a word.
pub(crate) fn by_word<'a>(all: &'a [Resource], word: &str) -> anyhow::Result<&'a Resource> {
    all.iter().find(|r| r.is_called(word)).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|r| r.plural.as_str()).collect();
        UsageError(format!("the server has no resource {word:?}; it has {}", known.join(", "))).into()
    })
}

/// The resource of an object.
pub(crate) fn by_type<'a>(
    all: &'a [Resource],
    api_version: &str,
    kind: &str,
) -> anyhow::Result<&'a Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    all.iter()
        .find(|r| r.group == group && r.version == version && r.kind == kind)
        .ok_or_else(|| UsageError(format!("the server has no kind {kind:?} in {api_version:?}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resources_are_found_by_every_name() {
        let ingress = json!({"resource": "ingresses", "singularResource": "ingress", "shortNames": ["ing"],
            "responseKind": {"kind": "Ingress"}, "scope": "Namespaced"});
        let all = resources(&json!({"items": [{"metadata": {"name": "networking.k8s.io"},
            "versions": [{"version": "v1", "resources": [ingress]}]}]}));
        for word in ["ingresses", "ingress", "ing", "Ingress", "ingresses.networking.k8s.io"] {
            assert_eq!(by_word(&all, word).unwrap().kind, "Ingress", "{word}");
        }
        assert!(by_word(&all, "pods").unwrap_err().to_string().contains("it has ingresses"));
        let r = by_type(&all, "networking.k8s.io/v1", "Ingress").unwrap();
        assert_eq!(
            r.path(Some("a b"), Some("x/y")),
            "/apis/networking.k8s.io/v1/namespaces/a%20b/ingresses/x%2Fy"
        );
        assert_eq!(r.path(None, None), "/apis/networking.k8s.io/v1/ingresses");
        assert!(by_type(&all, "v1", "Ingress").is_err());
    }
}
