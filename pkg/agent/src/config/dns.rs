//! The part of the configuration that is about cluster DNS.

use super::RawConfig;
use super::services::on_off;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use warren_dns::DnsConfig;
use warren_dns::answer::PodNames;
use warren_dns::limits::Rate;
use warren_dns::overrides::Overrides;
use warren_dns::wire::Name;

/// Longest TTL that may be asked for, in seconds.
const LONGEST_TTL: u32 = 3_600;

impl RawConfig {
    /// None when somebody else serves cluster DNS.
    pub(super) fn dns(&mut self) -> Option<DnsConfig> {
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
        let on = self.parse("dns", on_off).unwrap_or(true);
        let config = DnsConfig {
            domain: domain.unwrap_or_else(default_domain),
            addresses: self.dns_addresses(),
            ttl: self.parse("dns-ttl", ttl).unwrap_or(5),
            pods: self.parse("dns-pod-names", pod_names).unwrap_or_default(),
            search: self.parse("dns-search", on_off).unwrap_or(true),
            upstreams: self.parts("dns-upstream"),
            overrides: Arc::new(overrides),
            offline: self.parse("dns-offline", super::boolean).unwrap_or(false),
            limit: self.parse("dns-client-limit", limit).unwrap_or_default(),
        };
        on.then_some(config)
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

/// Questions a second; 0 is no limit. A second's worth may come at once.
fn limit(v: &str) -> Result<Rate, String> {
    let per_second = v.parse().map_err(|_| format!("{v:?} is not a number of questions a second"))?;
    Ok(Rate { per_second, burst: per_second, ..Rate::default() })
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

    fn read(said: &[(&str, &[&str])]) -> (Option<DnsConfig>, Vec<super::super::Fault>) {
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
        let settings = settings.unwrap();
        assert_eq!(faults, []);
        assert!(settings.search && !settings.offline);
        assert_eq!((settings.ttl, settings.domain.to_string()), (5, "cluster.local.".into()));
    }

    #[test]
    fn everything_can_be_said() {
        let (settings, faults) = read(&[
            ("dns", &["on"]),
            ("dns-client-limit", &["500"]),
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
        let settings = settings.unwrap();
        assert!(!settings.search && settings.offline && settings.limit.per_second == 500);
        assert_eq!(read(&[("dns", &["off"])]), (None, Vec::new()));
        assert_eq!((settings.addresses.len(), settings.upstreams.len(), settings.ttl), (2, 2, 30));
        assert_eq!(settings.pods, PodNames::Insecure);
    }

    #[test]
    fn each_fault_is_named() {
        let (_, faults) = read(&[
            ("cluster-domain", &["a..b"]),
            ("cluster-dns", &["127.0.0.1"]),
            ("dns-ttl", &["4000"]),
            ("dns-client-limit", &["-1"]),
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
            "dns-client-limit",
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
