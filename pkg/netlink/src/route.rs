//! Routes and rules.

use crate::address::family_of;
use crate::transport::Failure;
use crate::{Netlink, NetlinkError, distinct};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Both families that routes and rules have.
pub(crate) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// The kernel's table of the host's own addresses.
pub const TABLE_LOCAL: u32 = 255;
/// The link of what stays on the host.
const LOOPBACK: &str = "lo";
/// What the kernel makes of an unset metric of an IPv6 route.
const IPV6_DEFAULT_METRIC: u32 = 1024;
/// Up to so many links are asked for one by one; for more, all are listed.
const LINKS_ONE_BY_ONE: usize = 8;

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
    /// Delivers it here, as if the address were one of this host's (`RTN_LOCAL`). Its table is [`TABLE_LOCAL`].
    Local,
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

impl Route {
    /// A route that makes this host take packets to `address` for its own, without giving the address to a link.
    #[must_use]
    pub fn local(address: IpAddr, protocol: u8) -> Self {
        Self {
            dst: IpNet::from(address),
            target: RouteTarget::Local,
            src: None,
            scope_link: false,
            metric: 0,
            table: TABLE_LOCAL,
            protocol,
            mtu: None,
        }
    }

    /// The metric as the kernel will show it.
    #[must_use]
    pub fn kernel_metric(&self) -> u32 {
        if self.metric == 0 && self.dst.addr().is_ipv6() { IPV6_DEFAULT_METRIC } else { self.metric }
    }

    fn same_identity(&self, other: &Route) -> bool {
        let key = |r: &Route| (r.table, r.dst.trunc(), r.kernel_metric());
        key(self) == key(other)
    }

    /// Same kind, link and gateway.
    fn same_way(&self, other: &Route) -> bool {
        match (&self.target, &other.target) {
            (
                RouteTarget::Link { link, gateway, .. },
                RouteTarget::Link { link: other_link, gateway: other_gateway, .. },
            ) => link == other_link && gateway == other_gateway,
            (own, other) => own == other,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            RouteTarget::Link { link, gateway: None, .. } => write!(f, "{} dev {link}", self.dst)?,
            RouteTarget::Link { link, gateway: Some(via), .. } => {
                write!(f, "{} via {via} dev {link}", self.dst)?
            }
            RouteTarget::Local => write!(f, "local {}", self.dst)?,
            RouteTarget::Unreachable => write!(f, "unreachable {}", self.dst)?,
            RouteTarget::Blackhole => write!(f, "blackhole {}", self.dst)?,
        }
        write!(f, " table {}", self.table)?;
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
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

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from {} lookup {}", self.priority, self.from, self.table)
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
    /// MTU that the route sets, or that path MTU discovery learned; `None`: the link's.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Routes of both families; only those with this protocol number when `protocol` is given. All tables except
    /// `local`.
    ///
    /// Routes that [`Route`] cannot say (several next hops, other types) are left out.
    pub async fn list_routes(&self, protocol: Option<u8>) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in FAMILIES {
            let of_family = self.routes(family, protocol, None).await?;
            found.extend(of_family.into_iter().filter(|route| route.table != TABLE_LOCAL));
        }
        Ok(found)
    }

    /// Routes of both families with this protocol number in the table `local`.
    pub async fn list_local_routes(&self, protocol: u8) -> Result<Vec<Route>, NetlinkError> {
        let mut found = Vec::new();
        for family in FAMILIES {
            found.extend(self.routes(family, Some(protocol), Some(TABLE_LOCAL)).await?);
        }
        Ok(found)
    }

