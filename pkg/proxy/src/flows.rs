//! UDP flows that lead nowhere: judged one by one from what is served now, whenever that changes.
//!
//! A flow keeps its translation as long as packets come, also when its endpoint is gone; a client with a fixed port would
//! never be heard again. Level-triggered: what an earlier look missed, the next one finds.

use crate::engine::Engine;
use crate::plan::FrontKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use warren_netlink::conntrack::Flow;
use warren_types::Protocol;
use warren_types::marks::SERVICE_MARK;

/// What is served over UDP: the endpoints that flows may lead to, and who may have flows.
#[derive(Debug, Clone, Default)]
pub struct Served {
    fronts: BTreeMap<FrontKey, Serving>,
    /// Host ports at every address of the node.
    anywhere: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

/// What flows for one front may be.
#[derive(Debug, Clone)]
struct Serving {
    /// Sorted.
    endpoints: Arc<[SocketAddr]>,
    /// Sources that may connect; none is everyone.
    sources: Option<Arc<[IpNet]>>,
}

impl Serving {
    fn allows(&self, flow: &Flow) -> bool {
        let client = flow.original.source.ip();
        let admits = |ranges: &Arc<[IpNet]>| ranges.iter().any(|range| range.contains(&client));
        self.endpoints.binary_search(&flow.reply.source).is_ok() && self.sources.as_ref().is_none_or(admits)
    }
}

impl Served {
    /// What the engine serves.
    #[must_use]
    pub fn of(engine: &Engine) -> Self {
        let (mut fronts, mut anywhere) = (BTreeMap::new(), BTreeMap::<u16, BTreeSet<SocketAddr>>::new());
        for pod in engine.attachments() {
            for port in pod.host_ports.iter().filter(|port| port.protocol == Protocol::Udp) {
                let ends = pod.addresses.iter().map(|pod| SocketAddr::new(*pod, port.container_port));
                match port.host_ip {
                    None => anywhere.entry(port.host_port).or_default().extend(ends),
                    Some(address) => {
                        let key = FrontKey { address, protocol: Protocol::Udp, port: port.host_port };
                        let endpoints = ends.collect::<BTreeSet<_>>().into_iter().collect();
                        fronts.insert(key, Serving { endpoints, sources: None });
                    }
                }
            }
        }
        for (_, plan, refused) in engine.services() {
            for front in &plan.fronts {
                if front.key.protocol == Protocol::Udp && !refused.contains(&front.key) {
                    let serving =
                        Serving { endpoints: front.serving.clone(), sources: front.sources.clone() };
                    fronts.insert(front.key, serving);
                }
            }
        }
        Self { fronts, anywhere }
    }

    /// Whether a flow must end: it is for a front and leads to none of its endpoints, or comes from where nobody may
    /// connect (any more), or it was translated for a front that is no more.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let to = flow.original.destination;
        let key = FrontKey { address: to.ip(), protocol: Protocol::Udp, port: to.port() };
        match (self.fronts.get(&key), self.anywhere.get(&to.port())) {
            (Some(serving), _) => !serving.allows(flow),
            // A flow to another host may have this port too, and is none of ours.
            (None, Some(pods)) => flow.mark & SERVICE_MARK != 0 && !pods.contains(&flow.reply.source),
            (None, None) => flow.mark & SERVICE_MARK != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_netlink::conntrack::Tuple;

    const ENDPOINT: &str = "10.42.0.2:7080";

    fn served(sources: Option<&[&str]>) -> Served {
        let key = FrontKey { address: "198.51.100.77".parse().unwrap(), protocol: Protocol::Udp, port: 80 };
        let endpoints = Arc::from([ENDPOINT.parse().unwrap()]);
        let sources = sources.map(|all| all.iter().map(|range| range.parse().unwrap()).collect());
        Served { fronts: [(key, Serving { endpoints, sources })].into(), anywhere: BTreeMap::new() }
    }

    fn flow(client: &str, end: &str) -> Flow {
        let tuple = |source: &str, destination: &str| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Flow {
            protocol: Protocol::Udp.number(),
            original: tuple(client, "198.51.100.77:80"),
            reply: tuple(end, "10.42.0.1:4000"),
            mark: SERVICE_MARK,
            zone: 0,
            reply_zone: 0,
            id: 1,
        }
    }

    #[test]
    fn a_flow_lives_while_its_endpoint_serves_and_its_client_may_connect() {
        let (inside, outside) = ("203.0.113.10:4000", "192.0.2.10:4000");
        let open = served(None);
        assert!(!open.is_stale(&flow(inside, ENDPOINT)));
        assert!(open.is_stale(&flow(inside, "10.42.0.3:7080")));
        let restricted = served(Some(&["203.0.113.0/24"]));
        assert!(!restricted.is_stale(&flow(inside, ENDPOINT)));
        assert!(restricted.is_stale(&flow(outside, ENDPOINT)));
        assert!(served(Some(&[])).is_stale(&flow(inside, ENDPOINT)), "no range of this family admits nobody");
    }
}
