//! What the API documentation says of each field, and what happens to pods on their way in and out.

use super::kernel::Kernel;
use super::world::{ip, namespace, node};
use crate::decide::{Flow, RuleId, Side};
use crate::engine::{Engine, Settings, Subject, Unknown};
use crate::items::Item;
use crate::keep::Held;
use crate::rules::{Action, Direction, PodSelector, Policy, PolicyId, RulePeer, Scope, Tier, TierRule};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::*;

/// Namespaces x, y and z with pods a, b and c; those of x are on this node.
struct Cluster {
    engine: Engine,
    kernel: Kernel,
}

const ALL: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

fn key(name: &str) -> PodKey {
    PodKey::parse(name).unwrap()
}

fn address(name: &str) -> IpAddr {
    match ALL.iter().position(|pod| *pod == name) {
        Some(at) => ip(&format!("10.42.{}.{}", at / 3, at % 3 + 2)),
        None => ip(name),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn is(key: &str, value: &str) -> Selector {
    Selector::new([Requirement::In(key.to_owned(), BTreeSet::from([value.to_owned()]))])
}

fn row(name: &str) -> Pod {
    let key = key(name);
    let here = key.namespace.as_str() == "x";
    let http = if name.ends_with('a') { 8080 } else { 8081 };
    Pod {
        uid: format!("uid-{}", key.name),
        node: Some(node(if here { "here" } else { "there" })),
        ips: vec![address(name)],
        host_network: false,
        labels: labels(&[("pod", key.name.as_str())]),
        finished: false,
        named_ports: vec![NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: http }],
        key,
    }
}

fn subject(name: &str) -> Subject {
    let Pod { key, uid, ips, .. } = row(name);
    Subject { pod: key, uid: Some(uid), addresses: ips, labels: None }
}

fn state(name: &str, terminating: bool) -> NamespaceState {
    NamespaceState { name: namespace(name), labels: labels(&[("ns", name)]), terminating }
}

fn pods(namespaces: Option<Selector>, pods: Selector) -> PolicyPeer {
    PolicyPeer::Pods { namespaces, pods }
}

fn block(cidr: &str, except: &[&str]) -> PolicyPeer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    PolicyPeer::Block { cidr: cidr.parse().unwrap(), except }
}

fn port(protocol: Protocol, ports: PortMatch) -> PolicyPort {
    PolicyPort { protocol, ports }
}

fn rule(peers: Vec<PolicyPeer>, ports: Vec<PolicyPort>) -> PolicyRule {
    PolicyRule { peers, ports }
}

type Rules = Option<Vec<PolicyRule>>;

fn policy(name: &str, pods: Selector, ingress: Rules, egress: Rules) -> NetworkPolicy {
    NetworkPolicy { key: PolicyKey::parse(name).unwrap(), uid: String::new(), pods, ingress, egress }
}

impl Cluster {
    fn new(policies: &[NetworkPolicy]) -> Self {
        let settings = Settings { unknown: Unknown::Closed, node: Some(node("here")) };
        let mut engine = Engine::new(settings);
        for name in ["x", "y", "z"] {
            engine.set_namespace(&namespace(name), Some(Arc::new(state(name, false))));
        }
        for name in ALL {
            engine.set_pod(&key(name), Some(Arc::new(row(name))));
        }
        for name in &ALL[..3] {
            engine.set_subject(name, Some(subject(name)));
        }
        let mut cluster = Self { engine, kernel: Kernel::default() };
        for policy in policies {
            cluster.engine.set_policy(&policy.key, Some(Arc::new(policy.clone())));
        }
        cluster.commit();
        cluster
    }

    fn commit(&mut self) -> bool {
        let committed = self.engine.commit();
        self.kernel.apply(&committed);
        committed.tightened
    }

    fn passes(&self, from: &str, to: &str, protocol: u8, port: u16) -> bool {
        let flow = Flow { source: address(from), destination: address(to), protocol, port };
        let allowed = self.engine.is_allowed(&flow);
        assert_eq!(self.kernel.load().is_allowed(&flow), allowed, "{flow:?}");
        let judgement = self.engine.decide(&flow);
        assert_eq!(judgement.is_allowed(), allowed, "{judgement:?}");
        allowed
    }