    async fn routes(
        &self,
        family: AddressFamily,
        protocol: Option<u8>,
        table: Option<u32>,
    ) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::from(protocol.unwrap_or(0));
        if let Some(table) = table {
            message.header.table = short_table(table);
            message.attributes.push(RouteAttribute::Table(table));
        }
        let all = match self.dump(RouteNetlinkMessage::GetRoute(message)).await {
            // A kernel without IPv6; a table nobody has put a route in yet.
            Err(f) if matches!(f.errno(), Some(libc::EAFNOSUPPORT | libc::ENOENT)) => return Ok(Vec::new()),
            all => all.map_err(|f| f.named("list", "routes"))?,
        };
        let raw: Vec<Raw> = all
            .iter()
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewRoute(m) if m.header.address_family == family => decode(m),
                _ => None,
            })
            .filter(|r| protocol.is_none_or(|p| r.route.protocol == p))
            .filter(|r| table.is_none_or(|t| r.route.table == t))
            .collect();
        let names = self.names_of(raw.iter().filter_map(|r| r.link).collect()).await?;
        Ok(distinct(raw.into_iter().filter_map(|r| r.with_name(&names)), Route::clone))
    }

    /// Names of links by index; those gone meanwhile are missing.
    async fn names_of(&self, indices: BTreeSet<u32>) -> Result<BTreeMap<u32, String>, NetlinkError> {
        if indices.len() > LINKS_ONE_BY_ONE {
            return Ok(self.list_links().await?.into_iter().map(|l| (l.index, l.name)).collect());
        }
        let mut names = BTreeMap::new();
        for index in indices {
            if let Some(link) = self.get_link_by_index(index).await? {
                names.insert(index, link.name);
            }
        }
        Ok(names)
    }

    /// Adds or replaces a route (`NLM_F_REPLACE`).
    pub async fn ensure_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let index = match &route.target {
            RouteTarget::Link { link, .. } => self.link_index(link).await?,
            RouteTarget::Local => self.link_index(LOOPBACK).await?,
            RouteTarget::Unreachable | RouteTarget::Blackhole => 0,
        };
        self.ensure_route_at(index, route).await
    }

    /// Like [`Netlink::ensure_route`], for a caller that knows the index of the route's link, whose name is then only
    /// words for errors. The index of a route without a link is not looked at.
    pub async fn ensure_route_at(&self, index: u32, route: &Route) -> Result<(), NetlinkError> {
        const OP: &str = "add route";
        let message = || RouteNetlinkMessage::NewRoute(encode(route, index));
        if route.dst.addr().is_ipv4() {
            let done = self.change(message(), NLM_F_CREATE | NLM_F_REPLACE).await;
            return done.map(drop).map_err(|f| f.named(OP, route));
        }
        // IPv6 replaces a route only by one of its kind (with a gateway, or without); otherwise it adds a second one
        // with the same metric. The echo tells which of the two happened.
        match self.change(message(), NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => return Ok(()),
            Err(f) if f.errno() == Some(libc::EEXIST) => {}
            Err(f) => return Err(f.named(OP, route)),
        }
        let echoes = self.change(message(), NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ECHO).await;
        let echoes = echoes.map_err(|f| f.named(OP, route))?;
        if echoes.iter().any(|reply| reply.flags & NLM_F_REPLACE != 0) {
            return Ok(());
        }
        self.remove_twins(route).await
    }

    /// Removes the routes that have the identity of `route` and do something else.
    async fn remove_twins(&self, route: &Route) -> Result<(), NetlinkError> {
        for other in self.routes(family_of(route.dst.addr()), None, Some(route.table)).await? {
            if other.same_identity(route) && !other.same_way(route) {
                self.remove_route(&other).await?;
            }
        }
        Ok(())
    }

    /// Removes a route; missing is success.
    ///
    /// The route must match in destination, table, metric, protocol, kind, link and gateway.
    pub async fn remove_route(&self, route: &Route) -> Result<(), NetlinkError> {
        const OP: &str = "remove route";
        let index = match &route.target {
            // A route goes with its link.
            RouteTarget::Link { link, .. } => match self.get_link(link).await? {
                Some(link) => link.index,
                None => return Ok(()),
            },
            _ => 0,
        };
        // To the kernel an unset metric means "any" here, and IPv6 does not look at the kind of a route.
        let family = family_of(route.dst.addr());
        if route.kernel_metric() == 0 || (index == 0 && family == AddressFamily::Inet6) {
            let all = self.routes(family, Some(route.protocol), Some(route.table)).await?;
            if !all.iter().any(|other| other.same_identity(route) && other.same_way(route)) {
                return Ok(());
            }
        }
        let mut message = encode(&Route { metric: route.kernel_metric(), ..route.clone() }, index);
        // Not part of what a route is known by; asking for them would only miss it.
        message.header.scope = RouteScope::NoWhere;
        message.header.flags = RouteFlags::empty();
        message
            .attributes
            .retain(|a| !matches!(a, RouteAttribute::PrefSource(_) | RouteAttribute::Metrics(_)));
        match self.change(RouteNetlinkMessage::DelRoute(message), 0).await {
            Ok(_) => Ok(()),
            Err(f) if matches!(f.errno(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Ok(()),
            Err(f) => Err(f.named(OP, route)),
        }
    }

    /// The route the kernel would take to `dst` (`ip route get`): output link index, source address, path MTU if known.
    pub async fn route_to(&self, dst: IpAddr) -> Result<RouteLookup, NetlinkError> {
        const OP: &str = "find route to";
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(dst);
        message.header.destination_prefix_length = if dst.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(dst.into()));
        let answer = self.ask(RouteNetlinkMessage::GetRoute(message)).await.map_err(|f| f.named(OP, dst))?;
        let RouteNetlinkMessage::NewRoute(answer) = answer else {
            return Err(Failure::Broken("the answer is not a route".into()).named(OP, dst));
        };
        let mut found = RouteLookup { link_index: 0, src: None, gateway: None, mtu: None };
        for attribute in &answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => found.link_index = *index,
                RouteAttribute::PrefSource(addr) => found.src = ip(addr),
                RouteAttribute::Gateway(addr) => found.gateway = ip(addr),
                RouteAttribute::Metrics(metrics) => found.mtu = mtu_of(metrics),
                _ => {}
            }
        }
        Ok(found)
    }

    /// MTU of the way to `dst`: the route's, when it has one, and never more than the output link's.
    ///
    /// # Errors
    /// When there is no route, or its link is gone.
    pub async fn path_mtu(&self, dst: IpAddr) -> Result<u32, NetlinkError> {
        let route = self.route_to(dst).await?;
        let link = self.get_link_by_index(route.link_index).await?;
        let link = link.ok_or_else(|| NetlinkError::NotFound {
            op: "find link",
            object: format!("number {} on the way to {dst}", route.link_index),
        })?;
        Ok(route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
    }
}

