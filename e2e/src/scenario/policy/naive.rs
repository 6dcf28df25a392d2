//! Who may talk to whom, evaluated one question at a time as the API documentation of NetworkPolicy reads. It shares nothing
//! with what Warren decides by.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Labels of a pod or a namespace.
pub(super) type Labels = BTreeMap<String, String>;

/// A pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Pod {
    /// Its namespace.
    pub(super) namespace: String,
    /// Its node.
    pub(super) node: String,
    /// Its labels.
    pub(super) labels: Labels,
    /// Its addresses.
    pub(super) ips: Vec<IpAddr>,
    /// Its named ports: name, protocol, number.
    pub(super) ports: Vec<(String, String, u16)>,
}

/// All that policies speak of.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    /// The namespaces and their labels.
    pub(super) namespaces: BTreeMap<String, Labels>,
    /// The pods, by name.
    pub(super) pods: BTreeMap<String, Pod>,
    /// The policies, by namespace and name.
    pub(super) policies: BTreeMap<(String, String), NetworkPolicySpec>,
}

/// An end of a connection.
#[derive(Debug, Clone)]
pub(super) struct End<'a> {
    /// A pod's name, a node's, or anything else.
    pub(super) name: &'a str,
    /// Its address in this connection.
    pub(super) ip: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Cluster {
    /// Whether a connection from one place to a port of another is allowed.
    #[must_use]
    pub(super) fn allows(&self, from: &End<'_>, to: &End<'_>, protocol: &str, port: u16) -> bool {
        let (source, target) = (self.pods.get(from.name), self.pods.get(to.name));
        // "Pods cannot block access to themselves."
        if source.is_some() && from.name == to.name {
            return true;
        }
        // "Traffic to and from the node where a Pod is running is always allowed, regardless of the IP address of the Pod or
        // the node."
        let own_node = |pod: Option<&Pod>, other: &End<'_>| pod.is_some_and(|pod| pod.node == other.name);
        if own_node(source, to) || own_node(target, from) {
            return true;
        }
        // "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod
        // and the ingress policy on the destination pod need to allow the connection."
        let to_port = (target, protocol, port);
        source.is_none_or(|pod| self.direction_allows(Direction::Egress, pod, to, to_port))
            && target.is_none_or(|pod| self.direction_allows(Direction::Ingress, pod, from, to_port))
    }

    fn direction_allows(
        &self,
        direction: Direction,
        pod: &Pod,
        peer: &End<'_>,
        port: (Option<&Pod>, &str, u16),
    ) -> bool {
        let mut isolated = false;
        for ((namespace, _), spec) in &self.policies {
            let everything = LabelSelector::default();
            let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
            if *namespace != pod.namespace
                || !selects(selector, &pod.labels)
                || !types(spec).contains(&direction)
            {
                continue;
            }
            isolated = true;
            let allowed = match direction {
                Direction::Ingress => spec.ingress.iter().flatten().any(|rule| {
                    self.peers_match(namespace, rule.from.as_deref(), peer)
                        && ports_match(rule.ports.as_deref(), port)
                }),
                Direction::Egress => spec.egress.iter().flatten().any(|rule| {
                    self.peers_match(namespace, rule.to.as_deref(), peer)
                        && ports_match(rule.ports.as_deref(), port)
                }),
            };
            // "Network policies do not conflict; they are additive."
            if allowed {
                return true;
            }
        }
        !isolated
    }

    /// "If this field is empty or missing, this rule matches all sources."
    fn peers_match(&self, namespace: &str, peers: Option<&[NetworkPolicyPeer]>, end: &End<'_>) -> bool {
        let peers = peers.unwrap_or_default();
        peers.is_empty() || peers.iter().any(|peer| self.peer_matches(namespace, peer, end))
    }

    fn peer_matches(&self, own: &str, peer: &NetworkPolicyPeer, end: &End<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            let within = |cidr: &String| cidr.parse::<IpNet>().is_ok_and(|net| net.contains(&end.ip));
            return within(&block.cidr) && !block.except.iter().flatten().any(within);
        }
        let Some(pod) = self.pods.get(end.name) else { return false };
        let namespace_matches = match &peer.namespace_selector {
            Some(selector) => {
                self.namespaces.get(&pod.namespace).is_some_and(|labels| selects(selector, labels))
            }
            // "If NamespaceSelector is not set, it selects the pods in the policy's own namespace."
            None => pod.namespace == own,
        };
        namespace_matches && peer.pod_selector.as_ref().is_none_or(|s| selects(s, &pod.labels))
    }
}

