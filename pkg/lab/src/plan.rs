//! The address plan of a lab: pure arithmetic, the same for the same configuration.
//!
//! All of these addresses exist inside the lab's namespaces only.

use crate::{LabError, LabName};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use warren_types::defaults;

/// Most nodes of a lab, over its whole life.
pub(crate) const MAX_NODES: u16 = 80;
/// Switch addresses of nodes begin after this host number.
const FIRST_HOST: u16 = 10;
/// Host numbers from here on are for nodes that change their address.
const MOVED_HOST: u16 = 100;
const MOVED_HOSTS: u16 = 150;

/// How the nodes are wired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// One switch.
    #[default]
    Lan,
    /// The first node on the switch, every other behind a masquerading router of its own.
    Nat,
    /// Two switches with a router between; odd nodes on one, even nodes on the other.
    Sites,
}

/// Address families of nodes and pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Families {
    fn v4(self) -> bool {
        self != Families::V6
    }
    fn v6(self) -> bool {
        self != Families::V4
    }
}

/// What a lab is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabConfig {
    /// Its name.
    pub name: LabName,
    /// How many nodes.
    pub nodes: u16,
    /// How they are wired.
    pub topology: Topology,
    /// Address families.
    pub families: Families,
    /// Sample pods on every node.
    pub pods: u16,
    /// Only namespaces, links and node processes: no server, no agent, no pods.
    pub bare: bool,
    /// `--node-prefix-v4` of the server.
    pub node_prefix_v4: Option<u8>,
    /// `--node-prefix-v6` of the server.
    pub node_prefix_v6: Option<u8>,
    /// What the services log (`WARREN_LOG`).
    pub log: String,
    /// More arguments for every agent.
    pub agent_args: Vec<String>,
}

impl LabConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`LabError::Refused`] with the limit that is exceeded.
    pub fn validate(&self) -> Result<(), LabError> {
        if !(1..=MAX_NODES).contains(&self.nodes) {
            return Err(LabError::Refused(format!(
                "--nodes {}: a lab has 1 to {MAX_NODES} nodes",
                self.nodes
            )));
        }
        if self.pods > 100 {
            return Err(LabError::Refused(format!("--pods {}: at most 100 sample pods a node", self.pods)));
        }
        Ok(())
    }

    /// The pod networks of the cluster.
    #[must_use]
    pub fn cluster_cidrs(&self) -> Vec<&'static str> {
        self.pick(defaults::CLUSTER_CIDR_V4, defaults::CLUSTER_CIDR_V6)
    }

    /// The Service networks of the cluster.
    #[must_use]
    pub fn service_cidrs(&self) -> Vec<&'static str> {
        self.pick(defaults::SERVICE_CIDR_V4, defaults::SERVICE_CIDR_V6)
    }

    fn pick<T>(&self, v4: T, v6: T) -> Vec<T> {
        let v4 = self.families.v4().then_some(v4);
        v4.into_iter().chain(self.families.v6().then_some(v6)).collect()
    }

    /// How many switches there are.
    #[must_use]
    pub(crate) fn sites(&self) -> u8 {
        if self.topology == Topology::Sites { 2 } else { 1 }
    }

    /// Addresses of host number `host` on switch `site`.
    fn on_site(&self, site: u8, host: u16) -> Vec<IpNet> {
        self.pick(v4([192, 168, 57 + site, low(host)], 24), v6([0xfd57, 0x1ab, 0, site.into()], host))
    }

    /// Addresses of host number `host` behind the router of node `index`.
    fn behind(&self, index: u16, host: u16) -> Vec<IpNet> {
        self.pick(v4([192, 168, 100 + low(index), low(host)], 24), v6([0xfd57, 0x1ab, 1, index], host))
    }

    /// The gateway's addresses on switch `site`.
    pub(crate) fn gateway(&self, site: u8) -> Vec<IpNet> {
        self.on_site(site, 1)
    }

    /// The gateway's addresses towards the outside.
    pub(crate) fn uplink(&self) -> Vec<IpNet> {
        self.pick(v4([203, 0, 113, 1], 24), v6([0x2001, 0xdb8, 0x57, 0], 1))
    }

    /// The outside host's addresses.
    pub(crate) fn outside(&self) -> Vec<IpNet> {
        self.pick(v4([203, 0, 113, 10], 24), v6([0x2001, 0xdb8, 0x57, 0], 10))
    }

    /// Where node `index` (from 1) is; `moves` counts the address changes of the lab up to its last one.
    pub(crate) fn node(&self, index: u16, moves: u16) -> NodePlan {
        let site = if self.topology == Topology::Sites { low((index + 1) % 2) } else { 0 };
        let host = match moves {
            0 => FIRST_HOST + index,
            n => MOVED_HOST + (n - 1) % MOVED_HOSTS,
        };
        let (switch, gateway) = (self.on_site(site, host), self.on_site(site, 1));
        if self.topology == Topology::Nat && index != 1 {
            let router = RouterPlan {
                outer: switch.clone(),
                inner: self.behind(index, 1),
                gateway: addresses(&gateway),
            };
            let gateway = addresses(&router.inner);
            NodePlan { site, switch, node: self.behind(index, 2), gateway, router: Some(router) }
        } else {
            NodePlan { site, node: switch.clone(), switch, gateway: addresses(&gateway), router: None }
        }
    }
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// The switch it is on.
    pub(crate) site: u8,
    /// What the switch sees of it: its own addresses, or its router's.
    pub(crate) switch: Vec<IpNet>,
    /// Its own addresses.
    pub(crate) node: Vec<IpNet>,
    /// Its default gateways.
    pub(crate) gateway: Vec<IpAddr>,
    /// The router it is behind.
    pub(crate) router: Option<RouterPlan>,
}

