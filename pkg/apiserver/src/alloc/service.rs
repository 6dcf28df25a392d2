//! Addresses and node ports of Services.

use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use warren_types::Family;

use super::pool::{Pool, Unavailable};
use crate::error::Causes;
use crate::kinds::service::{
    families, is_external_name, is_headless, number, of_type, texts, uses_health_port, uses_node_ports,
};
use crate::kinds::{each, object};
use crate::storage::Refused;
use crate::table::{list, text};

/// The Service that has the first address of the first range.
pub(crate) const KUBERNETES: &str = "default/kubernetes";

/// Gives Services their addresses and node ports.
#[derive(Debug, Clone)]
pub(crate) struct ServiceAllocator {
    ranges: Vec<(IpNet, Pool)>,
    node_ports: RangeInclusive<u16>,
    ports: Pool,
}

/// What a Service holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) ports: BTreeSet<u16>,
}

impl Held {
    /// What a Service's fields say.
    pub(crate) fn by(o: &Value) -> Self {
        let mut held = Self::default();
        if !is_external_name(o) && !is_headless(o) {
            held.addresses
                .extend(texts(o, "/spec/clusterIPs").iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        if uses_node_ports(o) {
            let ports = list(o, "/spec/ports").iter().map(|p| number(p, "/nodePort"));
            let health = Some(number(o, "/spec/healthCheckNodePort")).filter(|_| uses_health_port(o));
            held.ports.extend(ports.chain(health).filter(|n| *n != 0).filter_map(|n| u16::try_from(n).ok()));
        }
        held
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn address(family: Family, bits: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(bits).ok().map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        Family::V6 => Some(IpAddr::V6(Ipv6Addr::from(bits))),
    }
}

/// The first address of a Service range that a Service can have.
pub(crate) fn first_address(range: IpNet) -> Option<IpAddr> {
    address(Family::of(range.addr()), bits(range.network()).checked_add(1)?)
}

/// How many numbers of `size` are in the lower band: a part of them, within bounds (KEP-3070, KEP-3668).
fn lower_band(size: u128, part: u128, min: u128, max: u128) -> u128 {
    if size < min { 0 } else { (size / part).clamp(min, max) }
}

impl ServiceAllocator {
    /// Gives from `ranges`, the first of which is the default, and from `node_ports`.
    pub(crate) fn new(ranges: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        let pool = |(i, range): (usize, &IpNet)| {
            let (network, end) = (bits(range.network()), bits(range.broadcast()));
            // An IPv4 range ends with the address of a broadcast.
            let last = if range.addr().is_ipv4() { end.saturating_sub(1) } else { end };
            let band = lower_band((end - network).saturating_add(1), 16, 16, 256);
            let pool = Pool::new(network + 1..=last, network + band);
            let first = network + 1;
            (range.trunc(), if i == 0 { pool.reserve(first, KUBERNETES) } else { pool })
        };
        let (first, last) = (u128::from(*node_ports.start()), u128::from(*node_ports.end()));
        let band = lower_band((last + 1).saturating_sub(first), 32, 16, 128);
        Self {
            ranges: ranges.iter().enumerate().map(pool).collect(),
            ports: Pool::new(first..=last, first + band),
            node_ports,
        }
    }

    /// Forgets every Service.
    pub(crate) fn clear(&mut self) {
        self.ports.clear();
        for (_, pool) in &mut self.ranges {
            pool.clear();
        }
    }

    fn families(&self) -> Vec<Family> {
        self.ranges.iter().map(|(range, _)| Family::of(range.addr())).collect()
    }

    fn pool(&mut self, family: Family) -> Option<&mut (IpNet, Pool)> {
        self.ranges.iter_mut().find(|(range, _)| Family::of(range.addr()) == family)
    }

    /// Records what a stored Service has. Names what it cannot have.
    pub(crate) fn occupy(&mut self, owner: &str, o: &Value) -> Vec<String> {
        let held = Held::by(o);
        let mut faults = Vec::new();
        for ip in held.addresses {
            if let Err(reason) = self.take_address(ip, owner) {
                faults.push(format!("address {ip}: {reason}"));
            }
        }
        for port in held.ports {
            if let Err(reason) = self.take_port(port.into(), owner) {
                faults.push(format!("node port {port}: {reason}"));
            }
        }
        faults
    }

    /// Completes a new state of the Service `owner`: families, addresses and ports. What the old state had and the new
    /// one lacks is free again. Refused, nothing has changed.
    pub(crate) fn hold(&mut self, owner: &str, new: &mut Value, old: Option<&Value>) -> Result<(), Refused> {
        families::fill(new, old, &self.families()).map_err(Refused::Invalid)?;
        let before = old.map(Held::by).unwrap_or_default();
        let mut taken = Held::default();
        let result = self
            .give_addresses(owner, new, &before, &mut taken)
            .and_then(|()| self.give_ports(owner, new, &before, &mut taken))
            .and_then(|()| self.give_health_port(owner, new, &before, &mut taken));
        if let Err(refused) = result {
            self.free(owner, &taken, &Held::default());
            return Err(refused);
        }
        self.free(owner, &before, &Held::by(new));
        Ok(())
    }

    /// Frees what a Service had.
    pub(crate) fn release(&mut self, owner: &str, o: &Value) {
        self.free(owner, &Held::by(o), &Held::default());
    }

    fn free(&mut self, owner: &str, held: &Held, but: &Held) {
        for ip in held.addresses.difference(&but.addresses) {
            if let Some((_, pool)) = self.pool(Family::of(*ip)) {
                pool.release(bits(*ip), owner);
            }
        }
        for port in held.ports.difference(&but.ports) {
            self.ports.release((*port).into(), owner);
        }
    }

    fn take_address(&mut self, ip: IpAddr, owner: &str) -> Result<(), String> {
        let Some((range, pool)) = self.pool(Family::of(ip)) else {
            return Err(format!("{} is not configured on this cluster", families::name(Family::of(ip))));
        };
        let range = *range;
        pool.take(bits(ip), owner).map_err(|e| match e {
            Unavailable::Taken => "provided IP is already allocated".into(),
            Unavailable::OutOfRange => {
                format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}")
            }
        })
    }

    fn take_port(&mut self, port: i64, owner: &str) -> Result<(), String> {
        let (first, last) = (self.node_ports.start(), self.node_ports.end());
        let outside =
            format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        let Ok(number) = u128::try_from(port) else { return Err(outside) };
        self.ports.take(number, owner).map_err(|e| match e {
            Unavailable::Taken => "provided port is already allocated".into(),
            Unavailable::OutOfRange => outside,
        })
    }

    /// A free port for `owner`, noted in `taken`; `what` it is for is said when there is none.
    fn next_port(&mut self, what: &str, owner: &str, taken: &mut Held) -> Result<u16, Refused> {
        let next = self.ports.next(owner).and_then(|n| u16::try_from(n).ok());
        let next = next.ok_or_else(|| full(what, "--service-node-port-range"))?;
        taken.ports.insert(next);
        Ok(next)
    }

    fn give_addresses(
        &mut self,
        owner: &str,
        new: &mut Value,
        before: &Held,
        taken: &mut Held,
    ) -> Result<(), Refused> {
        if is_external_name(new) || is_headless(new) {
            return Ok(());
        }
        let wanted: Vec<String> = texts(new, "/spec/clusterIPs").into_iter().map(str::to_owned).collect();
        let mut given = Vec::new();
        for (i, family) in texts(new, "/spec/ipFamilies").into_iter().enumerate() {
            let family = if family == "IPv4" { Family::V4 } else { Family::V6 };
            if let Some(asked) = wanted.get(i) {
                // Well formed: `families::fill` has looked at it.
                let Ok(ip) = asked.parse::<IpAddr>() else { continue };
                if !before.addresses.contains(&ip) {
                    self.take_address(ip, owner).map_err(|reason| {
                        let mut causes = Causes::default();
                        let rule = format!("failed to allocate IP {ip}: {reason}");
                        causes.invalid_value("spec.clusterIPs", &json!(wanted), rule);
                        Refused::Invalid(causes)
                    })?;
                    taken.addresses.insert(ip);
                }
                given.push(asked.clone());
                continue;
            }
            let next = self.pool(family).and_then(|(_, pool)| pool.next(owner));
            let ip = next.and_then(|bits| address(family, bits));
            let ip = ip.ok_or_else(|| full("a serviceIP", "--service-cidr"))?;
            taken.addresses.insert(ip);
            given.push(ip.to_string());
        }
        let spec = object(new, "spec");
        if let Some(first) = given.first() {
            spec.insert("clusterIP".into(), first.clone().into());
            spec.insert("clusterIPs".into(), given.into());
        }
        Ok(())
    }

    fn give_ports(
        &mut self,
        owner: &str,
        new: &mut Value,
        before: &Held,
        taken: &mut Held,
    ) -> Result<(), Refused> {
        if !uses_node_ports(new) {
            return Ok(());
        }
        // Those asked for first, so that none of them is given to another port of the same Service.
        for (i, port) in list(new, "/spec/ports").iter().enumerate() {
            let wanted = number(port, "/nodePort");
            if wanted == 0 || u16::try_from(wanted).is_ok_and(|p| before.ports.contains(&p)) {
                continue;
            }
            // One port number serves several protocols of one Service.
            self.take_port(wanted, owner).map_err(|reason| {
                let mut causes = Causes::default();
                causes.invalid_value(&format!("spec.ports[{i}].nodePort"), &json!(wanted), reason);
                Refused::Invalid(causes)
            })?;
            taken.ports.extend(u16::try_from(wanted).ok());
        }
        if of_type(new) == "LoadBalancer" && new["spec"]["allocateLoadBalancerNodePorts"] == false {
            return Ok(());
        }
        let with_node_port = list(new, "/spec/ports").iter().filter(|p| number(p, "/nodePort") != 0);
        let mut used: Vec<(i64, i64, String)> = with_node_port
            .map(|p| (number(p, "/port"), number(p, "/nodePort"), text(p, "/protocol").to_owned()))
            .collect();
        for port in each(object(new, "spec"), "ports") {
            let int = |port: &serde_json::Map<String, Value>, key: &str| {
                port.get(key).and_then(Value::as_i64).unwrap_or(0)
            };
            if int(port, "nodePort") != 0 {
                continue;
            }
            let service_port = int(port, "port");
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or_default().to_owned();
            // The same port of another protocol, as DNS has it, is reached at the same port of the nodes.
            let shared = used.iter().find(|(p, node, _)| {
                *p == service_port && !used.iter().any(|(_, n, other)| n == node && *other == protocol)
            });
            let node_port = match shared {
                Some((_, node, _)) => *node,
                None => self.next_port("a nodePort", owner, taken)?.into(),
            };
            used.push((service_port, node_port, protocol));
            port.insert("nodePort".into(), node_port.into());
        }
        Ok(())
    }

    fn give_health_port(
        &mut self,
        owner: &str,
        new: &mut Value,
        before: &Held,
        taken: &mut Held,
    ) -> Result<(), Refused> {
        if !uses_health_port(new) {
            return Ok(());
        }
        let wanted = number(new, "/spec/healthCheckNodePort");
        let invalid = |reason: String| {
            let mut causes = Causes::default();
            let rule = format!("failed to allocate requested HealthCheck NodePort {wanted}: {reason}");
            causes.invalid_value("spec.healthCheckNodePort", &json!(wanted), rule);
            Refused::Invalid(causes)
        };
        if wanted != 0 {
            // It answers by itself: no port of the Service may have the same number.
            if list(new, "/spec/ports").iter().any(|p| number(p, "/nodePort") == wanted) {
                return Err(invalid("provided port is already allocated".into()));
            }
            if u16::try_from(wanted).is_ok_and(|p| before.ports.contains(&p)) {
                return Ok(());
            }
            self.take_port(wanted, owner).map_err(invalid)?;
            taken.ports.extend(u16::try_from(wanted).ok());
            return Ok(());
        }
        let next = self.next_port("a HealthCheck NodePort", owner, taken)?;
        object(new, "spec").insert("healthCheckNodePort".into(), next.into());
        Ok(())
    }

    /// What each owner has, by what was handed out.
    #[cfg(test)]
    pub(crate) fn all(&self) -> std::collections::BTreeMap<String, Held> {
        let mut all: std::collections::BTreeMap<String, Held> = std::collections::BTreeMap::new();
        for (range, pool) in &self.ranges {
            for (number, owner) in pool.taken() {
                let ip = address(Family::of(range.addr()), *number).unwrap();
                all.entry(owner.clone()).or_default().addresses.insert(ip);
            }
        }
        for (number, owner) in self.ports.taken() {
            all.entry(owner.clone()).or_default().ports.insert(u16::try_from(*number).unwrap());
        }
        all
    }
}

/// Nothing is left to give; `flag` of the server makes the range larger.
fn full(what: &str, flag: &str) -> Refused {
    Refused::Full(format!(
        "failed to allocate {what}: range is full; delete Services, or start the server with a larger {flag}"
    ))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
