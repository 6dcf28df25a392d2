//! Reading what the host's own network is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use warren_netlink::{Link, Netlink, NetlinkError, Route, RouteTarget};
use warren_types::marks::{LINK_PREFIX, ROUTE_PROTOCOL};

use crate::engine::Underlay;

/// Reads the underlay: addresses, routes, and the ways to `targets`. `own`: this node's published addresses.
pub(crate) async fn read(
    netlink: &Netlink,
    routes: &[Route],
    own: &[IpAddr],
    targets: &BTreeSet<IpAddr>,
) -> Result<Underlay, NetlinkError> {
    let links: BTreeMap<u32, Link> = netlink.list_links().await?.into_iter().map(|l| (l.index, l)).collect();
    let foreign = |index: u32| links.get(&index).filter(|l| !l.name.starts_with(LINK_PREFIX));
    let all = netlink.list_addresses(None).await?;
    let mut paths = BTreeMap::new();
    for target in targets {
        if let Some(mtu) = path_mtu(netlink, &links, *target).await {
            paths.insert(*target, mtu);
        }
    }
    for addr in own {
        let link = all.iter().find(|(_, net)| net.addr() == *addr).and_then(|(index, _)| foreign(*index));
        if let Some(link) = link {
            paths.insert(*addr, link.mtu);
        }
    }
    let addresses = all
        .iter()
        .filter(|(index, net)| foreign(*index).is_some() && !is_scoped(net.addr()))
        .map(|(_, net)| *net)
        .collect();
    let routes = routes.iter().filter(|r| is_foreign(r)).map(|r| r.dst.trunc()).collect();
    Ok(Underlay { paths, addresses, routes })
}

/// `None` when there is no way, or it leads into the tunnel.
async fn path_mtu(netlink: &Netlink, links: &BTreeMap<u32, Link>, target: IpAddr) -> Option<u32> {
    let way = netlink.route_to(target).await.ok()?;
    let link = links.get(&way.link_index)?;
    let ours = link.name.starts_with(LINK_PREFIX) || link.name == "lo";
    (!ours).then(|| way.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)))
}

/// Addresses that mean something on one link or host only.
fn is_scoped(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

fn is_foreign(route: &Route) -> bool {
    let RouteTarget::Link { link, .. } = &route.target else { return false };
    route.protocol != ROUTE_PROTOCOL
        && !link.starts_with(LINK_PREFIX)
        && route.dst.prefix_len() > 0
        && !is_scoped(route.dst.addr())
        && !route.dst.addr().is_multicast()
}

/// The routes of Warren's overlay, among all of the host: not those of pods.
pub(crate) fn own_routes(routes: &[Route], link: &str, guard_metric: u32) -> BTreeSet<Route> {
    let ours = |r: &&Route| {
        r.protocol == ROUTE_PROTOCOL
            && match &r.target {
                RouteTarget::Link { link: name, .. } => name == link,
                RouteTarget::Unreachable => r.metric == guard_metric,
                RouteTarget::Local | RouteTarget::Blackhole => false,
            }
    };
    routes.iter().filter(ours).map(as_kernel_shows).collect()
}

/// A route as the kernel shows it, so that wishes and readings compare.
pub(crate) fn as_kernel_shows(route: &Route) -> Route {
    Route { dst: IpNet::trunc(&route.dst), metric: route.kernel_metric(), ..route.clone() }
}