/// A masquerading router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterPlan {
    /// Towards the switch.
    pub(crate) outer: Vec<IpNet>,
    /// Towards the node.
    pub(crate) inner: Vec<IpNet>,
    /// Its default gateways.
    pub(crate) gateway: Vec<IpAddr>,
}

pub(crate) fn addresses(nets: &[IpNet]) -> Vec<IpAddr> {
    nets.iter().map(IpNet::addr).collect()
}

/// The default route of the family of `addr`.
pub(crate) fn everything(addr: IpAddr) -> IpNet {
    match addr {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

/// The host number of a plan is below 256.
fn low(n: u16) -> u8 {
    n.to_be_bytes()[1]
}

fn v4(bytes: [u8; 4], prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bytes), prefix))
}

/// The host number looks the same as in the IPv4 address: 11 is `::11`.
fn v6(head: [u16; 4], host: u16) -> IpNet {
    let [a, b, c, d] = head;
    let host = host / 100 * 0x100 + host / 10 % 10 * 0x10 + host % 10;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, host), 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn config(nodes: u16, topology: Topology, families: Families) -> LabConfig {
        LabConfig {
            name: LabName::new("test").unwrap(),
            nodes,
            topology,
            families,
            pods: 0,
            bare: false,
            node_prefix_v4: None,
            node_prefix_v6: None,
            log: "info".into(),
            agent_args: Vec::new(),
        }
    }

    #[test]
    fn the_usual_lab() {
        let plan = config(3, Topology::Lan, Families::Dual).node(1, 0);
        assert_eq!(
            addresses(&plan.node),
            ["192.168.57.11".parse::<IpAddr>().unwrap(), "fd57:1ab::11".parse().unwrap()]
        );
        assert_eq!(plan.gateway[0], "192.168.57.1".parse::<IpAddr>().unwrap());
        assert_eq!(plan.router, None);
    }

    #[test]
    fn behind_a_router_the_switch_sees_the_router() {
        let config = config(3, Topology::Nat, Families::V4);
        assert_eq!(config.node(1, 0).router, None);
        let plan = config.node(2, 0);
        assert_eq!(plan.node[0].to_string(), "192.168.102.2/24");
        assert_eq!(plan.switch[0].to_string(), "192.168.57.12/24");
        assert_eq!(plan.gateway, addresses(&plan.router.unwrap().inner));
    }

    #[test]
    fn sites_take_turns() {
        let config = config(4, Topology::Sites, Families::V6);
        let sites: Vec<u8> = (1..=4).map(|i| config.node(i, 0).site).collect();
        assert_eq!(sites, [0, 1, 0, 1]);
    }

    #[test]
    fn limits_are_told() {
        for nodes in [0, MAX_NODES + 1] {
            let error = config(nodes, Topology::Lan, Families::V4).validate().unwrap_err().to_string();
            assert!(error.contains("--nodes"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(
            nodes in 1..=MAX_NODES,
            topology in prop_oneof![Just(Topology::Lan), Just(Topology::Nat), Just(Topology::Sites)],
            moved in 1u16..100,
        ) {
            let config = config(nodes, topology, Families::Dual);
            let mut seen = BTreeSet::new();
            let mut fresh = |nets: &[IpNet]| nets.iter().all(|n| seen.insert(n.addr()));
            for site in 0..config.sites() {
                prop_assert!(fresh(&config.gateway(site)));
            }
            prop_assert!(fresh(&config.uplink()) && fresh(&config.outside()));
            for index in 1..=nodes {
                let plan = config.node(index, 0);
                prop_assert!(fresh(&plan.switch));
                if let Some(router) = &plan.router {
                    prop_assert!(fresh(&plan.node) && fresh(&router.inner));
                }
            }
            prop_assert!(fresh(&config.node(1, moved).switch));
        }
    }
}
