//! Ports that this node's addresses give to a Service before the ingress sees a packet.

use warren_types::{Node, Protocol, Service};

/// Why requests to these ports of the node's own addresses do not come to the ingress: Services of type LoadBalancer that had
/// these addresses first keep them.
pub(super) fn taken<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    own: &Node,
    ports: &[u16],
) -> Vec<String> {
    let mut all = Vec::new();
    for service in services {
        if !service.load_balancer_ips.iter().any(|ip| own.internal_ips.contains(ip)) {
            continue;
        }
        for port in &service.ports {
            if port.protocol == Protocol::Tcp && ports.contains(&port.port) {
                all.push(format!(
                    "port {} of this node's addresses belongs to the Service {}, which had it first; change the \
                     Service's port, or give Services addresses of their own with --loadbalancer-pool",
                    port.port, service.key
                ));
            }
        }
    }
    all.sort();
    all
}
