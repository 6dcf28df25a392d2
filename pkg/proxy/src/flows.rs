//! UDP flows that lead nowhere: judged one by one from what is served now, whenever that changes.
//!
//! A flow keeps its translation as long as packets come, also when its endpoint is gone; a client with a fixed port would
//! never be heard again. Level-triggered: what an earlier look missed, the next one finds.

use crate::engine::Engine;
use crate::plan::FrontKey;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use warren_netlink::conntrack::Flow;
use warren_types::Protocol;
use warren_types::marks::SERVICE_MARK;

/// What is served over UDP: the endpoints that flows may lead to.
#[derive(Debug, Clone, Default)]
pub struct Served {
    fronts: BTreeMap<FrontKey, Arc<BTreeSet<SocketAddr>>>,
    /// Host ports at every address of the node.
    anywhere: BTreeMap<u16, BTreeSet<SocketAddr>>,
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
                        fronts.insert(key, Arc::new(ends.collect()));
                    }
                }
            }
        }
        for (_, plan, refused) in engine.services() {
            for front in &plan.fronts {
                if front.key.protocol == Protocol::Udp && !refused.contains(&front.key) {
                    fronts.insert(front.key, front.serving.clone());
                }
            }
        }
        Self { fronts, anywhere }
    }

    /// Whether a flow must end: it is for a front and leads to none of its endpoints, or it was translated for a front
    /// that is no more.
    #[must_use]
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let to = flow.original.destination;
        let key = FrontKey { address: to.ip(), protocol: Protocol::Udp, port: to.port() };
        let end = flow.reply.source;
        match (self.fronts.get(&key), self.anywhere.get(&to.port())) {
            (Some(serving), _) => !serving.contains(&end),
            // A flow to another host may have this port too, and is none of ours.
            (None, Some(pods)) => flow.mark & SERVICE_MARK != 0 && !pods.contains(&end),
            (None, None) => flow.mark & SERVICE_MARK != 0,
        }
    }
}
