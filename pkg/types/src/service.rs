//! Services as the cluster sees them, and what this node has to say of them.

use crate::ServiceKey;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Label on Services and EndpointSlices that another proxy takes care of
/// (`service.kubernetes.io/service-proxy-name`).
pub const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label on Services and EndpointSlices that no proxy takes care of.
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation on a Service: comma-separated addresses that a load balancer should give it.
pub const ANNOTATION_ADDRESSES: &str = "warren.dev/load-balancer-addresses";
/// Annotation on a Service: Services with the same key may share load-balancer addresses, as long as their ports differ.
pub const ANNOTATION_SHARING_KEY: &str = "warren.dev/load-balancer-sharing-key";
/// `spec.loadBalancerClass` of Services that Warren gives addresses to, besides those without a class.
pub const LOAD_BALANCER_CLASS: &str = "warren.dev/load-balancer";
/// Annotation on a Node: comma-separated `protocol/port=holder` list of ports that a listener of the host holds, so that
/// the node serves no load balancer on them.
pub const ANNOTATION_HELD_PORTS: &str = "warren.dev/held-ports";

/// A transport protocol of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this name, in any case: the API writes `TCP`, CNI runtimes write `tcp`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The protocol with this number in the IP header.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// `ClusterIP`; headless when there are no cluster addresses.
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`: a DNS name only.
    ExternalName,
}

/// `spec.internalTrafficPolicy`, `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Endpoints on the node that the packet is on.
    Local,
}

/// `spec.sessionAffinity: ClientIP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// Seconds for which a client keeps its endpoint after its last new connection
    /// (`spec.sessionAffinityConfig.clientIP.timeoutSeconds`).
    pub seconds: u32,
}

/// One of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; may be empty when it is the only one. Slices name the same port by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses, 1 to 65535.
    pub port: u16,
    /// The port on nodes, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `targetPort` as it was written, for people; endpoints' ports come from slices.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// `appProtocol`, when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// A Service, from its object. Table `services`, written by `source`. What it does not say is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// `metadata.uid`, as opaque text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; only ever compared with another's, to find the older.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// Whether it has a selector: then Warren's or Kubernetes' controller makes its slices.
    pub selector: bool,
    /// `spec.clusterIPs`; empty for headless and ExternalName.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// `spec.externalName`, for ExternalName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// `status.loadBalancer.ingress`: addresses, without those of `ipMode: Proxy`.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerClass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// `spec.loadBalancerSourceRanges`; empty is everyone. Where ranges were given and none could be read, they are the
    /// unspecified addresses alone: nobody.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<IpNet>,
    /// Addresses that were asked for: [`ANNOTATION_ADDRESSES`] or MetalLB's annotation of the same meaning, or
    /// `spec.loadBalancerIP`.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub requested_addresses: Vec<IpAddr>,
    /// [`ANNOTATION_SHARING_KEY`], or MetalLB's annotation of the same meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing_key: Option<String>,
    /// `spec.ipFamilies`, as families of addresses that it has or wants.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<crate::Family>,
    /// `spec.ports`.
    #[serde(default, deserialize_with = "crate::exact", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// `spec.internalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// `spec.trafficDistribution`, as opaque text for people: what it brings about is in the slices' hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// `spec.publishNotReadyAddresses`.
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub publish_not_ready: bool,
    /// Whether another proxy, or none, takes care of it ([`LABEL_PROXY_NAME`], [`LABEL_HEADLESS`]).
    #[serde(default, skip_serializing_if = "crate::is_default")]
    pub foreign_proxy: bool,
}

impl ServicePort {
    /// A port without a name and without a port on nodes.
    #[must_use]
    pub fn new(protocol: Protocol, port: u16) -> Self {
        Self {
            name: String::new(),
            protocol,
            port,
            node_port: None,
            target: String::new(),
            app_protocol: None,
        }
    }
}

impl Service {
    /// A Service of type ClusterIP with a selector, as its defaults are: without addresses and ports yet.
    #[must_use]
    pub fn new(key: ServiceKey) -> Self {
        Self {
            key,
            uid: String::new(),
            created: 0,
            kind: ServiceKind::ClusterIp,
            selector: true,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            external_name: None,
            load_balancer_ips: Vec::new(),
            load_balancer_class: None,
            source_ranges: Vec::new(),
            requested_addresses: Vec::new(),
            sharing_key: None,
            families: Vec::new(),
            ports: Vec::new(),
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            traffic_distribution: None,
            publish_not_ready: false,
            foreign_proxy: false,
        }
    }

    /// Whether it has no virtual address: only DNS knows it.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty()
    }

    /// Whether Warren gives it load-balancer addresses.
    #[must_use]
    pub fn wants_load_balancer(&self) -> bool {
        self.kind == ServiceKind::LoadBalancer
            && self.load_balancer_class.as_deref().is_none_or(|class| class == LOAD_BALANCER_CLASS)
    }
}

/// Something wrong with a Service that its owner can mend; becomes an Event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// One word in CamelCase, as in Events.
    pub reason: String,
    /// What is wrong and what to do, in one line.
    pub message: String,
}

/// What this node's proxy cannot do for a Service. Table `service_faults`, written by `proxy`; `source` makes Events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFaults {
    /// The Service.
    pub service: ServiceKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Sorted; never empty.
    pub faults: Vec<Fault>,
}

/// The addresses that a Service should have. Table `load_balancer_addresses`, written by `loadbalancer` on the node whose
/// turn it is; `source` brings it to `status.loadBalancer` and makes Events of the faults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerAddresses {
    /// The Service.
    pub service: ServiceKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The addresses, sorted; none: its status is to be empty.
    pub addresses: Vec<IpAddr>,
    /// Why it has fewer than it wants. Sorted.
    pub faults: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, EndpointSlice, Family, SliceKey};
    use std::collections::BTreeSet;

    /// What is stored of a row, and the row that it gives back.
    fn stored<R: Serialize + serde::de::DeserializeOwned>(row: &R) -> (serde_json::Value, R) {
        let value = serde_json::to_value(row).unwrap();
        (value.clone(), serde_json::from_value(value).unwrap())
    }

    #[test]
    fn what_a_row_does_not_say_is_not_stored_and_comes_back() {
        let key = ServiceKey::parse("default/web").unwrap();
        let plain = Service::new(key.clone());
        let (value, back) = stored(&plain);
        assert_eq!(back, plain);
        let keys: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["created", "key", "kind", "selector"].into());
        let said = Service {
            source_ranges: vec!["0.0.0.0/32".parse().unwrap()],
            internal_policy: TrafficPolicy::Local,
            affinity: Some(Affinity { seconds: 0 }),
            ports: vec![ServicePort { node_port: Some(30080), ..ServicePort::new(Protocol::Udp, 53) }],
            ..plain
        };
        assert_eq!(stored(&said).1, said);
        let address = "10.42.0.5".parse().unwrap();
        let slice = EndpointSlice {
            key: SliceKey::parse("default/web-1").unwrap(),
            service: key,
            family: Family::V4,
            ports: Vec::new(),
            endpoints: vec![Endpoint::ready(address), Endpoint { ready: false, ..Endpoint::ready(address) }],
            foreign_proxy: false,
        };
        assert_eq!(stored(&slice).1, slice);
    }
}
