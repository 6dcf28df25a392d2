//! podCIDRs for Nodes to which nobody gives any: clusters whose controller manager does not allocate them.
//!
//! One agent does it at a time, the one that holds a Lease: two that chose from what they saw could give two Nodes the
//! same prefix. A Node's podCIDRs are set once and never changed, so a cluster that does allocate, only late, loses
//! nothing: whoever writes first is right, and both choose from the same ranges.

use crate::client::chain;
use crate::election::Election;
use crate::{SourceError, SourceStatus, status_code};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use warren_store::tables::ONLY;
use warren_store::{Store, StoreError, Table};
use warren_types::pod_cidr::PodCidrAllocator;
use warren_types::{ClusterConfig, Family, Node, NodeName};

/// The Lease.
const LEASE: &str = "warren-pod-cidrs";
/// How long a Node may be without podCIDRs before it is given some: a controller manager takes a second.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a failed or refused round is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Prefix lengths of a Node's podCIDRs: those of kube-controller-manager.
const PREFIX_V4: u8 = 24;
/// See [`PREFIX_V4`].
const PREFIX_V6: u8 = 64;

/// Gives podCIDRs where they are missing.
pub(crate) struct Allotter {
    nodes: Table<Node>,
    cluster: Table<ClusterConfig>,
    objects: Api<NodeObject>,
    election: Election,
    status: SourceStatus,
}

impl Allotter {
    pub(crate) fn new(own: NodeName, client: kube::Client, store: &Store, status: SourceStatus) -> Self {
        Self {
            nodes: store.table(),
            cluster: store.table(),
            objects: Api::all(client.clone()),
            election: Election::new(LEASE, own, client),
            status,
        }
    }

    /// Gives until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let (mut nodes, mut cluster) = (self.nodes.watch(), self.cluster.watch());
        let mut without: BTreeMap<NodeName, Instant> = BTreeMap::new();
        loop {
            let wait = self.look(&mut without).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                update = nodes.next() => drop(update.ok_or(StoreError::Closed)?),
                update = cluster.next() => drop(update.ok_or(StoreError::Closed)?),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look; says when the next is due.
    async fn look(&mut self, without: &mut BTreeMap<NodeName, Instant>) -> Duration {
        const IDLE: Duration = Duration::from_secs(3600);
        let object = self.election.object();
        let rows = self.nodes.snapshot().rows;
        let missing: Vec<&Node> =
            rows.values().map(AsRef::as_ref).filter(|n| n.pod_cidrs.is_empty()).collect();
        without.retain(|name, _| missing.iter().any(|n| n.name == *name));
        for node in &missing {
            without.entry(node.name.clone()).or_insert_with(Instant::now);
        }
        let ranges = self.cluster.get(ONLY).map(|c| c.cluster_cidrs.clone()).unwrap_or_default();
        let Some(waited) = without.values().map(Instant::elapsed).max().filter(|_| !ranges.is_empty()) else {
            self.status.write_result(&object, None);
            return IDLE;
        };
        if waited < PATIENCE {
            return PATIENCE.saturating_sub(waited);
        }
        let result = match self.election.elected().await {
            Ok(Some(until)) => self.give(&ranges, until).await,
            Ok(None) => Ok(()),
            Err(e) => Err(chain(&e)),
        };
        if let Err(error) = &result {
            tracing::debug!(%error, "podCIDRs cannot be given");
        }
        self.status.write_result(&object, result.err());
        RETRY
    }

    /// Gives podCIDRs to every Node without, from what the API says now.
    async fn give(&self, ranges: &[ipnet::IpNet], until: Instant) -> Result<(), String> {
        let list = self.objects.list(&ListParams::default()).await.map_err(|e| chain(&e))?;
        let mut allocator = allocator(ranges)?;
        let mut without = Vec::new();
        for node in &list.items {
            let (Some(name), Some(version)) = (&node.metadata.name, &node.metadata.resource_version) else {
                continue;
            };
            match had(node) {
                // What cannot be read is somebody's all the same: it stays, and its addresses cannot be known.
                Some(cidrs) => drop(allocator.occupy(name, &cidrs)),
                None => without.push((name.as_str(), version.as_str())),
            }
        }
        for (name, version) in without {
            let cidrs: Vec<String> =
                allocator.assign(name).map_err(|e| e.to_string())?.iter().map(ToString::to_string).collect();
            if Instant::now() >= until {
                return Ok(()); // The next round renews the Lease first.
            }
            let patch = json!({"metadata": {"resourceVersion": version},
                "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}});
            match self.objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    tracing::info!(node = name, pod_cidrs = cidrs.join(","), "gave podCIDRs: nobody else did")
                }
                // Changed since, or gone: the next round sees.
                Err(e) if matches!(status_code(&e), Some(404 | 409)) => {}
                Err(e) => return Err(format!("Node {name}: {}", chain(&e))),
            }
        }
        Ok(())
    }
}

/// The podCIDRs a Node has; none when it has none at all.
fn had(node: &NodeObject) -> Option<Vec<ipnet::IpNet>> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let texts: Vec<&String> = all.filter(|t| !t.is_empty()).collect();
    (!texts.is_empty()).then(|| texts.iter().filter_map(|t| t.parse().ok()).collect())
}

/// An allocator of prefixes as long as kube-controller-manager gives them, where the range is large enough.
fn allocator(ranges: &[ipnet::IpNet]) -> Result<PodCidrAllocator, String> {
    let length = |family: Family, usual: u8| {
        let range = ranges.iter().find(|r| Family::of(r.addr()) == family);
        range.map_or(usual, |r| usual.max(r.prefix_len()))
    };
    PodCidrAllocator::new(ranges, length(Family::V4, PREFIX_V4), length(Family::V6, PREFIX_V6))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(spec: serde_json::Value) -> NodeObject {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_a_node_has() {
        assert_eq!(had(&node(json!({}))), None);
        assert_eq!(had(&node(json!({"podCIDR": "", "podCIDRs": []}))), None);
        let both = json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd00::/64"]});
        let net = |t: &str| t.parse::<ipnet::IpNet>().unwrap();
        assert_eq!(had(&node(both)), Some(vec![net("10.42.1.0/24"), net("fd00::/64"), net("10.42.1.0/24")]));
        assert_eq!(had(&node(json!({"podCIDR": "nonsense"}))), Some(vec![]), "it has one, whatever it is");
    }

    #[test]
    fn prefixes_are_those_of_kubernetes_where_they_fit() {
        let net = |t: &str| t.parse::<ipnet::IpNet>().unwrap();
        let mut wide = allocator(&[net("10.42.0.0/16"), net("fd00::/56")]).unwrap();
        assert_eq!(wide.assign("a").unwrap(), [net("10.42.0.0/24"), net("fd00::/64")]);
        let mut small = allocator(&[net("10.42.0.0/26")]).unwrap();
        assert_eq!(small.assign("a").unwrap(), [net("10.42.0.0/26")]);
        assert!(small.assign("b").is_err());
    }
}
