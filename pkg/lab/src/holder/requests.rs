//! The requests of `warren lab`, and what answers them.

use super::lab::{ANSWER_LIMIT, Lab, Node, SERVER_NODE, locked, node_name};
use crate::LabError;
use crate::check::{self, LiveNode};
use crate::plan::addresses;
use crate::rpc::{Handler, Progress};
use crate::wire::{
    CheckReport, CheckResult, LabStatus, NodeReport, NodeRequest, NodeStatus, Place, PodSpec, PodState,
    PodStatus, Request,
};
use futures::future::{BoxFuture, join_all, try_join_all};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use warren_types::Namespace;

impl Lab {
    pub(super) async fn node_status(&self, node: &Node) -> (NodeStatus, Vec<PodStatus>) {
        let running = node.running();
        let report: Option<NodeReport> = match &running {
            Some(_) => self.ask(node, &NodeRequest::Report, ANSWER_LIMIT).await.ok(),
            None => None,
        };
        let plan = node.plan();
        let (services, mut pods) = report.map(|r| (r.services, r.pods)).unwrap_or_default();
        let status = NodeStatus {
            name: node.name.clone(),
            pid: running.map(|(_, pid)| pid),
            addresses: addresses(&plan.node),
            switch_addresses: addresses(&plan.switch),
            services,
        };
        for (name, wanted) in &locked(&node.facts).pods {
            if pods.iter().any(|p| p.name == *name) {
                continue;
            }
            let off = "its node is off".to_owned();
            pods.push(PodStatus {
                name: name.clone(),
                node: node.name.clone(),
                pid: None,
                ips: Vec::new(),
                state: PodState::Dead,
                message: if status.pid.is_none() { off } else { wanted.failure.clone() },
                labels: wanted.spec.labels.clone(),
                command: wanted.spec.command.clone(),
                container_id: String::new(),
            });
        }
        (status, pods)
    }

    pub(super) async fn status(&self) -> LabStatus {
        let nodes = self.nodes();
        let (nodes, pods): (Vec<_>, Vec<_>) =
            join_all(nodes.iter().map(|n| self.node_status(n))).await.into_iter().unzip();
        let partitions =
            locked(&self.state).partitions.iter().map(|(a, b)| (node_name(*a), node_name(*b))).collect();
        LabStatus {
            name: self.config.name.to_string(),
            topology: self.config.topology,
            families: self.config.families,
            switch_pid: self.pid,
            api_port: self.api_port,
            nodes,
            pods: pods.into_iter().flatten().collect(),
            partitions,
            outside: addresses(&self.config.outside()),
        }
    }

    pub(super) async fn check(&self, timeout_ms: u64) -> Result<CheckReport, LabError> {
        let status = self.status().await;
        let live = status.nodes.iter().filter(|n| n.pid.is_some()).map(|n| LiveNode {
            name: n.name.clone(),
            addresses: n.addresses.clone(),
            switch_addresses: n.switch_addresses.clone(),
        });
        let errands = check::errands(&live.collect::<Vec<_>>(), &status.pods, &status.outside, timeout_ms);
        let limit = Duration::from_millis(timeout_ms) * 8 + ANSWER_LIMIT;
        let asked = errands.into_iter().map(|errand| async move {
            let node = self.node(&errand.node)?;
            let request = NodeRequest::Probe { from: errand.pod, order: errand.order };
            self.ask::<Vec<CheckResult>>(&node, &request, limit).await
        });
        let results = try_join_all(asked).await?.concat();
        Ok(CheckReport { passed: results.iter().filter(|r| r.ok).count(), total: results.len(), results })
    }

    pub(super) async fn kubeconfig(&self) -> Result<String, LabError> {
        let path = self.dir.disk(&node_name(SERVER_NODE)).join("etc/warren/kubeconfig");
        let text = std::fs::read_to_string(&path).map_err(LabError::io("read the kubeconfig of node-1"))?;
        redirect(&text, self.api_port).map_err(LabError::message("the kubeconfig of node-1"))
    }

    pub(super) async fn place(&self, name: &str) -> Result<Place, LabError> {
        if name == "switch" {
            return Ok(Place { pid: self.pid, netns: None });
        }
        if name == check::OUTSIDE && self.outside.ended().is_some() {
            return Err(LabError::Refused("the outside host has stopped".into()));
        }
        if let Some(netns) = self.fabric.lock().await.place(name, self.pid) {
            return Ok(Place { pid: self.pid, netns: Some(netns) });
        }
        let status = self.status().await;
        let pods = status.pods.iter().map(|p| (&p.name, p.pid));
        let found = status.nodes.iter().map(|n| (&n.name, n.pid)).chain(pods).find(|(n, _)| *n == name);
        match found {
            Some((_, Some(pid))) => Ok(Place { pid, netns: None }),
            Some((_, None)) => Err(LabError::Refused(format!("{name} does not run"))),
            None => Err(LabError::Refused(format!(
                "{name:?} is no node or pod of this lab, nor switch, gateway, outside or router-N; \
                 `warren lab status` shows them"
            ))),
        }
    }
}

