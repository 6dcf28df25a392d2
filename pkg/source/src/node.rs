//! The own Node: annotations, and where the agent registers it, the whole object.

use crate::backoff::Backoff;
use crate::client::chain;
use crate::observed::{OwnNode, Seen};
use crate::{Object, SourceConfig, SourceError, SourceStatus, resource, status_code};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_store::tables::ONLY;
use warren_store::{Store, Table};
use warren_types::ingress::ANNOTATION_INGRESS;
use warren_types::node::{
    ANNOTATION_ENDPOINTS, ANNOTATION_NODE_ID, ANNOTATION_OBSERVED, ANNOTATION_PUBLIC_KEY,
    ANNOTATION_SERVED_ADDRESSES,
};
use warren_types::service::ANNOTATION_HELD_PORTS;
use warren_types::{HeldPort, LocalNode, Node, NodeName, PeerEndpoint, PublicKey};

/// Even without a change the own Node is looked at this often.
const RESYNC: Duration = Duration::from_secs(60);
/// The same write is not repeated within this time: the watch needs a moment to show it.
const SETTLE: Duration = Duration::from_secs(3);

/// What has to be written, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    create: Option<Value>,
    metadata: Option<Value>,
    status: Option<Value>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.create.is_none() && self.metadata.is_none() && self.status.is_none()
    }
}

/// The nodes that are heard from an endpoint which they do not publish, as [`ANNOTATION_OBSERVED`] has it: a NAT hides
/// them, and nobody but who hears them can tell others where to call.
pub(crate) fn hidden<'a>(nodes: impl Iterator<Item = &'a Node>, heard: &[PeerEndpoint]) -> String {
    let heard: BTreeMap<PublicKey, SocketAddr> = heard.iter().map(|p| (p.public_key, p.endpoint)).collect();
    let entry = |node: &Node| {
        let at = heard.get(&node.public_key?).filter(|at| !node.endpoints.contains(at))?;
        Some(format!("{}={at}", node.name))
    };
    nodes.filter_map(entry).collect::<Vec<_>>().join(",")
}

/// Ports as [`ANNOTATION_HELD_PORTS`] has them. A holder's name may hold anything: what would end the entry is replaced.
fn held(ports: &[HeldPort]) -> String {
    let entry = |p: &HeldPort| {
        let holder = p.holder.chars().take(64).map(|c| if c == ',' || c.is_control() { '_' } else { c });
        format!("{}/{}={}", p.protocol, p.port, holder.collect::<String>())
    };
    ports.iter().map(entry).collect::<Vec<_>>().join(",")
}

/// What differs between what this node says of itself and what the API holds. `hidden`: see [`hidden`]. `now` is
/// RFC 3339, for the condition.
pub(crate) fn plan(
    local: &LocalNode,
    hidden: &str,
    observed: Option<&Object>,
    register: bool,
    now: &str,
) -> Plan {
    let endpoints = local.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut annotations = json!({
        ANNOTATION_PUBLIC_KEY: local.public_key.to_string(),
        ANNOTATION_ENDPOINTS: endpoints,
        ANNOTATION_NODE_ID: local.node_id.as_str(),
    });
    let shown = |key| observed.is_some_and(|o| o.metadata.annotations.iter().any(|a| a.contains_key(key)));
    let held = held(&local.held_ports);
    let ingress = local.ingress.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let served = local.served_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let told = [
        (ANNOTATION_OBSERVED, hidden),
        (ANNOTATION_HELD_PORTS, &held),
        (ANNOTATION_INGRESS, &ingress),
        (ANNOTATION_SERVED_ADDRESSES, &served),
    ];
    for (key, value) in told {
        if !value.is_empty() {
            annotations[key] = value.into();
        } else if shown(key) {
            annotations[key] = Value::Null; // A merge patch removes it.
        }
    }
    let labels = json!({
        "kubernetes.io/hostname": local.name.as_str(),
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": kubernetes_arch(std::env::consts::ARCH),
    });
    let mut out = Plan::default();
    let metadata = observed.map(|o| serde_json::to_value(&o.metadata).unwrap_or_default());
    match &metadata {
        None if !register => return out,
        None => {
            out.create = Some(json!({"apiVersion": "v1", "kind": "Node", "spec": {},
                "metadata": {"name": local.name.as_str(), "labels": labels, "annotations": annotations}}));
        }
        Some(have) => {
            let mut patch = serde_json::Map::new();
            if let Some(d) = difference(&annotations, have.get("annotations")) {
                patch.insert("annotations".into(), d);
            }
            if register && let Some(d) = difference(&labels, have.get("labels")) {
                patch.insert("labels".into(), d);
            }
            if !patch.is_empty() {
                out.metadata = Some(json!({ "metadata": patch }));
            }
        }
    }
    if register {
        out.status = status(local, observed.map(|o| &o.data), now);
    }
    out
}