    fn tcp(&self, from: &str, to: &str, port: u16) -> bool {
        self.passes(from, to, 6, port)
    }

    /// Who reaches a pod at a port.
    fn reach(&self, to: &str, port: u16) -> Vec<&'static str> {
        ALL.into_iter().filter(|from| *from != to && self.tcp(from, to, port)).collect()
    }

    /// Whom a pod reaches at a port.
    fn reached(&self, from: &str, port: u16) -> Vec<&'static str> {
        ALL.into_iter().filter(|to| *to != from && self.tcp(from, to, port)).collect()
    }

    fn side(&self, direction: Direction, from: &str, to: &str, port: u16) -> Side {
        let flow = Flow { source: address(from), destination: address(to), protocol: 6, port };
        let judgement = self.engine.decide(&flow);
        match direction {
            Direction::Egress => judgement.egress,
            Direction::Ingress => judgement.ingress,
        }
    }
}

#[test]
fn without_policies_everything_passes_and_the_kernel_has_no_work() {
    let cluster = Cluster::new(&[]);
    assert_eq!(cluster.reach("x/a", 80).len(), 8);
    let loops = (0..3).map(|at| Item::Loop { address: address(ALL[at]) }).collect::<BTreeSet<_>>();
    assert_eq!(cluster.engine.items(), loops);
    assert_eq!(cluster.side(Direction::Ingress, "y/a", "x/a", 80), Side::NotIsolated);
    assert_eq!(cluster.side(Direction::Egress, "y/a", "x/a", 80), Side::NotJudged);
}

#[test]
fn policies_of_pods_elsewhere_cost_nothing() {
    let peers = vec![pods(Some(Selector::default()), Selector::default())];
    let elsewhere = policy("y/p", Selector::default(), Some(vec![rule(peers, vec![])]), Some(vec![]));
    let cluster = Cluster::new(&[elsewhere]);
    assert_eq!(cluster.engine.items().len(), 3);
    let flow = Flow { source: address("y/a"), destination: address("z/a"), protocol: 6, port: 80 };
    assert!(cluster.engine.decide(&flow).is_allowed());
    let in_cluster = cluster.engine.decide_in_cluster(&flow);
    assert!(matches!(in_cluster.egress, Side::Denied { .. }), "{in_cluster:?}");
    assert_eq!(in_cluster.source, Some(key("y/a")));
}

#[test]
fn default_deny_ingress_stops_all_that_comes_and_nothing_that_goes() {
    let cluster = Cluster::new(&[policy("x/deny", Selector::default(), Some(vec![]), None)]);
    assert!(cluster.reach("x/a", 80).is_empty());
    assert_eq!(cluster.reached("x/a", 80), ["y/a", "y/b", "y/c", "z/a", "z/b", "z/c"]);
    assert!(cluster.tcp("x/a", "x/a", 80), "a pod reaches itself");
    assert!(!cluster.passes("192.0.2.1", "x/a", 1, 0), "other protocols too");
    assert_eq!(cluster.reach("y/a", 80).len(), 8);
    let denied = Side::Denied { policies: vec![PolicyId::of(&PolicyKey::parse("x/deny").unwrap())] };
    assert_eq!(cluster.side(Direction::Ingress, "y/a", "x/a", 80), denied);
}

#[test]
fn default_deny_egress_stops_all_that_goes() {
    let cluster = Cluster::new(&[policy("x/deny", Selector::default(), None, Some(vec![]))]);
    assert!(cluster.reached("x/a", 80).is_empty());
    assert!(!cluster.passes("x/a", "192.0.2.1", 17, 53));
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "y/b", "y/c", "z/a", "z/b", "z/c"]);
}

#[test]
fn an_empty_rule_allows_everyone_everything_whatever_others_say() {
    let deny = policy("x/deny", Selector::default(), Some(vec![]), Some(vec![]));
    let allow = policy("x/allow", is("pod", "a"), Some(vec![rule(vec![], vec![])]), None);
    let cluster = Cluster::new(&[deny, allow.clone()]);
    assert!(cluster.reach("x/b", 80).is_empty());
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "y/b", "y/c", "z/a", "z/b", "z/c"]);
    assert!(cluster.passes("192.0.2.1", "x/a", 1, 0));
    let by = RuleId { policy: PolicyId::of(&allow.key), rule: 0 };
    assert_eq!(cluster.side(Direction::Ingress, "y/a", "x/a", 80), Side::Allowed { by });
}

