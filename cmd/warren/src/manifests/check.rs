//! What may stand in a manifest: values whose form is known cannot become other YAML than was meant.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A name of at most 63 lower-case letters, digits and dashes (RFC 1123 label).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DnsLabel(String);

fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (first, last) = (text.bytes().next(), text.bytes().last());
    text.len() <= 63
        && first.is_some_and(plain)
        && last.is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b == b'-')
}

impl FromStr for DnsLabel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if is_label(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err("lower-case letters, digits and dashes only".into())
        }
    }
}

impl fmt::Display for DnsLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reference of an image: letters, digits and `./:@_-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image(String);

impl FromStr for Image {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./:@_-".contains(&b));
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let tagged = !text.ends_with([':', '/', '@']);
        if good && starts && tagged {
            Ok(Self(text.to_owned()))
        } else {
            Err("not the name of an image, such as warren:1.0".into())
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an API is, as a pod's environment says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Api {
    /// A name or an address.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
}

impl Api {
    /// Whether only the machine itself reaches it.
    pub(super) fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Api {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").ok_or("a URL that begins with https:// is needed")?;
        let authority = rest.trim_end_matches('/');
        if authority.contains(['/', '?', '#', '@']) {
            return Err("only https://HOST:PORT; no path, no credentials".into());
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            Some((inner, port)) => {
                let address: Ipv6Addr =
                    inner.parse().map_err(|_| format!("{inner:?} is not an IPv6 address"))?;
                (address.to_string(), port.strip_prefix(':').or(port.is_empty().then_some("443")))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (authority.to_owned(), Some("443")),
            },
        };
        let port =
            port.and_then(|p| p.parse::<u16>().ok()).filter(|p| *p != 0).ok_or("the port is not a number")?;
        let address: Option<IpAddr> = host.parse().ok();
        if address.is_none() && !host.split('.').all(is_label) {
            return Err(format!("{host:?} is neither a name nor an address"));
        }
        if address == Some(Ipv4Addr::UNSPECIFIED.into()) || address == Some(Ipv6Addr::UNSPECIFIED.into()) {
            return Err(format!("{host} is no address that can be reached"));
        }
        Ok(Self { host, port })
    }
}

/// A key of the agents' configuration, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// The key.
    pub(super) key: String,
    /// The value.
    pub(super) value: String,
}

/// Keys that the manifests themselves decide.
const OURS: &[&str] = &[
    "kubeconfig",
    "server",
    "token",
    "token-file",
    "node-name",
    "register-node",
    "data-dir",
    "run-dir",
    "cni-conf-dir",
    "cni-bin-dir",
    "cluster-cidr",
    "service-cidr",
    "ingress-certificates",
];

impl FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("KEY=VALUE is needed, such as mtu=1420")?;
        if OURS.contains(&key) {
            return Err(format!(
                "{key} is not for --set: the manifests decide it, or a flag of `warren manifests`"
            ));
        }
        if !warren_agent::config::KEYS.contains(&key) {
            return Err(format!("{key:?} is no setting of the agent; `warren agent --help` lists them"));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("the value of {key} has control characters"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// An absolute path without anything that YAML could take for itself.
pub(super) fn directory(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
    if text.starts_with('/') && plain {
        Ok(text.to_owned())
    } else {
        Err("an absolute path of plain characters is needed".into())
    }
}