/// The entries of `want` that `have` lacks or has otherwise.
fn difference(want: &Value, have: Option<&Value>) -> Option<Value> {
    let missing: serde_json::Map<String, Value> = want
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| have.and_then(|h| h.get(k.as_str())) != Some(v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    (!missing.is_empty()).then(|| Value::Object(missing))
}

fn status(local: &LocalNode, observed: Option<&Value>, now: &str) -> Option<Value> {
    let mut addresses: Vec<Value> = local
        .internal_ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": local.name.as_str()}));
    let truth = if local.ready { "True" } else { "False" };
    let (reason, message) = if local.ready {
        ("AgentReady", "pods can be attached")
    } else {
        ("AgentNotReady", local.message.as_str())
    };
    let had = observed.and_then(|d| d.pointer("/status/conditions")).and_then(Value::as_array);
    let ready = had.into_iter().flatten().find(|c| c["type"] == "Ready");
    let info = node_info(local);
    let same = ready
        .is_some_and(|c| c["status"] == truth && c["reason"] == reason && c["message"] == message)
        && observed.and_then(|d| d.pointer("/status/addresses")) == Some(&Value::Array(addresses.clone()))
        && observed.and_then(|d| d.pointer("/status/nodeInfo/kubeletVersion")) == info.get("kubeletVersion");
    if same {
        return None;
    }
    let since =
        ready.filter(|c| c["status"] == truth).and_then(|c| c["lastTransitionTime"].as_str()).unwrap_or(now);
    let mut conditions: Vec<Value> =
        had.into_iter().flatten().filter(|c| c["type"] != "Ready").cloned().collect();
    conditions.push(json!({"type": "Ready", "status": truth, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": since}));
    Some(json!({"status": {"addresses": addresses, "conditions": conditions, "nodeInfo": info}}))
}

fn node_info(local: &LocalNode) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "architecture": kubernetes_arch(std::env::consts::ARCH), "operatingSystem": "linux",
        "kernelVersion": kernel.trim(), "osImage": "Linux", "containerRuntimeVersion": "cni://1.1.0",
        "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+warren"), "kubeProxyVersion": "",
        "machineID": local.node_id.as_str(), "systemUUID": local.node_id.as_str(), "bootID": "",
    })
}

fn kubernetes_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Brings table `local_node` to the own Node.
pub(crate) struct Publisher {
    name: NodeName,
    register: bool,
    api: Api<Object>,
    table: Table<LocalNode>,
    nodes: Table<Node>,
    heard: Table<PeerEndpoint>,
    seen: tokio::sync::watch::Receiver<Seen>,
    status: SourceStatus,
}

