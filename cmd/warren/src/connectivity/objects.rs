//! What a run needs of the API, made and taken away.

use crate::api::{self, Api};
use anyhow::{Context as _, bail};
use http::{Method, header};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;
use warren_types::cluster::CONFIG_MAP_NAMESPACE;
use warren_types::connectivity::{
    CONFIG_MAP_NAME, ConnectivityRun, LABEL_NODE, LABEL_ROLE, NAMESPACE, RUN_KEY, answerer, asker,
    ingress_host,
};
use warren_types::ingress::INGRESS_CLASS_NAME;

/// Marks what a run has made: nothing else is ever taken away.
const LABEL_MADE: &str = "app.kubernetes.io/managed-by";
const MADE: &str = "warren-connectivity";
/// Name of the Ingress and of the policy.
const NAME: &str = "connectivity";
/// Ports of the pods that answer: of the echo, and of the echo over HTTP.
const ECHO: u16 = 8080;
const HTTP: u16 = 8081;
/// Longest wait for the API to do what it was told: pods that are taken away, a namespace that ends.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// Kinds of which a run makes objects, as paths before and after the namespace; pods last, which agents take away too.
const KINDS: [(&str, &str); 5] = [
    ("/apis/networking.k8s.io/v1", "networkpolicies"),
    ("/apis/networking.k8s.io/v1", "ingresses"),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
    ("/api/v1", "services"),
    ("/api/v1", "pods"),
];

/// The API as a run sees it.
pub(super) struct Cluster<'a> {
    api: &'a Api,
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": NAMESPACE, "labels": { LABEL_MADE: MADE } })
}

fn path((group, plural): (&str, &str)) -> String {
    format!("{group}/namespaces/{NAMESPACE}/{plural}")
}

fn run_path() -> String {
    format!("/api/v1/namespaces/{CONFIG_MAP_NAMESPACE}/configmaps")
}

