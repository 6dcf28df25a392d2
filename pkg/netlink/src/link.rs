//! Links.

use crate::transport::{Answer, Failure};
use crate::{NetNs, Netlink, NetlinkError, distinct};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State,
};
use nix::libc;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkWireguard};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Longest name of a link, in bytes.
pub const MAX_NAME: usize = 15;

/// How often to look whether a link that is being removed has left its namespace.
const REMOVAL_LOOK: Duration = Duration::from_millis(1);
/// How often to look whether a link is operational.
const OPERATION_LOOK: Duration = Duration::from_millis(5);

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// `ifindex`.
    pub index: u32,
    /// `IFLA_IFNAME`.
    pub name: String,
    /// `IFLA_IFALIAS`; empty when unset.
    pub alias: String,
    /// `IFLA_INFO_KIND` (`veth`, `bridge`, `wireguard`, `tun`, ...); empty for physical links.
    pub kind: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address; empty for point-to-point links.
    pub mac: Vec<u8>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Packets pass (`IFLA_OPERSTATE` is `up`, RFC 2863). Links without a carrier of their own, as `lo` and tun, never say so.
    pub operational: bool,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
    /// `IFLA_LINK`: the peer's index, for a veth.
    pub peer_index: Option<u32>,
}

/// How to make a veth pair.
#[derive(Debug, Clone)]
pub struct VethSpec<'a> {
    /// Name of the end that stays in the handle's namespace.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end, made there directly; `None`: the handle's.
    pub peer_ns: Option<&'a NetNs>,
    /// MTU of both ends.
    pub mtu: u32,
    /// Hardware addresses (own end, peer end); `None`: the kernel's choice.
    pub macs: Option<([u8; 6], [u8; 6])>,
    /// Alias of the own end (`IFLA_IFALIAS`); empty for none.
    pub alias: &'a str,
}

/// Indices of the ends of a new veth pair, each valid in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethPair {
    /// Of the end in the handle's namespace.
    pub index: u32,
    /// Of the other end.
    pub peer_index: u32,
}

/// Changes of a link, made by one request; `None` leaves a property as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// ARP and neighbour discovery off (`IFF_NOARP`).
    pub noarp: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Alias.
    pub alias: Option<&'a str>,
}

/// Names a link in a request: by index where the caller knows it, by name otherwise.
#[derive(Debug, Clone, Copy)]
enum Which<'a> {
    Name(&'a str),
    Index(u32),
}

impl std::fmt::Display for Which<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "link number {index}"),
        }
    }
}

impl<'a> Which<'a> {
    fn message(self) -> LinkMessage {
        match self {
            Self::Name(name) => LinkUnspec::new_with_name(name).build(),
            Self::Index(index) => LinkUnspec::new_with_index(index).build(),
        }
    }
}

