//! Results of ADD.

use super::{Code, Refusal, SpecVersion};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// An interface that ADD made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; empty when not told.
    pub mac: String,
    /// Path of its namespace; empty on the host.
    pub sandbox: String,
    /// Its MTU (from 1.1.0 on).
    pub mtu: Option<u32>,
}

/// An address that ADD assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpEntry {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The default gateway.
    pub gateway: Option<IpAddr>,
    /// Index of the interface in the list.
    pub interface: Option<usize>,
}

/// A route that ADD made in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destination.
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
}

/// What ADD did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Interfaces, on the host and in the pod.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpEntry>,
    /// Routes in the pod.
    pub routes: Vec<RouteEntry>,
    /// DNS settings, as the configuration gave them.
    pub dns: Map<String, Value>,
}

impl AddResult {
    /// The result in the format of a version, put behind that of the plugin before in the chain.
    #[must_use]
    pub fn render(&self, version: SpecVersion, prev: Option<&Map<String, Value>>) -> Value {
        let mut out = prev.cloned().unwrap_or_default();
        out.insert("cniVersion".into(), version.as_str().into());
        let before = extend(&mut out, "interfaces", self.interfaces.iter().map(|i| i.render(version)));
        extend(&mut out, "ips", self.ips.iter().map(|ip| ip.render(version, before)));
        extend(&mut out, "routes", self.routes.iter().map(RouteEntry::render));
        let dns = out.entry("dns").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(dns) = dns {
            dns.extend(self.dns.clone());
        }
        Value::Object(out)
    }

    /// Reads a result of any version.
    ///
    /// # Errors
    /// Code 6, naming the field.
    pub fn parse(fields: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut result = Self::default();
        for item in items(fields, "interfaces")? {
            let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let mtu = item.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok());
            result.interfaces.push(Interface {
                name: text("name"),
                mac: text("mac"),
                sandbox: text("sandbox"),
                mtu,
            });
        }
        for item in items(fields, "ips")? {
            let interface = item.get("interface").and_then(Value::as_u64);
            result.ips.push(IpEntry {
                address: parsed(item, "address")?.ok_or_else(|| undecodable("ips", "address"))?,
                gateway: parsed(item, "gateway")?,
                interface: interface.and_then(|index| usize::try_from(index).ok()),
            });
        }
        for item in items(fields, "routes")? {
            result.routes.push(RouteEntry {
                dst: parsed(item, "dst")?.ok_or_else(|| undecodable("routes", "dst"))?,
                gw: parsed(item, "gw")?,
            });
        }
        if let Some(Value::Object(dns)) = fields.get("dns") {
            result.dns = dns.clone();
        }
        Ok(result)
    }
}

impl Interface {
    fn render(&self, version: SpecVersion) -> Value {
        let mut out = json!({ "name": self.name });
        if !self.mac.is_empty() {
            out["mac"] = self.mac.clone().into();
        }
        if let (Some(mtu), true) = (self.mtu, version >= SpecVersion::V1_1_0) {
            out["mtu"] = mtu.into();
        }
        if !self.sandbox.is_empty() {
            out["sandbox"] = self.sandbox.clone().into();
        }
        out
    }
}

impl IpEntry {
    fn render(&self, version: SpecVersion, before: usize) -> Value {
        let mut out = Map::new();
        if version < SpecVersion::V1_0_0 {
            let family = if self.address.addr().is_ipv4() { "4" } else { "6" };
            out.insert("version".into(), family.into());
        }
        if let Some(index) = self.interface {
            out.insert("interface".into(), (index + before).into());
        }
        out.insert("address".into(), self.address.to_string().into());
        if let Some(gateway) = self.gateway {
            out.insert("gateway".into(), gateway.to_string().into());
        }
        Value::Object(out)
    }
}

impl RouteEntry {
    fn render(&self) -> Value {
        match self.gw {
            Some(gw) => json!({ "dst": self.dst.to_string(), "gw": gw.to_string() }),
            None => json!({ "dst": self.dst.to_string() }),
        }
    }
}

/// Puts entries behind those of the list under `name`; what is no list gives way to one. Returns how many were there.
fn extend(out: &mut Map<String, Value>, name: &str, entries: impl IntoIterator<Item = Value>) -> usize {
    let slot = out.entry(name).or_insert(Value::Null);
    let mut list = match slot.take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let before = list.len();
    list.extend(entries);
    *slot = Value::Array(list);
    before
}

fn items<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(Refusal::new(Code::Decode, format!("prevResult.{name} is not a list"))),
    }
}

fn parsed<T: std::str::FromStr>(item: &Value, name: &str) -> Result<Option<T>, Refusal> {
    match item.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| undecodable("an entry", name)),
        Some(_) => Err(undecodable("an entry", name)),
    }
}

fn undecodable(of: &str, name: &str) -> Refusal {
    Refusal::new(Code::Decode, format!("prevResult: {of} has no valid {name}"))
}
