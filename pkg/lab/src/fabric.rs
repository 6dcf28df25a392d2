//! The virtual LAN: switches, gateway, outside host, routers in front of nodes.
//!
//! The lab's first process owns all of it: its own network namespace is the switch, and the routers' namespaces live
//! as long as their descriptors here.

use crate::plan::{LabConfig, NodePlan, RouterPlan, everything};
use crate::{LabError, firewall};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use warren_netlink::{NetNs, Netlink, NetlinkError, Route, RouteTarget, VethSpec, sysctl};

const MTU: u32 = 1500;
const MAIN_TABLE: u32 = 254;
/// `RTPROT_STATIC`.
const STATIC: u8 = 4;

/// The virtual LAN.
pub(crate) struct Fabric {
    config: LabConfig,
    switch: Netlink,
    gateway: NetNs,
    outside: NetNs,
    /// By node.
    routers: BTreeMap<String, NetNs>,
}

/// The bridge of a site.
fn bridge(site: u8) -> String {
    format!("br{site}")
}

/// A network namespace of nobody yet.
fn fresh() -> Result<NetNs, LabError> {
    let made = std::thread::scope(|scope| {
        let make = || {
            let what = "make a namespace";
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(LabError::errno(what))?;
            // A router asks for neighbours from its link-local address, which would not be usable for a second.
            sysctl::set("net/ipv6/conf/default/accept_dad", "0").map_err(LabError::io(what))?;
            NetNs::current().map_err(LabError::kernel(what))
        };
        scope.spawn(make).join()
    });
    made.unwrap_or_else(|_| Err(LabError::Refused("the thread that makes a namespace panicked".into())))
}

/// A handle in `ns`, with its loopback up.
async fn enter(ns: &NetNs) -> Result<Netlink, NetlinkError> {
    let netlink = Netlink::in_namespace(ns).await?;
    netlink.set_up("lo", true).await?;
    Ok(netlink)
}

fn forwarding(ns: &NetNs) -> Result<(), LabError> {
    let set = || -> std::io::Result<()> {
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            sysctl::set(key, "1")?;
        }
        Ok(())
    };
    ns.run(set).map_err(LabError::kernel("configure a router"))?.map_err(LabError::io("configure a router"))
}

/// Gives a link its addresses and sets it up.
async fn address(netlink: &Netlink, link: &str, addresses: &[IpNet]) -> Result<(), NetlinkError> {
    for address in addresses {
        netlink.ensure_address(link, *address).await?;
    }
    netlink.set_up(link, true).await
}

async fn default_routes(netlink: &Netlink, link: &str, gateways: &[IpAddr]) -> Result<(), NetlinkError> {
    for gateway in gateways {
        let target = RouteTarget::Link { link: link.into(), gateway: Some(*gateway), onlink: false };
        let route = Route {
            dst: everything(*gateway),
            target,
            src: None,
            scope_link: false,
            metric: 0,
            table: MAIN_TABLE,
            protocol: STATIC,
            mtu: None,
        };
        netlink.ensure_route(&route).await?;
    }
    Ok(())
}

async fn veth(own: &Netlink, name: &str, ns: &NetNs, peer: &str) -> Result<(), NetlinkError> {
    let spec = VethSpec { name, peer_name: peer, peer_ns: Some(ns), mtu: MTU, macs: None, alias: "" };
    own.add_veth(&spec).await
}

