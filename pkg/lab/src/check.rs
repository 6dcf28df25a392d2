//! The connectivity check: who asks whom, and how the answer must look. Pure.

use crate::wire::{Method, PodStatus, ProbeOrder, ProbeTarget};
use std::net::IpAddr;

/// Name of the outside host.
pub(crate) const OUTSIDE: &str = "outside";

/// A node that runs.
#[derive(Debug, Clone)]
pub(crate) struct LiveNode {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// What the outside sees of it.
    pub(crate) switch_addresses: Vec<IpAddr>,
}

/// One prober's work: where it runs, and what it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Errand {
    pub(crate) node: String,
    /// The pod; none for the node itself.
    pub(crate) pod: Option<String>,
    pub(crate) order: ProbeOrder,
}

const ALL: [Method; 4] = [Method::Tcp, Method::Udp, Method::Http, Method::Icmp];

/// Every pod to every other pod, to every node and to the outside; every node to every pod.
pub(crate) fn errands(
    nodes: &[LiveNode],
    pods: &[PodStatus],
    outside: &[IpAddr],
    timeout_ms: u64,
) -> Vec<Errand> {
    let pods: Vec<&PodStatus> = pods.iter().filter(|p| p.pid.is_some()).collect();
    let to_pods = |from: &str| -> Vec<ProbeTarget> {
        let others = pods.iter().filter(|p| p.name != from);
        others.flat_map(|p| targets(&p.name, &p.ips, methods(p), &[])).collect()
    };
    let mut errands = Vec::new();
    for node in nodes {
        let errand = |pod: Option<&str>, targets: Vec<ProbeTarget>| Errand {
            node: node.name.clone(),
            pod: pod.map(str::to_owned),
            order: ProbeOrder { source: pod.unwrap_or(&node.name).to_owned(), timeout_ms, targets },
        };
        errands.push(errand(None, to_pods("")));
        for pod in pods.iter().filter(|p| p.node == node.name) {
            let mut all = to_pods(&pod.name);
            for other in nodes {
                all.extend(targets(&other.name, &other.addresses, &ALL, &[]));
            }
            all.extend(targets(OUTSIDE, outside, &ALL, &node.switch_addresses));
            // A pod of one family is asked in that family alone.
            all.retain(|t| pod.ips.iter().any(|ip| ip.is_ipv4() == t.address.is_ipv4()));
            errands.push(errand(Some(&pod.name), all));
        }
    }
    errands
}

/// A pod with a program of the user's answers to ping, for all that the lab knows.
fn methods(pod: &PodStatus) -> &'static [Method] {
    if pod.command.is_empty() { &ALL } else { &[Method::Icmp] }
}

fn targets(name: &str, addresses: &[IpAddr], methods: &[Method], seen_as: &[IpAddr]) -> Vec<ProbeTarget> {
    let one = |address: IpAddr, method: Method| ProbeTarget {
        name: name.to_owned(),
        address,
        method,
        seen_as: seen_as.iter().copied().filter(|a| a.is_ipv4() == address.is_ipv4()).collect(),
    };
    addresses.iter().flat_map(|a| methods.iter().map(move |m| one(*a, *m))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PodState;
    use std::collections::BTreeMap;

    fn pod(name: &str, node: &str, ip: &str) -> PodStatus {
        PodStatus {
            name: name.into(),
            node: node.into(),
            pid: Some(1),
            ips: vec![ip.parse().unwrap()],
            state: PodState::Running,
            message: String::new(),
            labels: BTreeMap::new(),
            command: Vec::new(),
            container_id: String::new(),
        }
    }

    fn node(name: &str, ip: &str) -> LiveNode {
        let addresses: Vec<IpAddr> = vec![ip.parse().unwrap()];
        LiveNode { name: name.into(), switch_addresses: addresses.clone(), addresses }
    }

    #[test]
    fn everybody_asks_everybody_else_in_every_way() {
        let nodes = [node("node-1", "192.168.57.11"), node("node-2", "192.168.57.12")];
        let pods = [pod("a", "node-1", "10.42.0.2"), pod("b", "node-2", "10.42.1.2")];
        let all = errands(&nodes, &pods, &["203.0.113.10".parse().unwrap()], 1000);
        let sources: Vec<&str> = all.iter().map(|e| e.order.source.as_str()).collect();
        assert_eq!(sources, ["node-1", "a", "node-2", "b"]);
        // Two pods from a node; one pod, two nodes and the outside from a pod.
        let counts: Vec<usize> = all.iter().map(|e| e.order.targets.len()).collect();
        assert_eq!(counts, [8, 16, 8, 16]);
        let out = all[1].order.targets.iter().find(|t| t.name == OUTSIDE).unwrap();
        assert_eq!(out.seen_as, nodes[0].addresses);
    }

    #[test]
    fn pods_that_do_not_run_are_neither_asked_nor_asking() {
        let mut dead = pod("a", "node-1", "10.42.0.2");
        dead.pid = None;
        let all = errands(&[node("node-1", "192.168.57.11")], &[dead], &[], 1000);
        assert_eq!(all.len(), 1);
        assert!(all[0].order.targets.is_empty());
    }
}
