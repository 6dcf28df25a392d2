//! Facts of the whole cluster.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
