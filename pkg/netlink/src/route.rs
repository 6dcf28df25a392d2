//! Routes and rules.

use crate::{Netlink, NetlinkError};
use ipnet::IpNet;
use std::net::IpAddr;

/// What a route does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Sends it out of a link (`RTN_UNICAST`), optionally through a gateway.
    Link {
        /// Link name.
        link: String,
        /// Next hop.
        gateway: Option<IpAddr>,
        /// The gateway need not be in a connected prefix (`RTNH_F_ONLINK`).
        onlink: bool,
    },
    /// Answers "unreachable" (`RTN_UNREACHABLE`).
    Unreachable,
    /// Drops it (`RTN_BLACKHOLE`).
    Blackhole,
}

/// A route. The kernel's identity of a route is (table, dst, metric).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination prefix; `0.0.0.0/0` and `::/0` are the default routes.
    pub dst: IpNet,
    /// What it does.
    pub target: RouteTarget,
    /// Preferred source address (`RTA_PREFSRC`).
    pub src: Option<IpAddr>,
    /// Scope link (`RT_SCOPE_LINK`), IPv4 only.
    pub scope_link: bool,
    /// Metric (`RTA_PRIORITY`); 0: unset (IPv6 reads 1024).
    pub metric: u32,
    /// Routing table; 254 is main.
    pub table: u32,
    /// Route protocol (`rtm_protocol`).
    pub protocol: u8,
    /// MTU of the path (`RTAX_MTU`), when set.
    pub mtu: Option<u32>,
}

/// A routing policy rule, `from SRC lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Source prefix.
    pub from: IpNet,
    /// Table to look in.
    pub table: u32,
    /// Priority; smaller is asked first.
    pub priority: u32,
    /// Rule protocol (`FRA_PROTOCOL`).
    pub protocol: u8,
}

impl Netlink {
    /// Routes of both families; only those with this protocol number when `protocol` is given. All tables except
    /// `local`.
    pub async fn list_routes(&self, protocol: Option<u8>) -> Result<Vec<Route>, NetlinkError> {
        let _ = protocol;
        todo!()
    }
    /// Adds or replaces a route (`NLM_F_REPLACE`).
    pub async fn ensure_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let _ = route;
        todo!()
    }
    /// Removes a route; missing is success.
    pub async fn remove_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let _ = route;
        todo!()
    }
    /// Rules of both families with this protocol number.
    pub async fn list_rules(&self, protocol: u8) -> Result<Vec<Rule>, NetlinkError> {
        let _ = protocol;
        todo!()
    }
    /// Adds a rule; present is success.
    pub async fn ensure_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let _ = rule;
        todo!()
    }
    /// Removes a rule; missing is success.
    pub async fn remove_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let _ = rule;
        todo!()
    }
    /// The route the kernel would take to `dst` (`ip route get`): output link index, source address, path MTU if known.
    pub async fn route_to(&self, dst: IpAddr) -> Result<RouteLookup, NetlinkError> {
        let _ = dst;
        todo!()
    }
    /// A stream of "something about links, addresses or routes changed" in this namespace; carries no content and is
    /// never the truth. Lost messages (ENOBUFS) count as a change.
    pub async fn changes(&self) -> Result<tokio::sync::watch::Receiver<u64>, NetlinkError> {
        todo!()
    }
}

/// Answer of [`Netlink::route_to`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLookup {
    /// Output link.
    pub link_index: u32,
    /// Source address the kernel prefers.
    pub src: Option<IpAddr>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
}