/// "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will be set if
/// the NetworkPolicy has any egress rules."
fn types(spec: &NetworkPolicySpec) -> Vec<Direction> {
    let given = spec.policy_types.as_deref().unwrap_or_default();
    if given.is_empty() {
        let egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
        return [Direction::Ingress].into_iter().chain(egress.then_some(Direction::Egress)).collect();
    }
    let known = [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)];
    known.into_iter().filter(|(word, _)| given.iter().any(|g| g == word)).map(|(_, d)| d).collect()
}

/// "The result of matchLabels and matchExpressions are ANDed. An empty label selector matches all objects."
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let holds = |r: &LabelSelectorRequirement| {
        let value = labels.get(&r.key);
        let among = value.is_some_and(|v| r.values.iter().flatten().any(|x| x == v));
        match r.operator.as_str() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(holds)
}

/// "If this field is empty or missing, this rule matches all ports." Names are those of the pod that receives.
fn ports_match(
    ports: Option<&[NetworkPolicyPort]>,
    (receiver, protocol, number): (Option<&Pod>, &str, u16),
) -> bool {
    let ports = ports.unwrap_or_default();
    let matches = |port: &NetworkPolicyPort| {
        if port.protocol.as_deref().unwrap_or("TCP") != protocol {
            return false;
        }
        match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => {
                (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(number))
            }
            Some(IntOrString::String(name)) => receiver.is_some_and(|pod| {
                pod.ports.iter().any(|(n, proto, at)| n == name && proto == protocol && *at == number)
            }),
        }
    };
    ports.is_empty() || ports.iter().any(matches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Pods x-a and x-b on n1 and n2, y-a on n2; named port `web` is TCP 80 on x-a and TCP 81 on y-a.
    fn cluster(policies: &[(&str, Value)]) -> Cluster {
        let label = |k: &str, v: &str| Labels::from([(k.to_owned(), v.to_owned())]);
        let pod = |namespace: &str, app: &str, node: &str, ip: &str, web: u16| Pod {
            namespace: namespace.into(),
            node: node.into(),
            labels: label("pod", app),
            ips: vec![ip.parse().unwrap()],
            ports: vec![("web".into(), "TCP".into(), web)],
        };
        Cluster {
            namespaces: ["x", "y"].map(|n| (n.to_owned(), label("ns", n))).into(),
            pods: BTreeMap::from([
                ("x-a".to_owned(), pod("x", "a", "n1", "10.0.1.1", 80)),
                ("x-b".to_owned(), pod("x", "b", "n2", "10.0.2.1", 80)),
                ("y-a".to_owned(), pod("y", "a", "n2", "10.0.2.2", 81)),
            ]),
            policies: policies
                .iter()
                .enumerate()
                .map(|(i, (namespace, spec))| {
                    ((namespace.to_string(), format!("p{i}")), serde_json::from_value(spec.clone()).unwrap())
                })
                .collect(),
        }
    }

    fn allows(cluster: &Cluster, from: &str, to: &str, protocol: &str, port: u16) -> bool {
        let end = |name| End {
            name,
            ip: cluster.pods.get(name).map_or_else(|| "192.0.2.1".parse().unwrap(), |p| p.ips[0]),
        };
        cluster.allows(&end(from), &end(to), protocol, port)
    }

    #[test]
    fn without_policies_all_is_allowed() {
        let c = cluster(&[]);
        assert!(allows(&c, "x-a", "y-a", "TCP", 80) && allows(&c, "outside", "x-a", "UDP", 1));
    }

    #[test]
    fn default_deny_leaves_the_pod_itself_and_its_node() {
        let c = cluster(&[("x", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))]);
        for (from, to, allowed) in [
            ("x-a", "x-b", false),
            ("y-a", "x-a", false),
            ("x-a", "y-a", false),
            ("x-a", "x-a", true),
            ("n1", "x-a", true),
            ("n2", "x-a", false),
            ("x-a", "n1", true),
            ("x-a", "n2", false),
            ("outside", "x-a", false),
            ("outside", "y-a", true),
        ] {
            assert_eq!(allows(&c, from, to, "TCP", 80), allowed, "{from} to {to}");
        }
    }

    #[test]
    fn types_default_to_ingress_and_to_egress_where_there_are_rules() {
        let of = |spec: Value| {
            let c = cluster(&[("x", spec)]);
            (allows(&c, "y-a", "x-a", "TCP", 80), allows(&c, "x-a", "y-a", "TCP", 80))
        };
        assert_eq!(of(json!({})), (false, true));
        assert_eq!(of(json!({"egress": []})), (false, true));
        assert_eq!(of(json!({"egress": [{"ports": [{"port": 1}]}]})), (false, false));
        assert_eq!(of(json!({"policyTypes": ["Egress"], "ingress": [{}]})), (true, false));
        assert_eq!(of(json!({"ingress": [{}]})), (true, true));
    }

    #[test]
    fn peers_are_alternatives_and_their_selectors_are_not() {
        let of = |from: Value| {
            let c = cluster(&[("x", json!({"ingress": [{"from": from}]}))]);
            ["x-b", "y-a", "outside"].map(|p| allows(&c, p, "x-a", "TCP", 80))
        };
        assert_eq!(of(json!([])), [true, true, true]);
        assert_eq!(of(json!([{"podSelector": {}}])), [true, false, false]);
        assert_eq!(of(json!([{"namespaceSelector": {}}])), [true, true, false]);
        let y = json!({"matchLabels": {"ns": "y"}});
        let b = json!({"matchLabels": {"pod": "b"}});
        assert_eq!(of(json!([{"namespaceSelector": y, "podSelector": b}])), [false, false, false]);
        assert_eq!(of(json!([{"namespaceSelector": y}, {"podSelector": b}])), [true, true, false]);
        let block = json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.2.2/32"]}});
        assert_eq!(of(json!([block])), [true, false, false]);
        assert_eq!(of(json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}])), [true, true, true]);
    }

    #[test]
    fn expressions_hold_as_their_operators_say() {
        let of = |operator: &str, values: &[&str], key: &str| {
            let selector: LabelSelector = serde_json::from_value(
                json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
            )
            .unwrap();
            selects(&selector, &Labels::from([("pod".into(), "a".into())]))
        };
        assert!(of("In", &["a", "b"], "pod") && !of("In", &["b"], "pod") && !of("In", &["a"], "role"));
        assert!(!of("NotIn", &["a"], "pod") && of("NotIn", &["b"], "pod") && of("NotIn", &["a"], "role"));
        assert!(of("Exists", &[], "pod") && !of("Exists", &[], "role"));
        assert!(!of("DoesNotExist", &[], "pod") && of("DoesNotExist", &[], "role"));
    }

    #[test]
    fn ports_are_of_the_receiver() {
        let of = |ports: Value, protocol: &str, port: u16| {
            let egress = cluster(&[("x", json!({"policyTypes": ["Egress"], "egress": [{"ports": ports}]}))]);
            allows(&egress, "x-b", "y-a", protocol, port)
        };
        assert!(of(json!([{"port": 80}]), "TCP", 80) && !of(json!([{"port": 80}]), "UDP", 80));
        assert!(of(json!([{"protocol": "UDP"}]), "UDP", 9) && !of(json!([{"protocol": "UDP"}]), "TCP", 9));
        let range = json!([{"port": 80, "endPort": 82}]);
        assert!(of(range.clone(), "TCP", 82) && !of(range, "TCP", 83));
        assert!(of(json!([{"port": "web"}]), "TCP", 81) && !of(json!([{"port": "web"}]), "TCP", 80));
        assert!(!of(json!([{"port": "web", "protocol": "UDP"}]), "UDP", 81));
        assert!(!of(json!([{"port": "none"}]), "TCP", 81) && of(json!([]), "UDP", 7));
    }
}
