//! The part of the configuration that is about Services.

use super::RawConfig;
use ipnet::IpNet;
use warren_loadbalancer::{Mode, Pool, PoolRange};
use warren_types::IfName;

/// How Services are served on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicesConfig {
    /// Whether Warren translates Services; else another proxy does.
    pub proxy: bool,
    /// Node ports are served on this node's addresses in these ranges; empty: on its InternalIPs.
    pub node_port_addresses: Vec<IpNet>,
    /// Where `spec.externalIPs` may come from; empty: nowhere.
    pub external_ips: Vec<IpNet>,
    /// Where addresses of Services of type LoadBalancer come from.
    pub load_balancer: Mode,
    /// The link on which addresses of the pool are announced; none: that of the InternalIP.
    pub load_balancer_interface: Option<IfName>,
}

impl RawConfig {
    pub(super) fn services(&mut self) -> ServicesConfig {
        ServicesConfig {
            proxy: self.parse("proxy", on_off).unwrap_or(true),
            node_port_addresses: self.prefixes("nodeport-addresses"),
            external_ips: self.prefixes("service-external-ips"),
            load_balancer: self.load_balancer(),
            load_balancer_interface: self
                .parse("loadbalancer-interface", |v| IfName::new(v).map_err(|e| e.to_string())),
        }
    }

    fn load_balancer(&mut self) -> Mode {
        let shown = self.shown("loadbalancer-pool");
        let mut ranges = Vec::new();
        for text in self.list("loadbalancer-pool") {
            match text.parse::<PoolRange>() {
                Ok(range) => ranges.push(range),
                Err(error) => self.fault(&shown, error.to_string()),
            }
        }
        let has_pool = self.values.contains_key("loadbalancer-pool");
        let said = self.parse("loadbalancer", |v| match v {
            "nodes" | "pool" | "off" => Ok(v.to_owned()),
            _ => Err(format!("{v:?} is none of nodes, pool, off")),
        });
        match (said.as_deref(), has_pool) {
            (None | Some("pool"), true) => Mode::Pool(Pool::new(ranges)),
            (Some("pool"), false) => {
                self.fault(&shown, "--loadbalancer=pool needs ranges, such as 192.168.1.240-192.168.1.250");
                Mode::Off
            }
            (Some(mode), true) => {
                self.fault(
                    &shown,
                    format!("--loadbalancer={mode} has no use for a pool; leave one of them out"),
                );
                Mode::Off
            }
            (Some("off"), false) => Mode::Off,
            _ => Mode::Nodes,
        }
    }

    pub(super) fn prefixes(&mut self, key: &str) -> Vec<IpNet> {
        let shown = self.shown(key);
        let mut out = Vec::new();
        for text in self.list(key) {
            match text.parse::<IpNet>() {
                Ok(net) => out.push(net.trunc()),
                Err(_) => self.fault(&shown, format!("{text:?} is not a prefix such as 192.168.1.0/24")),
            }
        }
        out
    }
}

pub(super) fn on_off(v: &str) -> Result<bool, String> {
    match v {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err(format!("{v:?} is neither on nor off")),
    }
}
