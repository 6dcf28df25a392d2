//! A server on an ephemeral port, and clients of it.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::path::Path;
use tokio::task::JoinSet;

use super::super::*;

/// A running server; dropped, it stops.
pub(super) struct TestServer {
    pub(super) directory: tempfile::TempDir,
    pub(super) client: kube::Client,
    pub(super) url: String,
    pub(super) ca_pem: String,
    pub(super) token: Secret,
    stop: CancellationToken,
    running: JoinSet<Result<(), ServerError>>,
}

/// An answer to a raw request.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) headers: ::http::HeaderMap,
    pub(super) body: Value,
}

pub(super) fn config(directory: &Path) -> ServerConfig {
    ServerConfig {
        data_dir: directory.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise_address: None,
        tls_sans: vec!["server.example".into()],
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "fd57:4e00:42::/56".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        node_prefix_v4: 24,
        node_prefix_v6: 64,
        allocate_node_cidrs: true,
        issue_certificates: true,
        node_ports: 30_000..=32_767,
        token_file: None,
        kubeconfig: Some(directory.join("kubeconfig")),
        host_routes: Vec::new(),
        audit_log: None,
        certificate_life: CERTIFICATE_LIFE,
        limits: Limits { drain: std::time::Duration::from_secs(1), ..Limits::default() },
        default_ingress_class: false,
        node_life: NodeLife::default(),
    }
}

impl TestServer {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }
    pub(super) async fn start_in(directory: tempfile::TempDir) -> Self {
        Self::start_with(directory, |_| {}).await
    }
    pub(super) async fn start_with(
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let mut config = config(directory.path());
        change(&mut config);
        let server = Server::open(config).await.unwrap();
        let url = format!("https://{}", server.address());
        let (ca_pem, token) = (server.ca_pem().to_owned(), server.node_token());
        let client = client_at(server.kubeconfig().expose(), Some(&url)).await;
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(server.run(HealthCell::default(), stop.clone()));
        Self { directory, client, url, ca_pem, token, stop, running }
    }
    /// Stops it in good order and gives its directory.
    pub(super) async fn stop(mut self) -> tempfile::TempDir {
        self.stop.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
        self.directory
    }
    /// A request as administrator.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        request(&self.client, method, path, &[], body).await
    }
    pub(super) async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Value::Null).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        answer.body
    }
    pub(super) async fn create(&self, path: &str, body: Value) -> Value {
        let answer = self.ask("POST", path, body).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.body);
        answer.body
    }
    /// Asks until the answer is `right`; what runs inside the server needs a moment.
    pub(super) async fn until(&self, path: &str, right: impl Fn(&Answer) -> bool) -> Answer {
        let wait = async {
            loop {
                let answer = self.ask("GET", path, Value::Null).await;
                if right(&answer) {
                    return answer;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("the answer in time")
    }
    pub(super) async fn patch(&self, path: &str, media: &str, body: Value) -> Answer {
        request(&self.client, "PATCH", path, &[("content-type", media)], body).await
    }
}

/// A client from a kubeconfig.
pub(super) async fn client(kubeconfig: &str) -> kube::Client {
    client_at(kubeconfig, None).await
}

/// A client from a kubeconfig, for another address than it names.
async fn client_at(kubeconfig: &str, url: Option<&str>) -> kube::Client {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    // Answers are to be seen as they are.
    config.default_retry = false;
    if let Some(url) = url {
        config.cluster_url = url.parse().unwrap();
    }
    kube::Client::try_from(config).unwrap()
}

/// Any request.
pub(super) async fn request(
    client: &kube::Client,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> Answer {
    let mut request = ::http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let bytes = match body {
        Value::Null => Vec::new(),
        Value::String(raw) => raw.into_bytes(),
        body => body.to_string().into_bytes(),
    };
    let response = client.send(request.body(kube::client::Body::from(bytes)).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes: Bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
    Answer { code: parts.status.as_u16(), headers: parts.headers, body }
}

pub(super) fn pod(name: &str, node: &str, app: &str) -> Value {
    serde_json::json!({"metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "unknown"}]}})
}