#[test]
fn no_peers_with_ports_are_everyone_at_these_ports() {
    let rules = vec![rule(vec![], vec![port(Protocol::Tcp, PortMatch::Range(80, 80))])];
    let cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(rules), None)]);
    assert_eq!(cluster.reach("x/a", 80).len(), 8);
    assert!(cluster.tcp("192.0.2.1", "x/a", 80));
    assert!(cluster.reach("x/a", 81).is_empty());
    assert!(!cluster.passes("y/a", "x/a", 17, 80));
}

#[test]
fn selectors_of_pods_and_namespaces_are_met_together_or_each() {
    let one = |peers| Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![rule(peers, vec![])]), None)]);
    let own = one(vec![pods(None, is("pod", "b"))]);
    assert_eq!(own.reach("x/a", 80), ["x/b"]);
    let spaces = one(vec![pods(Some(is("ns", "y")), Selector::default())]);
    assert_eq!(spaces.reach("x/a", 80), ["y/a", "y/b", "y/c"]);
    let both = one(vec![pods(Some(is("ns", "y")), is("pod", "b"))]);
    assert_eq!(both.reach("x/a", 80), ["y/b"]);
    let either = one(vec![pods(Some(is("ns", "y")), Selector::default()), pods(None, is("pod", "b"))]);
    assert_eq!(either.reach("x/a", 80), ["x/b", "y/a", "y/b", "y/c"]);
    let every_pod = one(vec![pods(Some(Selector::default()), Selector::default())]);
    assert_eq!(every_pod.reach("x/a", 80).len(), 8);
    assert!(!every_pod.tcp("192.0.2.1", "x/a", 80), "only pods");
    let own_all = one(vec![pods(None, Selector::default())]);
    assert_eq!(own_all.reach("x/a", 80), ["x/b", "x/c"]);
}

#[test]
fn a_block_is_about_addresses_whoever_has_them() {
    let peers = vec![block("10.42.1.0/24", &["10.42.1.3/32"]), block("192.0.2.0/24", &[])];
    let rules = Some(vec![rule(peers, vec![])]);
    let cluster = Cluster::new(&[policy("x/p", is("pod", "a"), rules.clone(), rules)]);
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "y/c"]);
    assert_eq!(cluster.reached("x/a", 80), ["y/a", "y/c"]);
    assert!(cluster.tcp("192.0.2.77", "x/a", 80) && !cluster.tcp("192.0.3.1", "x/a", 80));
    assert!(cluster.tcp("x/a", "192.0.2.77", 80) && !cluster.tcp("x/a", "192.0.3.1", 80));
}

#[test]
fn a_pod_that_a_selector_matches_is_still_in_the_blocks_of_other_rules() {
    let rules = vec![
        rule(
            vec![pods(Some(is("ns", "y")), is("pod", "a"))],
            vec![port(Protocol::Tcp, PortMatch::Range(80, 80))],
        ),
        rule(vec![block("10.42.1.0/24", &[])], vec![port(Protocol::Tcp, PortMatch::Range(443, 443))]),
    ];
    let cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(rules), None)]);
    assert_eq!(cluster.reach("x/a", 80), ["y/a"]);
    assert_eq!(cluster.reach("x/a", 443), ["y/a", "y/b", "y/c"]);
}

#[test]
fn ports_are_of_a_protocol_single_all_or_a_range() {
    let ports = vec![
        port(Protocol::Udp, PortMatch::Any),
        port(Protocol::Sctp, PortMatch::Range(80, 80)),
        port(Protocol::Tcp, PortMatch::Range(32000, 32768)),
    ];
    let cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![rule(vec![], ports)]), None)]);
    let passes = |protocol, port| cluster.passes("y/a", "x/a", protocol, port);
    assert!(passes(17, 0) && passes(17, 53) && passes(17, 65535));
    assert!(passes(132, 80) && !passes(132, 81));
    assert!(passes(6, 32000) && passes(6, 32500) && passes(6, 32768));
    assert!(!passes(6, 31999) && !passes(6, 32769) && !passes(1, 0));
}

