//! The part of the configuration that is about cluster DNS.

use super::RawConfig;
use super::services::on_off;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use warren_dns::answer::PodNames;
use warren_dns::overrides::Overrides;
use warren_dns::upstream::Address;
use warren_dns::wire::Name;

/// Longest TTL that may be asked for, in seconds.
const LONGEST_TTL: u32 = 3_600;

/// How cluster DNS is served on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Whether Warren serves it; else somebody else does.
    pub on: bool,
    /// The cluster's domain.
    pub domain: Name,
    /// Its addresses; empty: those of the Service `kube-system/kube-dns`, else the tenth of each range of Services.
    pub addresses: Vec<IpAddr>,
    /// TTL of the cluster's names, in seconds.
    pub ttl: u32,
    /// Which pods' addresses have names.
    pub pods: PodNames,
    /// Whether pods' search paths are walked for them.
    pub search: bool,
    /// Upstream resolvers; empty: the node's.
    pub upstreams: Vec<Address>,
    /// Stub domains, hosts and rewrites.
    pub overrides: Arc<Overrides>,
    /// Outside names are denied at once.
    pub offline: bool,
}

impl RawConfig {
    pub(super) fn dns(&mut self) -> DnsSettings {
        let (stubs, hosts, rewrites) =
            (self.each("dns-stub"), self.each("dns-host"), self.each("dns-rewrite"));
        let overrides = Overrides::new(stubs, hosts, rewrites).unwrap_or_else(|error| {
            self.fault("dns", error.to_string());
            Overrides::default()
        });
        let domain = self.parse("cluster-domain", |v| {
            let name: Name = v.parse().map_err(|e: warren_dns::wire::InvalidName| e.to_string())?;
            warren_dns::zone::Zone::new(&name).map(|_| name).map_err(|e| e.to_string())
        });
        DnsSettings {
            on: self.parse("dns", on_off).unwrap_or(true),
            domain: domain.unwrap_or_else(default_domain),
            addresses: self.dns_addresses(),
            ttl: self.parse("dns-ttl", ttl).unwrap_or(5),
            pods: self.parse("dns-pod-names", pod_names).unwrap_or_default(),
            search: self.parse("dns-search", on_off).unwrap_or(true),
            upstreams: self.parts("dns-upstream"),
            overrides: Arc::new(overrides),
            offline: self.parse("dns-offline", super::boolean).unwrap_or(false),
        }
    }

    fn dns_addresses(&mut self) -> Vec<IpAddr> {
        let shown = self.shown("cluster-dns");
        let all: Vec<IpAddr> = self.parts("cluster-dns");
        for address in &all {
            if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
                self.fault(&shown, format!("{address} cannot be reached from pods"));
            }
        }
        all
    }

    /// Values that may hold commas.
    fn each<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let texts = self.values.get(key).map(|(_, values)| values.clone()).unwrap_or_default();
        self.read_all(key, texts)
    }

    /// Values between commas.
    fn parts<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Vec<T> {
        let texts = self.list(key);
        self.read_all(key, texts)
    }

    fn read_all<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str, texts: Vec<String>) -> Vec<T> {
        let shown = self.shown(key);
        let mut out = Vec::new();
        for text in texts {
            match text.trim().parse::<T>() {
                Ok(value) => out.push(value),
                Err(error) => self.fault(&shown, error.to_string()),
            }
        }
        out
    }
}

fn default_domain() -> Name {
    #[expect(clippy::expect_used, reason = "a constant that the type accepts")]
    warren_types::defaults::CLUSTER_DOMAIN.parse().expect("a valid constant")
}

fn ttl(v: &str) -> Result<u32, String> {
    let seconds = v.parse().ok().filter(|s| *s <= LONGEST_TTL);
    seconds.ok_or_else(|| format!("{v:?} is not a number of seconds from 0 to {LONGEST_TTL}"))
}

fn pod_names(v: &str) -> Result<PodNames, String> {
    match v {
        "disabled" => Ok(PodNames::Disabled),
        "insecure" => Ok(PodNames::Insecure),
        "verified" => Ok(PodNames::Verified),
        _ => Err(format!("{v:?} is none of disabled, insecure, verified")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    fn read(said: &[(&str, &[&str])]) -> (DnsSettings, Vec<super::super::Fault>) {
        let mut raw = RawConfig::default();
        for (key, values) in said {
            raw.say(key, Origin::Flag, values.iter().map(|v| (*v).to_owned()).collect());
        }
        let settings = raw.dns();
        (settings, raw.faults)
    }

    #[test]
    fn what_is_not_said_has_the_customary_value() {
        let (settings, faults) = read(&[]);
        assert_eq!(faults, []);
        assert!(settings.on && settings.search && !settings.offline);
        assert_eq!((settings.ttl, settings.domain.to_string()), (5, "cluster.local.".into()));
    }

    #[test]
    fn everything_can_be_said() {
        let (settings, faults) = read(&[
            ("dns", &["off"]),
            ("cluster-domain", &["lab.example"]),
            ("cluster-dns", &["10.43.0.10,fd43::a"]),
            ("dns-ttl", &["30"]),
            ("dns-pod-names", &["insecure"]),
            ("dns-search", &["off"]),
            ("dns-upstream", &["192.168.1.1", "tls://9.9.9.9#dns.quad9.net"]),
            ("dns-stub", &["corp.example=10.0.0.53,10.0.0.54"]),
            ("dns-host", &["nas.home=192.168.1.5"]),
            ("dns-rewrite", &["old.example=new.example"]),
            ("dns-offline", &["true"]),
        ]);
        assert_eq!(faults, []);
        assert!(!settings.on && !settings.search && settings.offline);
        assert_eq!((settings.addresses.len(), settings.upstreams.len(), settings.ttl), (2, 2, 30));
        assert_eq!(settings.pods, PodNames::Insecure);
    }

    #[test]
    fn each_fault_is_named() {
        let (_, faults) = read(&[
            ("cluster-domain", &["a..b"]),
            ("cluster-dns", &["127.0.0.1"]),
            ("dns-ttl", &["4000"]),
            ("dns-pod-names", &["some"]),
            ("dns-upstream", &["nine"]),
            ("dns-stub", &["corp.example"]),
            ("dns-host", &["nas.home=x"]),
            ("dns-rewrite", &["old.example"]),
        ]);
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        for key in [
            "cluster-domain",
            "cluster-dns",
            "dns-ttl",
            "dns-pod-names",
            "dns-upstream",
            "dns-stub",
            "dns-host",
            "dns-rewrite",
        ] {
            assert!(keys.contains(&format!("--{key}").as_str()), "{key}: {faults:?}");
        }
    }
}
