//! Where an upstream is: `10.0.0.53`, `[fd00::53]:5353`, `fe80::1%eth0`, `tls://1.1.1.1#one.one.one.one`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// Port of plain DNS.
const DNS: u16 = 53;
/// Port of DNS over TLS (RFC 7858).
const DNS_OVER_TLS: u16 = 853;

/// Another resolver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// The link of an IPv6 link-local address, as its name or index.
    pub zone: Option<Box<str>>,
    /// How it is asked.
    pub transport: Transport,
}

/// How an upstream is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// By UDP, and by TCP what does not fit.
    Plain,
    /// Over TLS; its certificate must be for this name, or for its address when there is none.
    Tls(Option<Box<str>>),
}

/// Why a text names no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no upstream resolver: {why}. Give an address, as 10.0.0.53, 10.0.0.53:5353, [fd00::53]:5353, \
     fe80::1%eth0, or tls://1.1.1.1#name-in-its-certificate"
)]
pub struct InvalidAddress {
    text: String,
    why: &'static str,
}

/// Why the address of an upstream can not be used now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("upstream {address}: there is no link {zone:?} on this node now")]
pub struct NoSuchLink {
    address: Address,
    zone: String,
}

impl Address {
    /// A plain resolver at the usual port.
    #[must_use]
    pub fn plain(ip: IpAddr) -> Self {
        Self { ip, port: DNS, zone: None, transport: Transport::Plain }
    }

    /// The address for a socket.
    ///
    /// # Errors
    /// [`NoSuchLink`] when its link is not there; links come and go, so this is asked anew each time.
    pub fn socket(&self) -> Result<SocketAddr, NoSuchLink> {
        match (self.ip, &self.zone) {
            (IpAddr::V6(ip), Some(zone)) => {
                let index = zone.parse().or_else(|_| nix::net::if_::if_nametoindex(&**zone));
                let index =
                    index.map_err(|_| NoSuchLink { address: self.clone(), zone: zone.to_string() })?;
                Ok(SocketAddrV6::new(ip, self.port, 0, index).into())
            }
            (ip, _) => Ok(SocketAddr::new(ip, self.port)),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = |why| InvalidAddress { text: text.into(), why };
        if !text.starts_with("tls://") && text.contains("://") {
            return Err(invalid("tls is the only scheme that is known"));
        }
        let (rest, transport) = match text.strip_prefix("tls://") {
            None => (text, Transport::Plain),
            Some(rest) => match rest.split_once('#') {
                None => (rest, Transport::Tls(None)),
                Some((_, "")) => return Err(invalid("the name behind # is empty")),
                Some((rest, name)) => {
                    rustls::pki_types::ServerName::try_from(name)
                        .map_err(|_| invalid("what stands behind # is no host name"))?;
                    (rest, Transport::Tls(Some(name.into())))
                }
            },
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| invalid("] is missing"))?;
                let port = port.strip_prefix(':').map(Some).or(port.is_empty().then_some(None));
                (host, port.ok_or_else(|| invalid("only a port may follow ]"))?)
            }
            None => match rest.split_once(':') {
                // More than one colon: IPv6 without a port.
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (rest, None),
            },
        };
        let port = match port {
            None if transport == Transport::Plain => DNS,
            None => DNS_OVER_TLS,
            Some(port) => {
                port.parse().ok().filter(|&port| port != 0).ok_or_else(|| invalid("its port is none"))?
            }
        };
        let (host, zone) = match host.split_once('%') {
            None => (host, None),
            Some((host, zone)) => (host, Some(zone)),
        };
        let ip: IpAddr = host.parse().map_err(|_| invalid("it is not an IP address"))?;
        if let Some(zone) = zone {
            let link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let named = !zone.is_empty()
                && zone.len() < 16
                && zone.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
            if !link || !named {
                return Err(invalid(
                    "only a link-local IPv6 address has a link behind %, of 1 to 15 characters",
                ));
            }
        }
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
            return Err(invalid("that is not the address of one host"));
        }
        Ok(Self { ip: ip.to_canonical(), port, zone: zone.map(Into::into), transport })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (usual, name) = match &self.transport {
            Transport::Plain => (DNS, None),
            Transport::Tls(name) => {
                f.write_str("tls://")?;
                (DNS_OVER_TLS, name.as_deref())
            }
        };
        let zone = self.zone.as_deref().map(|zone| format!("%{zone}")).unwrap_or_default();
        match self.ip {
            ip if self.port == usual => write!(f, "{ip}{zone}")?,
            IpAddr::V6(ip) => write_v6(f, ip, &zone, self.port)?,
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port)?,
        }
        name.map_or(Ok(()), |name| write!(f, "#{name}"))
    }
}

fn write_v6(f: &mut fmt::Formatter<'_>, ip: Ipv6Addr, zone: &str, port: u16) -> fmt::Result {
    write!(f, "[{ip}{zone}]:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "10.0.0.53",
            "10.0.0.53:5353",
            "fd00::53",
            "[fd00::53]:5353",
            "fe80::1%eth0",
            "[fe80::1%eth0.5]:54",
            "tls://1.1.1.1#one.one.one.one",
            "tls://1.1.1.1:8853",
            "tls://[fd00::53]:54#ns.corp.example",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("[fd00::53]".parse::<Address>(), "fd00::53:".trim_end_matches(':').parse());
        assert_eq!("tls://1.1.1.1".parse::<Address>().unwrap().port, 853);
        assert_eq!("::ffff:10.0.0.1".parse::<Address>(), "10.0.0.1".parse());
    }

    #[test]
    fn what_is_no_upstream_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "not an IP"),
            ("dns.example", "not an IP"),
            ("10.0.0.1:", "port"),
            ("10.0.0.1:0", "port"),
            ("10.0.0.1:99999", "port"),
            ("10.0.0.1%eth0", "link-local"),
            ("fe80::1%", "link-local"),
            ("fe80::1%../../x", "link-local"),
            ("[fd00::1", "]"),
            ("[fd00::1]5353", "only a port"),
            ("tls://1.1.1.1#", "empty"),
            ("tls://1.1.1.1#a b", "host name"),
            ("0.0.0.0", "one host"),
            ("ff02::fb", "one host"),
            ("udp://1.1.1.1", "scheme"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(&format!("{text:?}")), "{text}: {error}");
        }
    }

    #[test]
    fn a_link_is_found_by_name_and_number() {
        let index = |text: &str| match text.parse::<Address>().unwrap().socket() {
            Ok(SocketAddr::V6(address)) => Some(address.scope_id()),
            _ => None,
        };
        assert_eq!(index("fe80::1%lo"), index("fe80::1%1"));
        assert_eq!(index("fe80::1%nosuchlink"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm_and_comes_back(text in "(tls://)?\\[?[0-9a-f:.%]{0,24}\\]?(:[0-9]{1,5})?(#[a-z.]{0,9})?") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }
    }
}
