//! On which links addresses are announced.

use crate::announce::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;
use warren_netlink::{Netlink, NetlinkError};
use warren_types::{Family, IfName};

/// A link of the LAN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LanLink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Mac,
}

/// What the kernel says.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// The link for each family.
    pub(crate) of: BTreeMap<Family, LanLink>,
    /// The addresses of this host.
    pub(crate) local: Vec<IpAddr>,
    /// Why a family has none, in words.
    pub(crate) missing: Option<String>,
}

/// Reads which link to use for each family: the one with this name, or the one that carries the node's address of the
/// family; failing that, the one of the other family.
pub(crate) async fn read(
    netlink: &Netlink,
    name: Option<&IfName>,
    own: &[IpAddr],
) -> Result<Links, NetlinkError> {
    let addresses = netlink.list_addresses(None).await?;
    let mut links =
        Links { local: addresses.iter().map(|(_, net)| net.addr()).collect(), ..Links::default() };
    let mut found = BTreeMap::new();
    if let Some(name) = name {
        match netlink.get_link(name.as_str()).await? {
            Some(link) => found.extend([Family::V4, Family::V6].map(|family| (family, link.clone()))),
            None => links.missing = Some(format!("there is no link {name}; see --loadbalancer-interface")),
        }
    } else {
        for (index, net) in addresses.iter().filter(|(_, net)| own.contains(&net.addr())) {
            if let Some(link) = netlink.get_link_by_index(*index).await? {
                found.entry(Family::of(net.addr())).or_insert(link);
            }
        }
        if let Some(any) = found.values().next().cloned() {
            for family in [Family::V4, Family::V6] {
                found.entry(family).or_insert_with(|| any.clone());
            }
        } else {
            links.missing = Some(
                "no link carries this node's InternalIP, so addresses of the pool are not announced; name one with \
                 --loadbalancer-interface"
                    .into(),
            );
        }
    }
    for (family, link) in found {
        match <[u8; 6]>::try_from(link.mac.as_slice()) {
            Ok(mac) if mac != [0; 6] => {
                links.of.insert(family, LanLink { index: link.index, name: link.name, mac: Mac(mac) });
            }
            _ => {
                links.missing = Some(format!(
                    "link {} is no Ethernet link, so addresses of the pool are not announced there; name another \
                     with --loadbalancer-interface",
                    link.name
                ));
            }
        }
    }
    Ok(links)
}