#[test]
fn a_name_of_a_port_means_the_receivers_port() {
    let http =
        |peers| Some(vec![rule(peers, vec![port(Protocol::Tcp, PortMatch::Named("http".to_owned()))])]);
    let into = Cluster::new(&[policy("x/p", Selector::default(), http(vec![]), None)]);
    assert!(into.tcp("y/a", "x/a", 8080) && !into.tcp("y/a", "x/a", 8081));
    assert!(into.tcp("y/a", "x/b", 8081) && !into.tcp("y/a", "x/b", 8080));
    let out = Cluster::new(&[policy("x/p", is("pod", "c"), None, http(vec![]))]);
    assert!(out.tcp("x/c", "y/a", 8080) && !out.tcp("x/c", "y/a", 8081));
    assert!(out.tcp("x/c", "y/b", 8081) && !out.tcp("x/c", "192.0.2.1", 8080));
    let some = vec![pods(Some(is("ns", "y")), Selector::default())];
    let some = Cluster::new(&[policy("x/p", is("pod", "c"), None, http(some))]);
    assert_eq!(some.reached("x/c", 8080), ["y/a"]);
    let mut moving = out;
    let named_ports = vec![NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 9090 }];
    moving.engine.set_pod(&key("y/a"), Some(Arc::new(Pod { named_ports, ..row("y/a") })));
    assert!(moving.commit());
    assert_eq!(moving.reached("x/c", 9090), ["y/a"]);
    let nobody = Some(vec![rule(vec![], vec![port(Protocol::Udp, PortMatch::Named("http".to_owned()))])]);
    let nobody = Cluster::new(&[policy("x/p", Selector::default(), nobody, None)]);
    assert!(nobody.reach("x/a", 8080).is_empty(), "the protocol has to be the same");
}

#[test]
fn both_ends_have_to_allow() {
    let out =
        policy("x/out", is("pod", "a"), None, Some(vec![rule(vec![pods(None, is("pod", "b"))], vec![])]));
    let deny = policy("x/deny", is("pod", "b"), Some(vec![]), None);
    assert_eq!(Cluster::new(std::slice::from_ref(&out)).reached("x/a", 80), ["x/b"]);
    assert!(Cluster::new(&[out, deny]).reached("x/a", 80).is_empty());
}

#[test]
fn pods_of_the_nodes_network_are_neither_judged_nor_selected() {
    let every = vec![rule(vec![pods(Some(Selector::default()), Selector::default())], vec![])];
    let mut cluster = Cluster::new(&[policy("x/p", Selector::default(), Some(every), None)]);
    assert!(cluster.tcp("y/a", "x/a", 80));
    for name in ["y/a", "x/b"] {
        cluster.engine.set_pod(&key(name), Some(Arc::new(Pod { host_network: true, ..row(name) })));
    }
    assert!(cluster.commit());
    assert!(!cluster.tcp("y/a", "x/a", 80));
    assert!(cluster.tcp("192.0.2.1", "x/b", 80));
}

#[test]
fn an_ended_pods_addresses_are_not_its_own() {
    let peers = vec![pods(Some(is("ns", "y")), Selector::default())];
    let mut cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![rule(peers, vec![])]), None)]);
    cluster.engine.set_pod(&key("y/a"), Some(Arc::new(Pod { finished: true, ..row("y/a") })));
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80), ["y/b", "y/c"]);
    // Another has the address now.
    cluster.engine.set_pod(&key("y/d"), Some(Arc::new(Pod { key: key("y/d"), ..row("y/a") })));
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "y/b", "y/c"]);
}

#[test]
fn changed_labels_of_pods_and_namespaces_count_at_once() {
    let peers = vec![pods(Some(is("ns", "y")), is("pod", "a"))];
    let mut cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![rule(peers, vec![])]), None)]);
    let labelled = |name: &str, pod: &str| Arc::new(Pod { labels: labels(&[("pod", pod)]), ..row(name) });
    cluster.engine.set_pod(&key("y/b"), Some(labelled("y/b", "a")));
    assert!(!cluster.commit(), "nothing is forbidden by one that may do more");
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "y/b"]);
    cluster.engine.set_pod(&key("y/b"), Some(labelled("y/b", "b")));
    assert!(cluster.commit());
    let renamed = NamespaceState { labels: labels(&[("ns", "y")]), ..state("z", false) };
    cluster.engine.set_namespace(&namespace("z"), Some(Arc::new(renamed)));
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80), ["y/a", "z/a"]);
    cluster.engine.set_pod(&key("x/b"), Some(labelled("x/b", "a")));
    assert!(cluster.commit(), "it is selected now");
    assert_eq!(cluster.reach("x/b", 80), ["y/a", "z/a"]);
}

