//! Ports of this node that lead to one of its pods (`hostPort`).

use crate::elements::{Elements, SharedSet};
use crate::names::{Names, end_bytes, front_bytes, port_bytes};
use crate::node::NodeContext;
use crate::plan::FrontKey;
use std::net::IpAddr;
use warren_netlink::nft::model::{Element, Value};
use warren_types::{Attachment, AttachmentPhase, HostPort};

/// The elements for the host ports of these attachments, and the pods that may reach themselves through one. Of two pods
/// that want one port, the first by key gets it.
#[must_use]
pub(crate) fn compile<'a>(pods: impl IntoIterator<Item = &'a Attachment>, node: &NodeContext) -> Elements {
    let mut all = Elements::default();
    for pod in pods.into_iter().filter(|pod| pod.phase != AttachmentPhase::Deleting) {
        for port in &pod.host_ports {
            for address in pod.addresses.iter().filter(|address| serves(port, **address, node)) {
                let names = Names::of(*address);
                let (set, key) = match port.host_ip {
                    Some(host) => {
                        let key = FrontKey { address: host, protocol: port.protocol, port: port.host_port };
                        (names.host_ports, front_bytes(&key))
                    }
                    None => (names.host_ports_any, port_bytes(port.protocol, port.host_port).to_vec()),
                };
                let end = Value::Bytes(end_bytes(*address, port.container_port));
                all.own.entry((set, key.clone())).or_insert_with(|| Element::exact(key).to(end));
                all.share(SharedSet::Hairpin, *address);
            }
        }
    }
    all
}

/// Whether the kernel should lead this port to this address of the pod. What is on a loopback address is the relay's.
fn serves(port: &HostPort, pod: IpAddr, node: &NodeContext) -> bool {
    node.is_local_pod(pod)
        && port.host_ip.is_none_or(|host| host.is_ipv4() == pod.is_ipv4() && !host.is_loopback())
}
