//! CHECK: whether what ADD made is still there. What others put beside it in a chain is not looked at.

use super::attach::{gateway, is_ours, sources};
use super::identity::mac_text;
use super::{Engine, kernel, no_lease};
use crate::spec::{CheckRequest, Code, Refusal};
use std::net::IpAddr;
use warren_netlink::{Link, NetNs, Netlink, NetlinkError, Route, RouteTarget};
use warren_types::{Attachment, AttachmentPhase};

impl Engine {
    /// CHECK. `ns` is the pod's namespace.
    ///
    /// # Errors
    /// Code 103 with all differences; code 3 for an attachment that the journal does not know.
    pub async fn check(&self, request: &CheckRequest, ns: &NetNs) -> Result<(), Refusal> {
        let key = &request.key;
        let _permit = self.permit().await?;
        let _guard = self.0.locks.lock(key).await;
        let mut row = self.0.pool.get(key).await.map_err(|e| no_lease(&e))?;
        if let (None, Some(found)) = (&row, self.found(key)) {
            row = self.0.pool.get(&found).await.map_err(|e| no_lease(&e))?;
        }
        let mut row =
            row.ok_or_else(|| Refusal::new(Code::UnknownContainer, format!("{key} is not attached")))?;
        // One that was found in the kernel is known by its link until now.
        row.key = key.clone();
        if row.phase != AttachmentPhase::Live {
            return Err(Refusal::new(Code::Differs, format!("{key} is half attached, or half detached")));
        }
        let mut faults = Vec::new();
        for addr in &row.addresses {
            if !request.prev_result.ips.iter().any(|ip| ip.address.addr() == *addr) {
                faults.push(format!("prevResult does not have {addr}, which is leased to it"));
            }
        }
        let looked = self.look(&row, ns, &mut faults).await;
        looked.map_err(|e| kernel(&e))?;
        if faults.is_empty() {
            return Ok(());
        }
        let msg = format!("{key} is not as ADD made it: {}", faults.first().map_or("", String::as_str));
        Err(Refusal::new(Code::Differs, msg).with(faults.join("; ")))
    }

    async fn look(&self, row: &Attachment, ns: &NetNs, faults: &mut Vec<String>) -> Result<(), NetlinkError> {
        let host = &self.0.host;
        let name = row.host_link.as_str();
        let host_link = host.get_link(name).await?.filter(is_ours);
        let pod = Netlink::in_namespace(ns).await?;
        let pod_link = pod.get_link(row.key.if_name.as_str()).await?;
        match self.0.nft.list_pod_sources().await {
            Ok(present) => {
                for source in sources(&row.host_link, &row.addresses) {
                    if !present.contains(&source) {
                        faults.push(format!("{} may not send from {}", source.0, source.1));
                    }
                }
            }
            Err(e) => faults.push(e.to_string()),
        }
        let Some(host_link) = host_link else {
            faults.push(format!("link {name} is missing on the host"));
            return Ok(());
        };
        let Some(pod_link) = pod_link else {
            faults.push(format!("interface {} is missing in the pod", row.key.if_name));
            return Ok(());
        };
        for link in [&host_link, &pod_link] {
            if !link.up {
                faults.push(format!("link {} is down", link.name));
            }
        }
        for addr in &row.addresses {
            look_at_host(host, &host_link, &pod_link, *addr, faults).await?;
        }
        look_at_pod(&pod, &host_link, &pod_link, &row.addresses, faults).await
    }
}

async fn look_at_host(
    host: &Netlink,
    host_link: &Link,
    pod_link: &Link,
    addr: IpAddr,
    faults: &mut Vec<String>,
) -> Result<(), NetlinkError> {
    match host.route_to(addr).await {
        Ok(way) if way.link_index == host_link.index => {}
        Ok(_) => faults.push(format!("the host's route to {addr} leads elsewhere")),
        Err(e) => faults.push(format!("the host has no route to {addr}: {e}")),
    }
    let neighbours = host.list_neighbours(Some(&host_link.name)).await?;
    if !neighbours.iter().any(|n| n.permanent && n.addr == addr && n.mac == pod_link.mac) {
        faults.push(format!("the host's neighbour entry of {addr} is not that of the pod"));
    }
    Ok(())
}

async fn look_at_pod(
    pod: &Netlink,
    host_link: &Link,
    pod_link: &Link,
    addresses: &[IpAddr],
    faults: &mut Vec<String>,
) -> Result<(), NetlinkError> {
    let present = pod.list_addresses(Some(&pod_link.name)).await?;
    let neighbours = pod.list_neighbours(Some(&pod_link.name)).await?;
    let routes = pod.list_routes(None).await?;
    for addr in addresses {
        if !present.iter().any(|(_, net)| net.addr() == *addr) {
            faults.push(format!("{} does not have {addr}", pod_link.name));
        }
        let via = gateway(*addr);
        let default = |r: &Route| r.dst.prefix_len() == 0 && r.dst.addr().is_ipv4() == addr.is_ipv4();
        let ours =
            |r: &Route| matches!(&r.target, RouteTarget::Link { gateway, .. } if *gateway == Some(via));
        // A later plugin may have put its own default route in place of ours.
        if !routes
            .iter()
            .any(|r| default(r) && (ours(r) || r.protocol != warren_types::marks::ROUTE_PROTOCOL))
        {
            faults.push(format!("the pod has no default route via {via}"));
        }
        if !neighbours.iter().any(|n| n.addr == via && n.mac == host_link.mac) {
            let mac: Result<[u8; 6], _> = host_link.mac.as_slice().try_into();
            let mac = mac.map(mac_text).unwrap_or_default();
            faults.push(format!("the pod's neighbour entry of {via} is not {mac}"));
        }
    }
    Ok(())
}