#[test]
fn a_pod_without_a_row_is_closed_or_open_as_configured() {
    let mut cluster = Cluster::new(&[]);
    let new = Subject { addresses: vec![ip("10.42.0.9")], uid: Some("new".into()), ..subject("x/a") };
    cluster.engine.set_subject("new", Some(new.clone()));
    cluster.commit();
    assert!(!cluster.tcp("10.42.0.9", "y/a", 80) && !cluster.tcp("y/a", "10.42.0.9", 80));
    assert!(cluster.tcp("10.42.0.9", "10.42.0.9", 80));
    let unknown = Side::UnknownPod { allowed: false };
    assert_eq!(cluster.side(Direction::Ingress, "y/a", "10.42.0.9", 80), unknown);
    // Labels that the attachment tells are as good as a row's, until there is one.
    cluster.engine.set_subject("new", Some(Subject { labels: Some(Labels::new()), ..new.clone() }));
    cluster.commit();
    assert!(cluster.tcp("y/a", "10.42.0.9", 80));
    let mut open = Engine::new(Settings { unknown: Unknown::Open, node: None });
    open.set_subject("new", Some(new));
    assert_eq!(open.commit().add.len(), 1);
}

#[test]
fn a_pod_that_is_gone_is_judged_by_its_last_labels_and_not_by_another_of_its_name() {
    let mut cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![]), None)]);
    let _ = cluster.engine.take_kept();
    cluster.engine.set_pod(&key("x/a"), None);
    cluster.commit();
    assert!(cluster.reach("x/a", 80).is_empty());
    let kept = cluster.engine.take_kept();
    assert_eq!(kept.pods, [("x/a".to_owned(), Some(Arc::new(row("x/a"))))]);
    let other = Pod { uid: "other".into(), labels: Labels::new(), ips: vec![ip("10.42.1.99")], ..row("x/a") };
    cluster.engine.set_pod(&key("x/a"), Some(Arc::new(other)));
    cluster.commit();
    assert!(cluster.reach("x/a", 80).is_empty());
    // After a restart what was remembered has to be told.
    let mut again = Engine::new(Settings { unknown: Unknown::Open, node: None });
    again.set_subject("x/a", Some(subject("x/a")));
    again.set_policy(
        &PolicyKey::parse("x/p").unwrap(),
        Some(Arc::new(policy("x/p", is("pod", "a"), Some(vec![]), None))),
    );
    again.set_kept(kept);
    again.commit();
    assert!(again.class_of(address("x/a"), Direction::Ingress).is_some());
    cluster.engine.set_subject("x/a", None);
    cluster.commit();
    assert_eq!(cluster.engine.take_kept().pods, [("x/a".to_owned(), None)]);
}

