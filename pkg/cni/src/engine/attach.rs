//! The steps of an ADD, and the way back.

use super::identity::{self, Macs, mac_text};
use super::{Engine, Halt, Step};
use crate::spec::{AddRequest, AddResult, Code, Interface, IpEntry, Refusal, RouteEntry};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use warren_netlink::sysctl::{self, SysctlOutcome};
use warren_netlink::{
    Link, LinkChange, NetNs, Netlink, NetlinkError, Route, RouteTarget, VethPair, VethSpec,
};
use warren_types::{AttachmentKey, AttachmentPhase, IfName, LeaseRequest, defaults, marks};

/// Longest alias that the kernel takes, less the final zero that is sent with it.
pub(super) const MAX_ALIAS: usize = 254;
pub(super) const TABLE_MAIN: u32 = 254;
/// How long an ADD waits for the kernel to let a pod's packets pass; usually one look is enough.
const OPERATIONAL_SOON: Duration = Duration::from_secs(2);

/// What an ADD has made so far.
#[derive(Debug, Default)]
pub(super) struct Done {
    link: bool,
    /// Addresses that are leased, and may be among the sources.
    leased: Option<Vec<IpAddr>>,
}

/// What may be sent through a pod's link.
pub(super) fn sources(link: &IfName, addresses: &[IpAddr]) -> Vec<(String, IpAddr)> {
    addresses.iter().map(|addr| (link.to_string(), *addr)).collect()
}

/// The gateway of a family, as pods know it.
pub(super) fn gateway(addr: IpAddr) -> IpAddr {
    if addr.is_ipv4() { defaults::POD_GATEWAY_V4.into() } else { defaults::POD_GATEWAY_V6.into() }
}