impl Fabric {
    /// Builds everything but the nodes, in the calling process's network namespace.
    pub(crate) async fn build(config: &LabConfig) -> Result<Self, LabError> {
        // The switch only forwards frames: addresses of its own would be noise on the LAN.
        for scope in ["all", "default"] {
            sysctl::set(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")
                .map_err(LabError::io("configure the switch"))?;
        }
        let switch = Netlink::current().map_err(LabError::kernel("configure the switch"))?;
        let fabric = Self {
            config: config.clone(),
            switch,
            gateway: fresh()?,
            outside: fresh()?,
            routers: BTreeMap::new(),
        };
        fabric.wire().await.map_err(LabError::kernel("build the virtual LAN"))?;
        forwarding(&fabric.gateway)?;
        Ok(fabric)
    }

    async fn wire(&self) -> Result<(), NetlinkError> {
        let config = &self.config;
        let gateway = enter(&self.gateway).await?;
        self.switch.set_up("lo", true).await?;
        for site in 0..config.sites() {
            let (bridge, port, link) = (bridge(site), format!("gateway{site}"), format!("eth{site}"));
            self.switch.add_bridge(&bridge).await?;
            self.switch.set_up(&bridge, true).await?;
            veth(&self.switch, &port, &self.gateway, &link).await?;
            self.attach(&port, &bridge).await?;
            address(&gateway, &link, &config.gateway(site)).await?;
        }
        let outside = enter(&self.outside).await?;
        veth(&gateway, "uplink", &self.outside, "eth0").await?;
        address(&gateway, "uplink", &config.uplink()).await?;
        address(&outside, "eth0", &config.outside()).await?;
        let back: Vec<IpAddr> = config.uplink().iter().map(IpNet::addr).collect();
        default_routes(&outside, "eth0", &back).await
    }

    /// Puts a port of the switch on a bridge.
    async fn attach(&self, port: &str, bridge: &str) -> Result<(), NetlinkError> {
        self.switch.set_master(port, bridge).await?;
        self.switch.set_up(port, true).await
    }

    /// Makes the switch drop what goes between the addresses of these pairs, and nothing else.
    pub(crate) async fn partition(&self, pairs: &[(Vec<IpAddr>, Vec<IpAddr>)]) -> Result<(), LabError> {
        firewall::partition(self.switch.namespace(), pairs).await
    }

    /// Connects a node that has no links yet.
    pub(crate) async fn plug(&mut self, name: &str, plan: &NodePlan, node: &NetNs) -> Result<(), LabError> {
        let what = format!("connect {name}");
        self.unplug(name).await?;
        let wired = match &plan.router {
            None => self.plug_into_switch(name, plan.site, node, "eth0").await,
            Some(router) => {
                let ns = fresh()?;
                let wired = self.plug_router(name, plan.site, router, &ns, node).await;
                forwarding(&ns)?;
                firewall::home_router(&ns, "outer").await?;
                self.routers.insert(name.to_owned(), ns);
                wired
            }
        };
        wired.map_err(LabError::kernel(what.as_str()))?;
        let configure = async {
            let netlink = enter(node).await?;
            address(&netlink, "eth0", &plan.node).await?;
            default_routes(&netlink, "eth0", &plan.gateway).await
        };
        configure.await.map_err(LabError::kernel(what))
    }

    async fn plug_into_switch(
        &self,
        port: &str,
        site: u8,
        ns: &NetNs,
        link: &str,
    ) -> Result<(), NetlinkError> {
        veth(&self.switch, port, ns, link).await?;
        self.attach(port, &bridge(site)).await
    }

    async fn plug_router(
        &self,
        name: &str,
        site: u8,
        router: &RouterPlan,
        ns: &NetNs,
        node: &NetNs,
    ) -> Result<(), NetlinkError> {
        let netlink = enter(ns).await?;
        self.plug_into_switch(name, site, ns, "outer").await?;
        address(&netlink, "outer", &router.outer).await?;
        veth(&netlink, "inner", node, "eth0").await?;
        address(&netlink, "inner", &router.inner).await?;
        default_routes(&netlink, "outer", &router.gateway).await
    }

    /// Disconnects a node, at once: its namespace may take a while to go.
    pub(crate) async fn unplug(&mut self, name: &str) -> Result<(), LabError> {
        self.routers.remove(name);
        let removed = self.switch.remove_link(name).await;
        removed.map(drop).map_err(LabError::kernel(format!("disconnect {name}")))
    }

    /// Changes the addresses of a node, or of the router in front of it.
    pub(crate) async fn readdress(
        &mut self,
        name: &str,
        old: &NodePlan,
        new: &NodePlan,
        node: Option<&NetNs>,
    ) -> Result<(), LabError> {
        let (ns, link) = match self.routers.get(name) {
            Some(router) => (router, "outer"),
            None => match node {
                Some(node) => (node, "eth0"),
                None => return Ok(()), // It is off, and boots with the new ones.
            },
        };
        let gateways = new.router.as_ref().map_or(&new.gateway, |r| &r.gateway);
        let change = async {
            let netlink = Netlink::in_namespace(ns).await?;
            // The old one first: with an older address of the same network, newer ones would go.
            for address in old.switch.iter().filter(|a| !new.switch.contains(a)) {
                netlink.remove_address(link, *address).await?;
            }
            for address in &new.switch {
                netlink.ensure_address(link, *address).await?;
            }
            // Routes go with the last address of their network.
            default_routes(&netlink, link, gateways).await
        };
        change.await.map_err(LabError::kernel(format!("change the address of {name}")))
    }

    /// The outside host's namespace.
    pub(crate) fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// Path of a namespace that has no process: `gateway`, or `router-N` in front of `node-N`.
    pub(crate) fn place(&self, name: &str, holder: i32) -> Option<String> {
        let ns = match name {
            "gateway" => &self.gateway,
            "outside" => &self.outside,
            _ => self.routers.get(&format!("node-{}", name.strip_prefix("router-")?))?,
        };
        Some(format!("/proc/{holder}/fd/{}", ns.as_fd().as_raw_fd()))
    }
}