#[test]
fn policies_stay_until_the_last_pod_of_a_namespace_that_is_being_deleted() {
    let deny = policy("x/deny", Selector::default(), Some(vec![]), Some(vec![]));
    let mut cluster = Cluster::new(std::slice::from_ref(&deny));
    let _ = cluster.engine.take_kept();
    cluster.engine.set_policy(&deny.key, None);
    cluster.engine.set_namespace(&namespace("x"), Some(Arc::new(state("x", true))));
    assert!(cluster.engine.commit().is_empty(), "the order within a commit does not count");
    let kept = cluster.engine.take_kept();
    let subjects = ["x/a", "x/b", "x/c"].map(str::to_owned).into();
    let held = Held { policy: deny.clone(), subjects, undecided: false };
    assert_eq!(kept.policies, [(deny.key.clone(), Some(held))]);
    for name in ["x/a", "x/b"] {
        cluster.engine.set_pod(&key(name), None);
    }
    cluster.engine.set_namespace(&namespace("x"), None);
    cluster.commit();
    assert!(cluster.reach("x/a", 80).is_empty());
    // A restart in the middle.
    let settings = Settings { unknown: Unknown::Closed, node: Some(node("here")) };
    let mut again = Engine::new(settings);
    for name in &ALL[..3] {
        again.set_subject(name, Some(subject(name)));
        again.set_pod(&key(name), Some(Arc::new(row(name))));
    }
    again.set_kept(kept);
    again.commit();
    assert_eq!(again.counts().held, 1);
    assert!(again.class_of(address("x/a"), Direction::Ingress).is_some());
    // The namespace is made anew: its new pods have nothing to do with the old policy.
    cluster.engine.set_namespace(&namespace("x"), Some(Arc::new(state("x", false))));
    let new = Pod { key: key("x/new"), uid: "new".into(), ips: vec![ip("10.42.0.9")], ..row("x/a") };
    let of_new = Subject { pod: new.key.clone(), uid: None, addresses: new.ips.clone(), labels: None };
    cluster.engine.set_pod(&new.key.clone(), Some(Arc::new(new)));
    cluster.engine.set_subject("new", Some(of_new));
    cluster.commit();
    assert!(cluster.tcp("y/a", "10.42.0.9", 80) && !cluster.tcp("y/a", "x/a", 80));
    for name in &ALL[..3] {
        cluster.engine.set_subject(name, None);
    }
    cluster.commit();
    assert_eq!(cluster.engine.counts().held, 0);
    assert_eq!(cluster.engine.policies().count(), 0);
}

#[test]
fn a_policy_whose_removal_is_seen_before_that_of_its_namespace_comes_back() {
    let deny = policy("x/deny", Selector::default(), Some(vec![]), None);
    let mut cluster = Cluster::new(std::slice::from_ref(&deny));
    cluster.engine.set_policy(&deny.key, None);
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80).len(), 8);
    cluster.engine.set_namespace(&namespace("x"), Some(Arc::new(state("x", true))));
    assert!(cluster.commit());
    assert!(cluster.reach("x/a", 80).is_empty());
    assert_eq!(cluster.engine.counts().held, 1);
    // One that was removed long before is no part of it.
    let mut cluster = Cluster::new(std::slice::from_ref(&deny));
    cluster.engine.set_policy(&deny.key, None);
    cluster.commit();
    cluster.engine.forget_removed();
    cluster.engine.set_namespace(&namespace("x"), None);
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80).len(), 8);
}

#[test]
fn a_policy_that_is_removed_from_a_living_namespace_goes() {
    let deny = policy("x/deny", Selector::default(), Some(vec![]), None);
    let mut cluster = Cluster::new(std::slice::from_ref(&deny));
    cluster.engine.set_policy(&deny.key, None);
    assert!(!cluster.commit());
    assert_eq!(cluster.reach("x/a", 80).len(), 8);
    assert_eq!(cluster.engine.counts().held, 0);
    // Gone and back within one commit is nothing at all.
    cluster.engine.set_policy(&deny.key, Some(Arc::new(deny.clone())));
    cluster.commit();
    cluster.engine.set_policy(&deny.key, None);
    cluster.engine.set_policy(&deny.key.clone(), Some(Arc::new(deny)));
    assert!(cluster.engine.commit().is_empty());
}

#[test]
fn an_address_of_a_pod_is_one_element_whoever_selects_it() {
    let peers = |pod: &str| Some(vec![rule(vec![pods(Some(is("ns", "y")), is("pod", pod))], vec![])]);
    let many: Vec<NetworkPolicy> = (0..50)
        .map(|at| policy(&format!("x/p{at}"), Selector::default(), peers(["a", "b"][at % 2]), peers("a")))
        .collect();
    let mut cluster = Cluster::new(&many);
    let new = Pod { key: key("y/new"), ips: vec![ip("10.42.1.9")], ..row("y/a") };
    cluster.engine.set_pod(&key("y/new"), Some(Arc::new(new)));
    let committed = cluster.engine.commit();
    assert!(matches!(committed.add.iter().collect::<Vec<_>>()[..], [Item::Identity { .. }]), "{committed:?}");
    assert!(committed.remove.is_empty() && !committed.tightened);
}