impl Publisher {
    pub(crate) fn new(
        config: &SourceConfig,
        client: kube::Client,
        store: &Store,
        own: Arc<OwnNode>,
        status: SourceStatus,
    ) -> Self {
        Self {
            name: config.node_name.clone(),
            register: config.register_node,
            api: Api::all_with(client, &resource::<k8s_openapi::api::core::v1::Node>()),
            table: store.table(),
            nodes: store.table(),
            heard: store.table(),
            seen: own.subscribe(),
            status,
        }
    }

    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let object = format!("Node {}", self.name);
        let (mut local, mut heard) = (self.table.watch(), self.heard.watch());
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut last: Option<(Plan, Instant)> = None;
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = self.seen.changed() => if changed.is_err() { return Ok(()) },
                update = local.next() => if update.is_none() { return Err(warren_store::StoreError::Closed.into()) },
                update = heard.next() => if update.is_none() { return Err(warren_store::StoreError::Closed.into()) },
                () = tokio::time::sleep(wait) => {}
            }
            wait = RESYNC;
            let seen = self.seen.borrow_and_update().clone();
            let Some(row) = self.table.get(ONLY).filter(|_| seen.synced) else { continue };
            let plan = plan(&row, &self.hidden(), seen.object.as_deref(), self.register, &now());
            if plan.is_empty() {
                self.status.write_result(&object, None);
                backoff.reset();
                continue;
            }
            if let Some((before, at)) = &last
                && repeats(&plan, before)
                && at.elapsed() < SETTLE
            {
                wait = SETTLE;
                continue;
            }
            match self.write(&plan).await {
                Ok(()) => {
                    tracing::debug!(%object, ?plan, "published");
                    self.status.write_result(&object, None);
                    backoff.reset();
                    last = Some((plan, Instant::now()));
                    wait = SETTLE;
                }
                Err(error) => {
                    wait = backoff.next_wait();
                    last = None;
                    tracing::debug!(%object, error = %chain(&error), ?wait, "publishing failed");
                    if status_code(&error).is_some() {
                        self.status.write_result(&object, Some(chain(&error)));
                    }
                }
            }
        }
    }

    fn hidden(&self) -> String {
        let (nodes, heard) = (self.nodes.snapshot().rows, self.heard.snapshot().rows);
        let heard: Vec<PeerEndpoint> = heard.iter().map(|(_, row)| PeerEndpoint::clone(row)).collect();
        hidden(nodes.iter().map(|(_, row)| &**row), &heard)
    }

    async fn write(&self, plan: &Plan) -> Result<(), kube::Error> {
        let name = self.name.as_str();
        if let Some(body) = &plan.create {
            let object: Object = serde_json::from_value(body.clone()).map_err(kube::Error::SerdeError)?;
            match self.api.create(&PostParams::default(), &object).await {
                Ok(_) => tracing::info!(node = name, "registered this node"),
                Err(e) if status_code(&e) == Some(409) => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(patch) = &plan.metadata {
            self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        if let Some(patch) = &plan.status {
            self.api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }
}

/// Whether `plan` asks only for what `before` has just written: the watch has not shown it yet.
fn repeats(plan: &Plan, before: &Plan) -> bool {
    (plan.create.is_none() || plan.create == before.create)
        && (plan.metadata.is_none() || plan.metadata == before.metadata)
        && (plan.status.is_none() || same_status(plan, before))
}

/// Whether two plans say the same of the status, times aside.
fn same_status(a: &Plan, b: &Plan) -> bool {
    let pick = |p: &Plan| {
        p.status.as_ref().map(|s| {
            let ready =
                s["status"]["conditions"].as_array().and_then(|c| c.iter().find(|c| c["type"] == "Ready"));
            (s["status"]["addresses"].clone(), ready.map(|c| (c["status"].clone(), c["message"].clone())))
        })
    };
    pick(a) == pick(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_types::{NodeId, Protocol, PublicKey};

    fn local() -> LocalNode {
        LocalNode {
            name: NodeName::new("n1").unwrap(),
            node_id: NodeId::new("0123456789abcdef0123456789abcdef").unwrap(),
            public_key: PublicKey([7; 32]),
            endpoints: vec!["192.0.2.1:51840".parse().unwrap()],
            held_ports: Vec::new(),
            ingress: Vec::new(),
            internal_ips: vec!["192.0.2.1".parse().unwrap()],
            served_ips: Vec::new(),
            ready: true,
            message: String::new(),
        }
    }

    /// What the API would hold after `plan`.
    fn applied(plan: &Plan) -> Object {
        let mut v = plan.create.clone().unwrap();
        v["status"] = plan.status.as_ref().unwrap()["status"].clone();
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn a_missing_node_is_created_only_by_who_registers() {
        assert!(plan(&local(), "", None, false, "t").is_empty());
        let p = plan(&local(), "", None, true, "t");
        assert!(p.create.is_some() && p.status.is_some());
    }

    #[test]
    fn what_matches_is_not_written_again() {
        let object = applied(&plan(&local(), "", None, true, "t"));
        assert!(plan(&local(), "", Some(&object), true, "later").is_empty());
        assert!(plan(&local(), "", Some(&object), false, "later").is_empty());
    }

    #[test]
    fn only_the_difference_is_written_and_foreign_conditions_stay() {
        let mut object = applied(&plan(&local(), "", None, true, "t"));
        object.data["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "NetworkUnavailable", "status": "False"}));
        let mut changed = local();
        changed.endpoints = vec!["192.0.2.9:51840".parse().unwrap()];
        changed.ready = false;
        changed.message = "no podCIDR".into();
        let p = plan(&changed, "", Some(&object), true, "later");
        assert_eq!(
            p.metadata,
            Some(json!({"metadata": {"annotations": {"warren.dev/endpoints": "192.0.2.9:51840"}}}))
        );
        let conditions = &p.status.unwrap()["status"]["conditions"];
        assert_eq!(conditions[0]["type"], "NetworkUnavailable");
        assert_eq!(
            (&conditions[1]["status"], &conditions[1]["message"]),
            (&json!("False"), &json!("no podCIDR"))
        );
        assert_eq!(plan(&changed, "", Some(&object), false, "later").status, None);
    }

    #[test]
    fn who_is_behind_a_nat_is_told_to_others_and_taken_back() {
        let object = applied(&plan(&local(), "", None, true, "t"));
        let told = plan(&local(), "n2=198.51.100.7:4711", Some(&object), true, "t").metadata.unwrap();
        assert_eq!(
            told,
            json!({"metadata": {"annotations": {"warren.dev/observed": "n2=198.51.100.7:4711"}}})
        );
        let told = applied(&plan(&local(), "n2=198.51.100.7:4711", None, true, "t"));
        assert!(plan(&local(), "n2=198.51.100.7:4711", Some(&told), true, "t").is_empty());
        let back = plan(&local(), "", Some(&told), true, "t").metadata.unwrap();
        assert_eq!(back, json!({"metadata": {"annotations": {"warren.dev/observed": null}}}));
    }

    #[test]
    fn held_ports_are_told_read_back_and_taken_back() {
        let mut holding = local();
        let port = |protocol, port, holder: &str| HeldPort { protocol, port, holder: holder.to_owned() };
        holding.held_ports = vec![port(Protocol::Tcp, 80, "nginx: a=b, c"), port(Protocol::Udp, 53, "")];
        let told = applied(&plan(&holding, "", None, true, "t"));
        let row = crate::convert::node(&told.metadata, &told.data);
        assert_eq!(row.refused, []);
        let read = row.row.unwrap().held_ports;
        assert_eq!(read, [port(Protocol::Tcp, 80, "nginx: a=b_ c"), port(Protocol::Udp, 53, "")]);
        assert!(plan(&holding, "", Some(&told), true, "t").is_empty());
        let back = plan(&local(), "", Some(&told), true, "t").metadata.unwrap();
        assert_eq!(back, json!({"metadata": {"annotations": {"warren.dev/held-ports": null}}}));
    }

    #[test]
    fn ports_of_ingress_are_told_read_back_and_taken_back() {
        let mut serving = local();
        serving.ingress = vec![80, 443];
        let told = applied(&plan(&serving, "", None, true, "t"));
        assert_eq!(told.metadata.annotations.as_ref().unwrap()["warren.dev/ingress"], "80,443");
        let row = crate::convert::node(&told.metadata, &told.data);
        assert_eq!((row.refused, row.row.unwrap().ingress), (vec![], vec![80, 443]));
        assert!(plan(&serving, "", Some(&told), true, "t").is_empty());
        let back = plan(&local(), "", Some(&told), true, "t").metadata.unwrap();
        assert_eq!(back, json!({"metadata": {"annotations": {"warren.dev/ingress": null}}}));
    }

    #[test]
    fn addresses_that_serve_are_told_read_back_and_taken_back() {
        let mut serving = local();
        serving.served_ips = vec!["192.0.2.77".parse().unwrap(), "2001:db8::77".parse().unwrap()];
        let mut told = applied(&plan(&serving, "", None, true, "t"));
        let row = crate::convert::node(&told.metadata, &told.data);
        assert_eq!((row.refused, row.row.unwrap().served_ips), (vec![], serving.served_ips.clone()));
        assert!(plan(&serving, "", Some(&told), true, "t").is_empty());
        let back = plan(&local(), "", Some(&told), true, "t").metadata.unwrap();
        assert_eq!(back, json!({"metadata": {"annotations": {"warren.dev/served-addresses": null}}}));
        let hostile = "127.0.0.1,192.0.2.77,x,::,192.0.2.77".to_owned();
        told.metadata.annotations.as_mut().unwrap().insert(ANNOTATION_SERVED_ADDRESSES.into(), hostile);
        let row = crate::convert::node(&told.metadata, &told.data);
        assert_eq!(
            (row.refused.len(), row.row.unwrap().served_ips),
            (3, vec!["192.0.2.77".parse().unwrap()])
        );
    }

    #[test]
    fn only_endpoints_that_are_not_published_are_told() {
        let node = |name: &str, key: u8| Node {
            name: NodeName::new(name).unwrap(),
            uid: String::new(),
            node_id: None,
            public_key: Some(PublicKey([key; 32])),
            endpoints: vec!["10.0.0.2:51840".parse().unwrap()],
            observed: BTreeMap::new(),
            held_ports: Vec::new(),
            ingress: Vec::new(),
            internal_ips: vec![],
            served_ips: Vec::new(),
            pod_cidrs: Default::default(),
            labels: BTreeMap::new(),
            ready: true,
        };
        let heard = [(1, "10.0.0.2:51840"), (2, "198.51.100.7:1"), (3, "198.51.100.8:1")].map(|(key, at)| {
            PeerEndpoint { public_key: PublicKey([key; 32]), endpoint: at.parse().unwrap() }
        });
        let nodes = [node("open", 1), node("behind", 2), Node { public_key: None, ..node("keyless", 9) }];
        assert_eq!(hidden(nodes.iter(), &heard), "behind=198.51.100.7:1");
    }
}