pub(super) fn default_net(addr: IpAddr) -> IpNet {
    match addr {
        IpAddr::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// A route of ours in the main table.
fn route(dst: IpNet, link: &IfName, via: Option<IpAddr>) -> Route {
    Route {
        dst,
        target: RouteTarget::Link { link: link.to_string(), gateway: via, onlink: false },
        src: None,
        scope_link: via.is_none(),
        metric: 0,
        table: TABLE_MAIN,
        protocol: marks::ROUTE_PROTOCOL,
        mtu: None,
    }
}

/// The host's route to a pod's address.
pub(super) fn pod_route(addr: IpAddr, link: &IfName) -> Route {
    route(addr.into(), link, None)
}

/// Whether a link is the host side of a pod of ours: by name and kind, and by alias once it has one.
pub(super) fn is_ours(link: &Link) -> bool {
    identity::is_host_link(&link.name)
        && link.kind == "veth"
        && (link.alias.is_empty() || link.alias.starts_with(marks::LINK_ALIAS_PREFIX))
}

impl Engine {
    pub(super) async fn attach(
        &self,
        request: &AddRequest,
        (ns, pod): (&NetNs, Option<Netlink>),
        link: &IfName,
        done: &mut Done,
    ) -> Result<AddResult, Halt> {
        let (key, macs) = (&request.key, identity::macs(link));
        let mtu = *self.0.config.mtu.borrow();
        // The lease may have to wait for the disk; meanwhile the kernel makes the link.
        let lease = self.0.pool.allocate(LeaseRequest {
            key: key.clone(),
            pod: request.pod.clone(),
            pod_uid: request.pod_uid.clone(),
            labels: request.labels.clone(),
            netns: request.netns.clone(),
            host_link: link.clone(),
            host_ports: request.host_ports.clone(),
            named_ports: request.named_ports.clone(),
            requested: request.requested.clone(),
        });
        let mut made = false;
        let (lease, pair) =
            tokio::join!(lease, self.make_pair(request, (ns, pod), link, macs, mtu, &mut made));
        done.link = made;
        done.leased = lease.as_ref().ok().map(|row| row.addresses.clone());
        let (lease, (pair, pod)) = (lease?, pair?);
        self.step(Step::Leased)?;
        let sources = sources(link, &lease.addresses);
        let (filter, gate, side) =
            tokio::join!(self.0.nft.add_pod_sources(&sources), self.0.gate.admit(key), async {
                furnish_pod(&pod, ns, pair.peer_index, &key.if_name, macs.host, &lease.addresses).await?;
                harden(link)
            });
        filter.map_err(no_filter)?;
        gate.map_err(|why| Refusal::new(Code::TryAgain, why))?;
        side?;
        self.step(Step::Prepared)?;
        self.raise(link, pair.index, macs.pod, &lease.addresses).await?;
        self.step(Step::Raised)?;
        let (live, operational) = tokio::join!(
            self.0.pool.set_phase(key, AttachmentPhase::Live),
            // Its end was set up first; what it sends before is lost.
            pod.wait_operational(pair.peer_index, OPERATIONAL_SOON),
        );
        live?;
        if !operational? {
            tracing::warn!(%key, "the kernel still drops what the pod sends; its first connections may be slow");
        }
        self.step(Step::Live)?;
        Ok(result(request, link, macs, mtu, &lease.addresses))
    }

    /// The pair, its pod end up; and a handle on the pod's namespace.
    async fn make_pair(
        &self,
        request: &AddRequest,
        (ns, pod): (&NetNs, Option<Netlink>),
        link: &IfName,
        macs: Macs,
        mtu: u32,
        made: &mut bool,
    ) -> Result<(VethPair, Netlink), Halt> {
        let alias = alias(request);
        let spec = VethSpec {
            name: link.as_str(),
            peer_name: request.key.if_name.as_str(),
            peer_ns: Some(ns),
            mtu,
            macs: Some((macs.host, macs.pod)),
            alias: &alias,
        };
        let pair = match self.0.host.create_veth(&spec).await {
            Err(e) if e.errno() == Some(libc::EEXIST) => {
                self.clear_name(&request.key, link).await?;
                self.0.host.create_veth(&spec).await?
            }
            other => other?,
        };
        *made = true;
        self.step(Step::PairMade)?;
        let pod = match pod {
            Some(pod) => pod,
            None => Netlink::in_namespace(ns).await?,
        };
        pod.set_up("lo", true).await?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        pod.set_link_at(pair.peer_index, &up).await?;
        Ok((pair, pod))
    }

    /// One of the two names is taken. The host's end may be a leftover of ours that no row knows; everything else is
    /// somebody's.
    async fn clear_name(&self, key: &AttachmentKey, link: &IfName) -> Result<(), Halt> {
        match self.0.host.get_link(link.as_str()).await? {
            Some(found) if is_ours(&found) => {
                tracing::warn!(%link, "removing a link that no attachment knows");
                self.0.host.remove_link(link.as_str()).await?;
                Ok(())
            }
            Some(_) => {
                let msg = format!("the node has a link {link} that is not a pod's");
                Err(Refusal::new(Code::Exists, msg).with("rename or remove it").into())
            }
            None => {
                let msg = format!("interface {} exists already in the network namespace", key.if_name);
                Err(Refusal::new(Code::Exists, msg).into())
            }
        }
    }

    /// The host's side: up, its neighbours and routes. NOARP comes with it, and before the neighbours, since the change
    /// empties the neighbour table of a link.
    pub(super) async fn raise(
        &self,
        link: &IfName,
        index: u32,
        pod_mac: [u8; 6],
        addresses: &[IpAddr],
    ) -> Result<(), NetlinkError> {
        let host = &self.0.host;
        let up = LinkChange { up: Some(true), noarp: Some(true), ..LinkChange::default() };
        host.set_link_at(index, &up).await?;
        for addr in addresses {
            host.ensure_neighbour_at(index, *addr, pod_mac).await?;
            host.ensure_route_at(index, &pod_route(*addr, link)).await?;
        }
        Ok(())
    }

    /// Undoes what a failed ADD has made. What cannot be undone stays in the journal, for DEL, GC or the next start.
    pub(super) async fn roll_back(&self, key: &AttachmentKey, link: &IfName, done: &Done) {
        let sources = done.leased.as_ref().map(|addresses| sources(link, addresses)).unwrap_or_default();
        let (removed, unfiltered) = tokio::join!(
            async { if done.link { self.0.host.remove_link(link.as_str()).await.map(drop) } else { Ok(()) } },
            async { if sources.is_empty() { Ok(()) } else { self.0.nft.remove_pod_sources(&sources).await } }
        );
        let mut undone = true;
        for error in [removed.err(), unfiltered.err()].into_iter().flatten() {
            undone = false;
            tracing::warn!(%key, %link, %error, "cannot undo an ADD in the kernel; DEL will");
        }
        if undone
            && done.leased.is_some()
            && let Err(error) = self.0.pool.release(key).await
        {
            undone = false;
            tracing::warn!(%key, %error, "cannot release the lease of a failed ADD; DEL will");
        }
        if undone {
            self.names().remove(link);
        }
    }
}

/// No filter, no pod: its link would carry anything.
fn no_filter(error: NetlinkError) -> Halt {
    if error.is_not_found() {
        return Halt::Refused(
            Refusal::new(Code::TryAgain, "nftables table inet warren is missing")
                .with("the agent makes it anew; see `warren status`"),
        );
    }
    error.into()
}

/// Addresses, the gateways' hardware address, routes: the pod's side. The address goes first, since routes want one.
async fn furnish_pod(
    pod: &Netlink,
    ns: &NetNs,
    index: u32,
    name: &IfName,
    host_mac: [u8; 6],
    addresses: &[IpAddr],
) -> Result<(), Halt> {
    for addr in addresses {
        match pod.ensure_address_at(index, (*addr).into()).await {
            // Some runtimes turn IPv6 off in every namespace they make.
            Err(e) if addr.is_ipv6() && matches!(e.errno(), Some(libc::EACCES | libc::EPERM)) => {
                allow_ipv6(ns, name)?;
                pod.ensure_address_at(index, (*addr).into()).await?;
            }
            other => other?,
        }
        let gateway = gateway(*addr);
        pod.ensure_neighbour_at(index, gateway, host_mac).await?;
        if gateway.is_ipv4() {
            pod.ensure_route_at(index, &route(gateway.into(), name, None)).await?;
        }
        pod.ensure_route_at(index, &route(default_net(*addr), name, Some(gateway))).await?;
    }
    Ok(())
}

fn allow_ipv6(ns: &NetNs, name: &IfName) -> Result<(), Halt> {
    let key = format!("net/ipv6/conf/{name}/disable_ipv6");
    let outcome = ns.run({
        let key = key.clone();
        move || sysctl::set(&key, "0")
    })?;
    match outcome {
        Ok(SysctlOutcome::Unavailable) | Err(_) => {
            let msg = format!("IPv6 is off in the pod's namespace and {key} cannot be set");
            Err(Refusal::new(Code::Failed, msg).into())
        }
        Ok(_) => Ok(()),
    }
}

/// Keeps the host from believing anything the pod says. Written while the link is down. Where sysctls are read-only the
/// source filter, which also drops neighbour discovery, stands alone.
fn harden(link: &IfName) -> Result<(), Halt> {
    // What a new link has otherwise, as a rule.
    const UNLIKE: [(&str, &str, &str); 5] = [
        // No router advertisements, redirects, and no address of its own (1: none is generated).
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_redirects", "0"),
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv4", "rp_filter", "1"),
        ("ipv4", "accept_redirects", "0"),
    ];
    // What a new link has so, as a rule. A look is cheaper than a change, for which the kernel takes its one lock.
    const LIKE: [(&str, &str, &str); 3] =
        [("ipv4", "proxy_arp", "0"), ("ipv4", "forwarding", "1"), ("ipv6", "forwarding", "1")];
    let key = |family: &str, name: &str| format!("net/{family}/conf/{link}/{name}");
    let written =
        UNLIKE.iter().map(|(family, name, value)| sysctl::write(&key(family, name), value).map(drop));
    let looked = LIKE.iter().map(|(family, name, value)| sysctl::set(&key(family, name), value).map(drop));
    written
        .chain(looked)
        .collect::<Result<(), _>>()
        .map_err(|error| Refusal::new(Code::Failed, error.to_string()).into())
}

/// Names the pod, for people who look at the node's links.
fn alias(request: &AddRequest) -> String {
    let mut alias = match &request.pod {
        Some(pod) => format!("{}pod:{pod}", marks::LINK_ALIAS_PREFIX),
        None => format!("{}cni:{}", marks::LINK_ALIAS_PREFIX, request.key.container_id),
    };
    // Names are ASCII.
    alias.truncate(MAX_ALIAS);
    alias
}

fn result(request: &AddRequest, link: &IfName, macs: Macs, mtu: u32, addresses: &[IpAddr]) -> AddResult {
    let host = Interface {
        name: link.to_string(),
        mac: mac_text(macs.host),
        sandbox: String::new(),
        mtu: Some(mtu),
    };
    let pod = Interface {
        name: request.key.if_name.to_string(),
        mac: mac_text(macs.pod),
        sandbox: request.netns.display().to_string(),
        mtu: Some(mtu),
    };
    let ip = |addr: &IpAddr| IpEntry {
        address: (*addr).into(),
        gateway: Some(gateway(*addr)),
        interface: Some(1),
    };
    let default = |addr: &IpAddr| RouteEntry { dst: default_net(*addr), gw: Some(gateway(*addr)) };
    AddResult {
        interfaces: vec![host, pod],
        ips: addresses.iter().map(ip).collect(),
        routes: addresses.iter().map(default).collect(),
        dns: request.dns.clone(),
    }
}