#[test]
fn a_selector_that_is_new_to_everyone_leaves_numbers_as_they_are() {
    let from = |selector: Selector| Some(vec![rule(vec![pods(Some(Selector::default()), selector)], vec![])]);
    let mut cluster = Cluster::new(&[policy("x/p", is("pod", "a"), from(is("pod", "b")), None)]);
    let identities = |cluster: &Cluster| -> BTreeSet<Item> {
        cluster.engine.items().into_iter().filter(|item| matches!(item, Item::Identity { .. })).collect()
    };
    let before = identities(&cluster);
    assert_eq!(before.len(), 3);
    let every = policy("x/every", is("pod", "c"), from(Selector::default()), None);
    cluster.engine.set_policy(&every.key.clone(), Some(Arc::new(every)));
    cluster.commit();
    assert!(identities(&cluster).is_superset(&before));
    assert_eq!(identities(&cluster).len(), 9);
}

#[test]
fn a_new_pod_may_lose_what_an_unknown_address_had_where_rules_deny() {
    let peer =
        RulePeer::Pods(PodSelector { namespaces: Scope::Matching(is("ns", "y")), pods: is("pod", "a") });
    let deny = TierRule { action: Action::Deny, peers: vec![peer], ports: vec![] };
    let id = PolicyId { tier: Tier::Admin, namespace: None, name: PolicyName::new("p").unwrap() };
    let every = PodSelector { namespaces: Scope::Matching(Selector::default()), pods: Selector::default() };
    let admin = Policy { id: id.clone(), order: 0, subjects: every, ingress: Some(vec![deny]), egress: None };
    let mut cluster = Cluster::new(&[]);
    cluster.engine.set_rules(&id, Some(Arc::new(admin)));
    cluster.commit();
    assert_eq!(cluster.reach("x/a", 80), ["x/b", "x/c", "y/b", "y/c", "z/a", "z/b", "z/c"]);
    let by = RuleId { policy: id, rule: 0 };
    assert_eq!(cluster.side(Direction::Ingress, "y/a", "x/a", 80), Side::DeniedBy { by });
    assert_eq!(cluster.side(Direction::Ingress, "y/b", "x/a", 80), Side::AllowedByDefault);
    assert!(cluster.tcp("10.42.1.9", "x/a", 80));
    let new = Pod { key: key("y/new"), ips: vec![ip("10.42.1.9")], ..row("y/a") };
    cluster.engine.set_pod(&key("y/new"), Some(Arc::new(new)));
    assert!(cluster.commit());
    assert!(!cluster.tcp("10.42.1.9", "x/a", 80));
}

#[test]
fn a_rule_that_goes_takes_along_what_only_it_gave() {
    let at = |port_number| vec![port(Protocol::Tcp, PortMatch::Range(port_number, port_number))];
    let spaces = BTreeSet::from(["y".to_owned(), "other".to_owned()]);
    let spaces = Selector::new([Requirement::In("ns".to_owned(), spaces)]);
    let first = rule(vec![pods(Some(is("ns", "y")), is("pod", "b"))], at(80));
    let second = rule(vec![pods(Some(spaces), is("pod", "b"))], at(81));
    let mut cluster = Cluster::new(&[policy("x/p", is("pod", "a"), Some(vec![first, second.clone()]), None)]);
    assert!(cluster.tcp("y/b", "x/a", 80) && cluster.tcp("y/b", "x/a", 81));
    let less = policy("x/p", is("pod", "a"), Some(vec![second]), None);
    cluster.engine.set_policy(&less.key.clone(), Some(Arc::new(less)));
    assert!(cluster.commit());
    assert!(!cluster.tcp("y/b", "x/a", 80) && cluster.tcp("y/b", "x/a", 81));
}

#[test]
fn policies_are_called_what_people_call_them() {
    let id = PolicyId::of(&PolicyKey::parse("shop/deny").unwrap());
    assert_eq!(id.to_string(), "NetworkPolicy shop/deny");
    let id = PolicyId { tier: Tier::Admin, namespace: None, name: PolicyName::new("all").unwrap() };
    assert_eq!(id.to_string(), "ClusterNetworkPolicy all");
    assert_eq!(Direction::Ingress.to_string(), "ingress");
}