impl Netlink {
    /// All links.
    pub async fn list_links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(without_statistics());
        let all = self.dump(RouteNetlinkMessage::GetLink(message)).await;
        let all = all.map_err(|f| f.named("list", "links"))?;
        let links = all.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(m) => Some(decode(m)),
            _ => None,
        });
        Ok(distinct(links, |link| link.index))
    }

    /// The link with this name; `None` when there is none.
    pub async fn get_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        if !is_name(name) {
            return Ok(None); // No link can have it, and the kernel's answer would be about the request.
        }
        self.find(Which::Name(name)).await
    }

    /// The link with this index; `None` when there is none.
    pub async fn get_link_by_index(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.find(Which::Index(index)).await
    }

    /// The index of the link with this name.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is no such link.
    pub async fn link_index(&self, name: &str) -> Result<u32, NetlinkError> {
        let link = self.get_link(name).await?;
        link.map(|l| l.index).ok_or_else(|| NetlinkError::NotFound { op: "find link", object: name.into() })
    }

    async fn find(&self, which: Which<'_>) -> Result<Option<Link>, NetlinkError> {
        let mut message = which.message();
        message.attributes.push(without_statistics());
        match self.ask(RouteNetlinkMessage::GetLink(message)).await {
            Ok(RouteNetlinkMessage::NewLink(m)) => Ok(Some(decode(m))),
            Ok(_) => Err(Failure::Broken("the answer is not a link".into()).named("find link", which)),
            Err(f) if f.errno() == Some(libc::ENODEV) => Ok(None),
            Err(f) => Err(f.named("find link", which)),
        }
    }

    /// Makes a veth pair. EEXIST is an error: the caller decides what a leftover means.
    pub async fn add_veth(&self, spec: &VethSpec<'_>) -> Result<(), NetlinkError> {
        self.create_veth(spec).await.map(drop)
    }

    /// Like [`Netlink::add_veth`], and tells the indices of the two ends.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<VethPair, NetlinkError> {
        let mut peer = LinkUnspec::new_with_name(spec.peer_name).mtu(spec.mtu);
        let mut own = LinkMessageBuilder::<LinkVeth>::new(spec.name, spec.peer_name).mtu(spec.mtu);
        if let Some((mac, peer_mac)) = spec.macs {
            own = own.address(mac.to_vec());
            peer = peer.address(peer_mac.to_vec());
        }
        if let Some(ns) = spec.peer_ns {
            peer = peer.setns_by_fd(ns.as_fd().as_raw_fd());
        }
        let own = own.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
        let made = self.add(own, &[spec.name, spec.peer_name], spec.alias).await?;
        // Kernels before 6.2 do not say what they made.
        let made = match made {
            Some(made) => Some(made),
            None => self.get_link(spec.name).await?,
        };
        let pair = made.and_then(|l| Some(VethPair { index: l.index, peer_index: l.peer_index? }));
        pair.ok_or_else(|| NetlinkError::NotFound { op: "find link", object: spec.name.into() })
    }

    /// Makes a kernel WireGuard link; the error's errno is EOPNOTSUPP where the kernel has no WireGuard.
    pub async fn add_wireguard(&self, name: &str, mtu: u32, alias: &str) -> Result<(), NetlinkError> {
        self.add(LinkWireguard::new(name).mtu(mtu).build(), &[name], alias).await.map(drop)
    }

    /// Makes a bridge.
    pub async fn add_bridge(&self, name: &str) -> Result<(), NetlinkError> {
        self.add(LinkBridge::new(name).build(), &[name], "").await.map(drop)
    }

    /// The link that was made, where the kernel tells. It takes no alias with the request that makes a link, so that is
    /// a second one; a link that cannot get its alias is not left behind.
    async fn add(
        &self,
        message: LinkMessage,
        names: &[&str],
        alias: &str,
    ) -> Result<Option<Link>, NetlinkError> {
        const OP: &str = "add link";
        for name in names {
            check_name(OP, name)?;
        }
        let flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO;
        let echoes = match self.change(RouteNetlinkMessage::NewLink(message), flags).await {
            Ok(echoes) => echoes,
            // Here the missing device is not the link, but what it needs.
            Err(Failure::Errno { code: libc::ENODEV, text }) => {
                return Err(Failure::Errno { code: libc::EOPNOTSUPP, text }.named(OP, names.join(" - ")));
            }
            Err(f) => return Err(f.named(OP, names.join(" - "))),
        };
        let name = names.first().copied().unwrap_or_default();
        let made = echoes.into_iter().find_map(|reply| match reply.message {
            RouteNetlinkMessage::NewLink(m) => Some(decode(m)).filter(|link| link.name == name),
            _ => None,
        });
        if alias.is_empty() {
            return Ok(made);
        }
        if let Err(e) = self.set_alias(name, alias).await {
            if let Err(undo) = self.remove_link(name).await {
                tracing::warn!(link = name, error = %undo, "a link without its alias is left over");
            }
            return Err(e);
        }
        Ok(made)
    }

    /// Makes `link` a port of bridge `master`.
    pub async fn set_master(&self, link: &str, master: &str) -> Result<(), NetlinkError> {
        let index = self.link_index(master).await?;
        let message = LinkUnspec::new_with_name(link).controller(index).build();
        self.set("add to bridge", message, Which::Name(link)).await
    }

    /// Removes a link; missing is success (returns false).
    ///
    /// Returns when the link is out of the namespace, with its addresses and routes, and its name free. The kernel's
    /// request goes on for tens of milliseconds then, until nothing in the kernel refers to the link; nobody has to wait
    /// for that.
    pub async fn remove_link(&self, name: &str) -> Result<bool, NetlinkError> {
        if !is_name(name) {
            return Ok(false);
        }
        let Some(link) = self.get_link(name).await? else { return Ok(false) };
        let failed = |f: Failure| match f.errno() {
            Some(libc::ENODEV) => Ok(false),
            _ => Err(f.named("remove link", name)),
        };
        let request = RouteNetlinkMessage::DelLink(Which::Index(link.index).message());
        let mut removal = match self.start(request, Answer::Ack).await {
            Ok(removal) => removal,
            Err(f) => return failed(f),
        };
        loop {
            tokio::select! {
                outcome = &mut removal => return crate::finished(outcome).map(|_| true).or_else(failed),
                () = tokio::time::sleep(REMOVAL_LOOK) => {}
            }
            if self.get_link_by_index(link.index).await?.is_none() {
                return Ok(true);
            }
        }
    }

    /// Sets a link up or down.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), NetlinkError> {
        let op = if up { "set up link" } else { "set down link" };
        self.apply(op, Which::Name(name), &LinkChange { up: Some(up), ..LinkChange::default() }).await
    }

    /// Waits until packets pass a link with a carrier. False when they do not within `limit`, or when there is no such link.
    ///
    /// The end of a veth pair that was set up first drops what is sent until the kernel has taken note of its carrier. That
    /// is work which it puts off: for a second, or for longer while others hold the lock of all links. Since Linux 6.8, to
    /// ask for the link is to have that work done.
    pub async fn wait_operational(&self, index: u32, limit: Duration) -> Result<bool, NetlinkError> {
        let wait = async {
            loop {
                match self.get_link_by_index(index).await? {
                    Some(link) if !link.operational => tokio::time::sleep(OPERATION_LOOK).await,
                    found => return Ok(found.is_some()),
                }
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or(Ok(false))
    }

    /// Sets the MTU.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        self.apply(
            "set MTU of link",
            Which::Name(name),
            &LinkChange { mtu: Some(mtu), ..LinkChange::default() },
        )
        .await
    }

    /// Sets the alias.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let change = LinkChange { alias: Some(alias), ..LinkChange::default() };
        self.apply("set alias of link", Which::Name(name), &change).await
    }

    /// Turns ARP and neighbour discovery off on a link (`IFF_NOARP`): only permanent neighbours count.
    pub async fn set_noarp(&self, name: &str) -> Result<(), NetlinkError> {
        let change = LinkChange { noarp: Some(true), ..LinkChange::default() };
        self.apply("turn off ARP on link", Which::Name(name), &change).await
    }

    /// Changes several properties of a link with one request.
    pub async fn set_link(&self, name: &str, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        self.apply("change link", Which::Name(name), change).await
    }

    /// Like [`Netlink::set_link`], for a caller that knows the link's index.
    pub async fn set_link_at(&self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        self.apply("change link", Which::Index(index), change).await
    }

    /// Moves a link into another namespace.
    pub async fn move_link(&self, name: &str, ns: &NetNs) -> Result<(), NetlinkError> {
        let fd = ns.as_fd().as_raw_fd();
        let message = LinkUnspec::new_with_name(name).setns_by_fd(fd).build();
        self.set("move link", message, Which::Name(name)).await
    }

    async fn apply(
        &self,
        op: &'static str,
        which: Which<'_>,
        change: &LinkChange<'_>,
    ) -> Result<(), NetlinkError> {
        let mut message = which.message();
        for (flag, wish) in [(LinkFlags::Up, change.up), (LinkFlags::Noarp, change.noarp)] {
            if let Some(on) = wish {
                message.header.change_mask |= flag;
                message.header.flags.set(flag, on);
            }
        }
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        self.set(op, message, which).await
    }

    async fn set(
        &self,
        op: &'static str,
        message: LinkMessage,
        which: Which<'_>,
    ) -> Result<(), NetlinkError> {
        if let Which::Name(name) = which {
            check_name(op, name)?;
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0).await.map(drop).map_err(|f| f.named(op, which))
    }
}

/// Counters make up most of a link's description, and nobody here reads them.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Whether the kernel would take it as the name of a link.
fn is_name(name: &str) -> bool {
    let fits = (1..=MAX_NAME).contains(&name.len()) && !matches!(name, "." | "..");
    fits && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_ascii_whitespace())
}

fn check_name(op: &'static str, name: &str) -> Result<(), NetlinkError> {
    if is_name(name) {
        return Ok(());
    }
    let reason = format!("not a link name: 1 to {MAX_NAME} bytes without '/', ':' or spaces");
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
    Err(NetlinkError::Kernel { op, object: format!("{name:?}"), source })
}

fn decode(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        kind: String::new(),
        mtu: 0,
        mac: Vec::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        operational: false,
        master: None,
        peer_index: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::OperState(state) => link.operational = state == State::Up,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer_index = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}
