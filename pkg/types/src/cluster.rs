//! Facts of the whole cluster.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// ConfigMap in `kube-system` that carries a [`ClusterConfig`] to agents, and its data key (JSON).
pub const CONFIG_MAP_NAME: &str = "warren-cluster";
/// Data key inside [`CONFIG_MAP_NAME`].
pub const CONFIG_MAP_KEY: &str = "config.json";
/// Namespace of [`CONFIG_MAP_NAME`].
pub const CONFIG_MAP_NAMESPACE: &str = "kube-system";

/// Ranges that belong to the cluster. Table `cluster`, one row, written by `source` from the ConfigMap, or by the
/// agent from its flags, which win.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// The pod network: every podCIDR lies in one of these.
    pub cluster_cidrs: Vec<IpNet>,
    /// The Service network.
    pub service_cidrs: Vec<IpNet>,
}
/// Which address of a range of Services is that of cluster DNS, by the custom of kubeadm and k3s.
const DNS_ADDRESS: u128 = 10;

/// The customary address of cluster DNS in a range of Services: the tenth. None in a range that is too small.
#[must_use]
pub fn dns_address(services: &IpNet) -> Option<IpAddr> {
    let address = match services.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(DNS_ADDRESS).ok()?;
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().checked_add(offset)?))
        }
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().checked_add(DNS_ADDRESS)?)),
    };
    services.contains(&address).then_some(address)
}