/// The one-byte table of the header, which cannot hold every number; the attribute counts.
fn short_table(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(0)
}

fn encode(route: &Route, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.dst.addr());
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.table = short_table(route.table);
    message.header.protocol = RouteProtocol::from(route.protocol);
    let v4 = route.dst.addr().is_ipv4();
    message.header.scope = match route.target {
        // IPv6 has no scopes of routes.
        RouteTarget::Local if v4 => RouteScope::Host,
        _ if route.scope_link && v4 => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    }
    match &route.target {
        RouteTarget::Link { gateway, onlink, .. } => {
            message.header.kind = RouteType::Unicast;
            message.header.flags.set(RouteFlags::Onlink, *onlink);
            attributes.push(RouteAttribute::Oif(index));
            attributes.extend(gateway.map(|addr| RouteAttribute::Gateway(addr.into())));
        }
        RouteTarget::Local => {
            message.header.kind = RouteType::Local;
            attributes.push(RouteAttribute::Oif(index));
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
    }
    attributes.extend(route.src.map(|addr| RouteAttribute::PrefSource(addr.into())));
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

/// A route whose link is known by index so far.
#[derive(Debug, PartialEq)]
struct Raw {
    route: Route,
    link: Option<u32>,
}

impl Raw {
    /// `None` when the link is gone, and the route with it.
    fn with_name(self, names: &BTreeMap<u32, String>) -> Option<Route> {
        let mut route = self.route;
        if let RouteTarget::Link { link, .. } = &mut route.target {
            link.clone_from(names.get(&self.link?)?);
        }
        Some(route)
    }
}

/// `None` for routes that [`Route`] cannot say.
fn decode(message: &RouteMessage) -> Option<Raw> {
    let header = &message.header;
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) || header.source_prefix_length != 0 || header.tos != 0 {
        return None;
    }
    let (mut dst, mut table, mut metric) = (unspecified, u32::from(header.table), 0);
    let (mut link, mut gateway, mut src, mut mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => dst = ip(addr)?,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(addr) => gateway = Some(ip(addr)?),
            RouteAttribute::PrefSource(addr) => src = Some(ip(addr)?),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Metrics(metrics) => mtu = mtu_of(metrics),
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) | RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    let target = match header.kind {
        RouteType::Unicast => {
            link?;
            let onlink = header.flags.contains(RouteFlags::Onlink);
            RouteTarget::Link { link: String::new(), gateway, onlink }
        }
        RouteType::Local => RouteTarget::Local,
        RouteType::Unreachable => RouteTarget::Unreachable,
        RouteType::BlackHole => RouteTarget::Blackhole,
        _ => return None,
    };
    let route = Route {
        dst: IpNet::new(dst, header.destination_prefix_length).ok()?,
        target,
        src,
        scope_link: header.scope == RouteScope::Link,
        metric,
        table,
        protocol: u8::from(header.protocol),
        mtu,
    };
    Some(Raw { route, link })
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None })
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Parseable};
    use proptest::prelude::*;

    /// A prefix without host bits from arbitrary bits.
    pub(crate) fn prefix(v6: bool, bits: u128, len: u8) -> IpNet {
        let addr = if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
        IpNet::new(addr, if v6 { len } else { len % 33 }).unwrap().trunc()
    }

    fn any_route() -> impl Strategy<Value = (Route, Option<u32>)> {
        let scalars = (any::<u32>(), 1u32.., any::<u8>(), proptest::option::of(68u32..65536), any::<bool>());
        let prefixes = (any::<bool>(), any::<u128>(), 0u8..=128, any::<u128>(), any::<u128>());
        let target = (0u8..4, any::<bool>(), any::<bool>(), any::<bool>(), 1u32..);
        (scalars, prefixes, target).prop_map(|((metric, table, protocol, mtu, link_scope), p, t)| {
            let (v6, bits, len, via, from) = p;
            let (kind, has_gateway, onlink, has_src, index) = t;
            let host =
                |bits: u128| if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
            let target = match kind {
                0 => RouteTarget::Unreachable,
                1 => RouteTarget::Blackhole,
                2 => RouteTarget::Local,
                _ => {
                    RouteTarget::Link { link: "wrn0".into(), gateway: has_gateway.then(|| host(via)), onlink }
                }
            };
            let link = matches!(target, RouteTarget::Link { .. } | RouteTarget::Local).then_some(index);
            let src = has_src.then(|| host(from));
            let scope_link = link_scope && !v6 && target != RouteTarget::Local;
            let route =
                Route { dst: prefix(v6, bits, len), target, src, scope_link, metric, table, protocol, mtu };
            (route, link)
        })
    }

    proptest! {
        #[test]
        fn a_route_survives_its_message((route, link) in any_route()) {
            let message = encode(&route, link.unwrap_or(0));
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            let parsed = RouteMessage::parse(bytes.as_slice()).unwrap();
            let names = link.map(|index| (index, "wrn0".to_owned())).into_iter().collect();
            prop_assert_eq!(decode(&parsed).and_then(|raw| raw.with_name(&names)), Some(route));
        }
    }
}