fn none_if_missing<T>(result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if api::is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl<'a> Cluster<'a> {
    pub(super) fn new(api: &'a Api) -> Self {
        Self { api }
    }

    pub(super) fn api(&self) -> &Api {
        self.api
    }

    async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        none_if_missing(self.api.json(Method::GET, path, &[], Vec::new()).await)
    }

    async fn delete(&self, path: &str) -> anyhow::Result<()> {
        none_if_missing(self.api.send(Method::DELETE, path, &[], Vec::new()).await).map(drop)
    }

    async fn apply(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let path = format!(
            "{path}/{}?fieldManager=warren&force=true",
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        let media = [(header::CONTENT_TYPE, "application/apply-patch+yaml")];
        let what = || format!("make {} {}", object["kind"], object["metadata"]["name"]);
        self.api.json(Method::PATCH, &path, &media, object.to_string().into_bytes()).await.with_context(what)
    }

    /// Takes away what a run has made, this one or one before.
    pub(super) async fn sweep(&self) -> anyhow::Result<()> {
        // Agents take their pods away when the run is gone.
        self.delete(&format!("{}/{CONFIG_MAP_NAME}", run_path())).await?;
        let namespace = format!("/api/v1/namespaces/{NAMESPACE}");
        let Some(found) = self.get(&namespace).await? else { return Ok(()) };
        for kind in KINDS {
            let list = self.get(&format!("{}?labelSelector={LABEL_MADE}%3D{MADE}", path(kind))).await?;
            for object in list.iter().flat_map(|l| l["items"].as_array()).flatten() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                self.delete(&format!("{}/{name}", path(kind))).await?;
            }
        }
        let end = Instant::now() + PATIENCE;
        while self.has_pods().await? {
            if Instant::now() >= end {
                bail!(
                    "pods of the namespace {NAMESPACE} did not go within {} s; see `warren status` on their nodes",
                    PATIENCE.as_secs()
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
        // One that somebody else made stays.
        if found["metadata"]["labels"][LABEL_MADE] == MADE {
            self.delete(&namespace).await?;
        }
        Ok(())
    }

    async fn has_pods(&self) -> anyhow::Result<bool> {
        let list =
            self.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={LABEL_ROLE}")).await?;
        Ok(list.is_some_and(|l| l["items"].as_array().is_some_and(|items| !items.is_empty())))
    }

    /// Makes the namespace, once the one of a run before has ended.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}");
        let end = Instant::now() + PATIENCE;
        loop {
            match self.get(&path).await? {
                None => break,
                Some(found) if found["metadata"]["deletionTimestamp"].is_null() => return Ok(()),
                Some(_) if Instant::now() >= end => {
                    bail!(
                        "the namespace {NAMESPACE} of an earlier run does not end; see `warren get namespaces`"
                    )
                }
                Some(_) => tokio::time::sleep(AGAIN).await,
            }
        }
        let object = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": { LABEL_MADE: MADE } } });
        self.apply("/api/v1/namespaces", &object).await.map(drop)
    }

    /// Tells the agents how far the run is.
    pub(super) async fn say(&self, run: &ConnectivityRun) -> anyhow::Result<()> {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": CONFIG_MAP_NAME, "namespace": CONFIG_MAP_NAMESPACE, "labels": { LABEL_MADE: MADE } },
            "data": { RUN_KEY: serde_json::to_string(run)? } });
        self.apply(&run_path(), &object).await.map(drop)
    }

    /// The ConfigMap with the answers.
    pub(super) async fn answers(&self, id: &str) -> anyhow::Result<Value> {
        let map = self.get(&format!("{}/{CONFIG_MAP_NAME}", run_path())).await?.unwrap_or_default();
        let run: Value =
            serde_json::from_str(map["data"][RUN_KEY].as_str().unwrap_or("{}")).unwrap_or_default();
        if run["id"] != id {
            bail!("another run has taken the place of this one");
        }
        Ok(map)
    }

    /// Objects of the pods of a node on which a kubelet makes all others. A gate keeps every scheduler, and so every kubelet,
    /// away from them: the node's agent attaches them, and policies find their labels here.
    pub(super) async fn make_pods(&self, number: usize) -> anyhow::Result<()> {
        for (name, role) in [(asker(number), "ask"), (answerer(number), "answer")] {
            let mut metadata = metadata(&name);
            metadata["labels"][LABEL_ROLE] = role.into();
            metadata["labels"][LABEL_NODE] = number.to_string().into();
            let object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {
                "schedulingGates": [{ "name": "warren.dev/connectivity" }], "automountServiceAccountToken": false,
                "containers": [{ "name": "main", "image": "none.invalid/none" }] } });
            let end = Instant::now() + PATIENCE;
            // A new namespace takes no pods before it has its service account.
            while let Err(error) = self.apply(&path(KINDS[4]), &object).await {
                let early =
                    error.chain().any(|e| e.downcast_ref::<api::Refused>().is_some_and(|r| r.code == 403));
                if !early || Instant::now() >= end {
                    return Err(error);
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    /// A Service for each pod that answers, with its endpoints, and an Ingress for all; tells the run where they are.
    pub(super) async fn make_services(&self, run: &mut ConnectivityRun) -> anyhow::Result<()> {
        let mut rules = Vec::new();
        for (number, (node, target)) in run.targets.iter_mut().enumerate() {
            if target.pod.is_empty() {
                continue;
            }
            let name = answerer(number);
            let port = |name: &str, port: u16, target: u16| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
            let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata(&name), "spec": {
                "type": "NodePort", "ipFamilyPolicy": "PreferDualStack",
                "ports": [port("echo", ECHO, ECHO), port("http", 80, HTTP)] } });
            let made = self.apply(&path(KINDS[3]), &service).await?;
            let ips = made["spec"]["clusterIPs"].as_array().into_iter().flatten();
            target.service = ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
            let node_port = made["spec"]["ports"][0]["nodePort"].as_u64();
            target.node_port = node_port.and_then(|p| u16::try_from(p).ok());
            for ip in &target.pod {
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let mut metadata = metadata(&format!("{name}-{}", family.to_lowercase()));
                metadata["labels"]["kubernetes.io/service-name"] = name.clone().into();
                metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = MADE.into();
                let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
                    "addressType": family,
                    "endpoints": [{ "addresses": [ip], "conditions": { "ready": true }, "nodeName": node }],
                    "ports": [{ "name": "echo", "port": ECHO, "protocol": "TCP" }, { "name": "http", "port": HTTP, "protocol": "TCP" }] });
                self.apply(&path(KINDS[2]), &slice).await?;
            }
            let backend = json!({ "service": { "name": name, "port": { "name": "http" } } });
            rules.push(json!({ "host": ingress_host(number),
                "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } }));
        }
        if rules.is_empty() {
            return Ok(());
        }
        let ingress = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata(NAME),
            "spec": { "ingressClassName": INGRESS_CLASS_NAME, "rules": rules } });
        self.apply(&path(KINDS[1]), &ingress).await.map(drop)
    }

    /// Allows the pods that ask the port of the echo, and nobody anything else.
    pub(super) async fn make_policy(&self, askers: &[IpAddr]) -> anyhow::Result<()> {
        let block = |ip: &IpAddr| json!({ "ipBlock": { "cidr": format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }) } });
        let from: Vec<Value> = askers.iter().map(block).collect();
        let rule = json!({ "from": from, "ports": [{ "port": ECHO, "protocol": "TCP" }, { "port": ECHO, "protocol": "UDP" }] });
        // No peers would be all peers.
        let rules = if askers.is_empty() { json!([]) } else { json!([rule]) };
        let policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(NAME),
            "spec": { "podSelector": { "matchLabels": { LABEL_ROLE: "answer" } }, "policyTypes": ["Ingress"], "ingress": rules } });
        self.apply(&path(KINDS[0]), &policy).await.map(drop)
    }
}