/// The kubeconfig `text` with its servers at the lab's port on the host.
fn redirect(text: &str, port: u16) -> Result<String, serde_json::Error> {
    let mut config: Value = serde_json::from_str(text)?;
    let clusters = config.get_mut("clusters").and_then(Value::as_array_mut);
    for cluster in clusters.into_iter().flatten() {
        if let Some(server) = cluster.pointer_mut("/cluster/server") {
            *server = format!("https://127.0.0.1:{port}").into();
        }
    }
    Ok(serde_json::to_string_pretty(&config)? + "\n")
}

pub(super) fn to_value(value: &impl serde::Serialize) -> Result<Value, LabError> {
    serde_json::to_value(value).map_err(LabError::message("an answer"))
}

/// Whether a pod of this name could be told from the other targets of `exec`.
fn check_pod_name(name: &str) -> Result<(), LabError> {
    warren_types::PodName::new(name).map_err(|e| LabError::Refused(e.to_string()))?;
    let fixed = matches!(name, "switch" | "gateway" | check::OUTSIDE);
    let numbered =
        ["node-", "router-"].iter().any(|p| name.strip_prefix(p).is_some_and(|n| n.parse::<u16>().is_ok()));
    if fixed || numbered {
        return Err(LabError::Refused(format!("{name} names a part of the lab; give the pod another name")));
    }
    Ok(())
}

impl Handler<Request> for Lab {
    fn handle(
        self: Arc<Self>,
        request: Request,
        progress: Progress,
    ) -> BoxFuture<'static, Result<Value, LabError>> {
        Box::pin(async move {
            match request {
                Request::Status => to_value(&self.status().await),
                Request::Run { name, node, labels, namespace, host_ports, ports, command } => {
                    check_pod_name(&name)?;
                    Namespace::new(namespace.as_str()).map_err(|e| LabError::Refused(e.to_string()))?;
                    let node = self.node(&node)?;
                    let spec = PodSpec { name, namespace, labels, host_ports, ports, command };
                    to_value(&self.run(&node, spec).await?)
                }
                Request::Rm { name } => to_value(&self.rm(&name).await?),
                Request::Kill { node, process: None } => to_value(&self.cut(&*self.node(&node)?).await?),
                Request::Kill { node, process: Some(service) } => {
                    self.ask(&*self.node(&node)?, &NodeRequest::Kill { service }, ANSWER_LIMIT).await
                }
                Request::Start { node } => to_value(&self.start(&*self.node(&node)?, &progress).await?),
                Request::Service { node, action, service } => {
                    self.ask(&*self.node(&node)?, &NodeRequest::Service { action, service }, ANSWER_LIMIT)
                        .await
                }
                Request::NodeAdd => to_value(&self.add_node(&progress).await?),
                Request::NodeRemove { node } => to_value(&self.remove_node(&*self.node(&node)?).await?),
                Request::Readdress { node } => to_value(&self.readdress(&*self.node(&node)?).await?),
                Request::Partition { a, b } => {
                    to_value(&self.partition(&*self.node(&a)?, &*self.node(&b)?).await?)
                }
                Request::Heal => {
                    locked(&self.state).partitions.clear();
                    to_value(&self.apply_partitions().await?)
                }
                Request::Check { timeout_ms } => to_value(&self.check(timeout_ms).await?),
                Request::Kubeconfig => to_value(&self.kubeconfig().await?),
                Request::Target { name } => to_value(&self.place(&name).await?),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::lab::node_index;
    use super::*;

    #[test]
    fn a_node_goes_by_name_or_number() {
        assert_eq!((node_index("node-3"), node_index("3"), node_index("web")), (Some(3), Some(3), None));
    }

    #[test]
    fn pods_cannot_take_the_names_of_other_targets() {
        for bad in ["switch", "outside", "gateway", "node-1", "router-2", "../x", "A", ""] {
            assert!(check_pod_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_pod_name("node-x").is_ok() && check_pod_name("web").is_ok());
    }

    #[test]
    fn a_kubeconfig_is_led_to_the_host() {
        let text =
            r#"{"clusters":[{"name":"w","cluster":{"server":"https://192.168.57.11:6443"}}],"users":[]}"#;
        let config: Value = serde_json::from_str(&redirect(text, 4711).unwrap()).unwrap();
        assert_eq!(
            config.pointer("/clusters/0/cluster/server"),
            Some(&Value::from("https://127.0.0.1:4711"))
        );
        assert!(redirect("no json", 1).is_err());
    }
}
