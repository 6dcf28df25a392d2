//! Policies that nobody would write, from a seed.

use super::case::{Case, Stage};
use super::naive::Cluster;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];

/// A source of numbers that a seed repeats (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from(z % limit).unwrap_or_default()
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let n = self.below(of.len());
        of.get(n).copied().unwrap_or_default()
    }

    /// So many as `make` makes.
    fn several(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> Value) -> Vec<Value> {
        let count = 1 + self.below(most);
        (0..count).map(|_| make(self)).collect()
    }

    fn selector(&mut self, keys: &[(&str, &[&str])]) -> Value {
        if self.once_in(4) {
            return json!({});
        }
        let n = self.below(keys.len());
        let Some((key, values)) = keys.get(n).copied() else { return json!({}) };
        match self.below(5) {
            0 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
            1 => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
            2 => {
                let list = [self.one(values), self.one(values)];
                let operator = self.one(&["In", "NotIn"]);
                json!({"matchExpressions": [{"key": key, "operator": operator, "values": list}]})
            }
            _ => json!({"matchLabels": {key: self.one(values)}}),
        }
    }

    fn pods(&mut self) -> Value {
        self.selector(&[("pod", &["a", "b", "c"]), ("pod", &["a", "b", "c"]), ("role", &["db", "web"])])
    }

    fn namespaces(&mut self) -> Value {
        self.selector(&[("ns", &NAMESPACES), ("team", &["blue", "red"])])
    }

    fn block(&mut self, cluster: &Cluster) -> Value {
        let ips: Vec<_> = cluster.pods.values().flat_map(|pod| pod.ips.iter().copied()).collect();
        let n = self.below(ips.len());
        let Some(ip) = ips.get(n) else { return json!({}) };
        let v4 = ip.is_ipv4();
        let around = |bits: u8| ipnet::IpNet::new(*ip, bits).map(|net| net.trunc().to_string());
        let wide = if v4 { [32, 28, 24, 16, 0] } else { [128, 120, 64, 56, 0] };
        let n = self.below(wide.len());
        let cidr = wide.get(n).copied().unwrap_or_default();
        let mut block = json!({"cidr": around(cidr).unwrap_or_default()});
        let inner: Vec<String> =
            wide.iter().take(n).filter(|_| self.once_in(2)).filter_map(|bits| around(*bits).ok()).collect();
        if !inner.is_empty() {
            block["except"] = json!(inner);
        }
        json!({"ipBlock": block})
    }

    fn peer(&mut self, cluster: &Cluster) -> Value {
        match self.below(6) {
            0 | 1 => json!({"podSelector": self.pods()}),
            2 | 3 => json!({"namespaceSelector": self.namespaces()}),
            4 => json!({"namespaceSelector": self.namespaces(), "podSelector": self.pods()}),
            _ => self.block(cluster),
        }
    }

    /// Names of ports only where the peers are pods, or anyone: what a name is for an address is told nowhere.
    fn port(&mut self, names: bool) -> Value {
        let protocol = self.one(&["TCP", "TCP", "UDP", "UDP", "SCTP"]);
        match self.below(if names { 5 } else { 4 }) {
            0 => json!({"protocol": protocol}),
            1 => json!({"protocol": protocol, "port": 80, "endPort": 80 + self.below(3)}),
            2 | 3 => json!({"protocol": protocol, "port": 80 + self.below(2)}),
            _ => json!({"protocol": protocol, "port": self.one(&["web", "alt", "dgram"])}),
        }
    }

    fn rule(&mut self, peers: &str, cluster: &Cluster) -> Value {
        let mut rule = json!({});
        let mut names = true;
        if !self.once_in(4) {
            let list = self.several(3, |dice| dice.peer(cluster));
            names = !list.iter().any(|peer| peer.get("ipBlock").is_some());
            rule[peers] = json!(list);
        }
        if self.once_in(2) {
            rule["ports"] = json!(self.several(3, |dice| dice.port(names)));
        }
        rule
    }

    fn policy(&mut self, cluster: &Cluster) -> Value {
        let mut spec = json!({"podSelector": self.pods()});
        for (section, peers) in [("ingress", "from"), ("egress", "to")] {
            if !self.once_in(3) {
                let rules = self.several(3, |dice| dice.rule(peers, cluster));
                spec[section] = json!(rules);
            }
        }
        let types: &[&str] = match self.below(4) {
            0 => &["Ingress"],
            1 => &["Egress"],
            2 => &["Ingress", "Egress"],
            _ => return spec,
        };
        spec["policyTypes"] = json!(types);
        spec
    }

    fn labels(&mut self, key: &str, values: &[&str]) -> Map<String, Value> {
        let value = if self.once_in(3) { Value::Null } else { self.one(values).into() };
        [(key.to_owned(), value)].into_iter().collect()
    }

    /// A set of policies and labels for this cluster.
    #[must_use]
    pub(super) fn case(&mut self, name: String, cluster: &Cluster) -> Case {
        let mut policies = BTreeMap::new();
        for n in 0..=self.below(6) {
            let namespace = self.one(&NAMESPACES);
            policies.insert(format!("{namespace}/r{n}"), self.policy(cluster));
        }
        let names: Vec<&str> = cluster.pods.keys().map(String::as_str).collect();
        let pods =
            (0..4).map(|_| (self.one(&names).to_owned(), self.labels("role", &["db", "web"]))).collect();
        let namespaces = (0..2)
            .map(|_| (self.one(&NAMESPACES).to_owned(), self.labels("team", &["blue", "red"])))
            .collect();
        let first = Stage { policies, pods, namespaces, remove: Vec::new() };
        Case { case: name, first, then: Vec::new() }
    }
}
