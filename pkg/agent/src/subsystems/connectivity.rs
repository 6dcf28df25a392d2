//! Starts `warren_connectivity`, and attaches its pods by the same socket as container runtimes do.

use super::Shared;
use crate::supervisor::SubsystemError;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_cni::plugin;
use warren_cni::spec::Call;
use warren_connectivity::{BoxFuture, Deps, Facts, Node, PodRequest};
use warren_netlink::NetNs;
use warren_types::{HealthCell, NodeName, defaults};

/// The link of a pod, in its own namespace.
const IF_NAME: &str = warren_connectivity::runner::LINK;

/// Takes part in runs of `warren connectivity`.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let deps = Deps {
        node_name: shared.config.node_name.clone(),
        node: Arc::new(Lender(shared.clone())),
        netlink: shared.netlink.clone(),
        store: shared.store.clone(),
    };
    Ok(warren_connectivity::run(deps, health, stop).await?)
}

/// The agent as the probe pods need it.
struct Lender(Shared);

impl Lender {
    async fn call(&self, verb: &str, pod: &PodRequest, netns: String) -> Result<Value, String> {
        let run_dir = &self.0.config.run_dir;
        let at = |name: &str| -> PathBuf { run_dir.join(name) };
        let labels: Vec<Value> = pod.labels.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
        let mut config: Value = serde_json::from_str(&warren_cni::conflist(
            super::cni::NETWORK,
            &at(defaults::CNI_SOCKET),
            &at(defaults::CNI_DEL_QUEUE),
        ))
        .map_err(|e| e.to_string())?;
        let mut own = config["plugins"][0].take();
        for key in ["name", "cniVersion"] {
            own[key] = config[key].take();
        }
        own["args"] = json!({"cni": {"labels": labels}});
        let call = Call {
            command: verb.into(),
            container_id: pod.container_id.clone(),
            if_name: IF_NAME.into(),
            netns,
            args: format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={}", pod.namespace, pod.name),
            config: own.to_string(),
        };
        let reply =
            tokio::task::spawn_blocking(move || plugin::run(&call)).await.map_err(|e| e.to_string())?;
        let said: Value = serde_json::from_str(&reply.stdout).unwrap_or_default();
        if reply.exit == 0 {
            return Ok(said);
        }
        let words: Vec<&str> = ["msg", "details"].iter().filter_map(|key| said[*key].as_str()).collect();
        Err(words.join(": "))
    }
}

impl Node for Lender {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRequest,
        ns: &'a NetNs,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(async move {
            let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
            let result = self.call("ADD", pod, path).await?;
            let ips = result["ips"].as_array().into_iter().flatten();
            let text = ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
            Ok(text.collect())
        })
    }

    fn detach<'a>(&'a self, container_id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let pod = PodRequest {
                container_id: container_id.into(),
                name: container_id.into(),
                namespace: warren_types::connectivity::NAMESPACE,
                labels: [].into(),
            };
            self.call("DEL", &pod, String::new()).await.map(drop)
        })
    }

    fn facts(&self) -> Facts {
        let Self(shared) = self;
        let dns = shared.config.dns.is_some().then(|| shared.dns.get()).flatten();
        // A tunnel may take another way at any moment, so all ways to a node count.
        let mut endpoints: BTreeMap<NodeName, BTreeSet<SocketAddr>> = BTreeMap::new();
        for node in shared.store.table::<warren_types::Node>().snapshot().rows.values() {
            endpoints.entry(node.name.clone()).or_default().extend(&node.endpoints);
        }
        for peer in shared.overlay.get().peers {
            endpoints.entry(peer.node).or_default().extend(peer.endpoint);
        }
        Facts {
            registers: shared.config.register_node,
            ingress_port: shared.config.ingress.as_ref().map(|ingress| ingress.http_port),
            offline: dns.as_ref().is_some_and(|dns| dns.forward.offline),
            domain: dns
                .as_ref()
                .map_or_else(|| defaults::CLUSTER_DOMAIN.to_owned(), |dns| dns.domain.clone()),
            dns: dns.map(|dns| dns.addresses.into_iter().collect()).unwrap_or_default(),
            endpoints,
        }
    }
}
