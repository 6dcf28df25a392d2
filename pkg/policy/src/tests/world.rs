//! Random clusters and what happens in them.

use crate::decide::Flow;
use crate::engine::{Engine, Settings, Subject, Unknown};
use crate::keep::{Held, Kept};
use crate::rules::{Action, Block, PodSelector, Policy, PolicyId, RulePeer, Scope, Tier, TierRule};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use warren_types::*;

/// What there is, and what of the past still counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) namespaces: BTreeMap<Namespace, NamespaceState>,
    pub(crate) last_namespaces: BTreeMap<Namespace, NamespaceState>,
    pub(crate) pods: BTreeMap<PodKey, Pod>,
    /// The latest rows of this node's pods, by their addresses.
    pub(crate) last_rows: BTreeMap<Vec<IpAddr>, Pod>,
    pub(crate) policies: BTreeMap<PolicyKey, NetworkPolicy>,
    pub(crate) removed: BTreeMap<PolicyKey, NetworkPolicy>,
    pub(crate) recent: BTreeMap<PolicyKey, NetworkPolicy>,
    pub(crate) held: BTreeMap<PolicyKey, (NetworkPolicy, BTreeSet<String>)>,
    pub(crate) tiers: BTreeMap<PolicyId, Policy>,
    pub(crate) subjects: BTreeMap<String, Subject>,
}

/// What was kept.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    policies: BTreeMap<PolicyKey, Held>,
    pods: BTreeMap<String, Arc<Pod>>,
    namespaces: BTreeMap<Namespace, Arc<NamespaceState>>,
}

fn write<K: Ord, V>(to: &mut BTreeMap<K, V>, rows: Vec<(K, Option<V>)>) {
    for (key, row) in rows {
        match row {
            Some(row) => to.insert(key, row),
            None => to.remove(&key),
        };
    }
}

fn read<K: Clone, V: Clone>(from: &BTreeMap<K, V>) -> Vec<(K, Option<V>)> {
    from.iter().map(|(key, row)| (key.clone(), Some(row.clone()))).collect()
}

impl Disk {
    pub(crate) fn write(&mut self, kept: Kept) {
        write(&mut self.policies, kept.policies);
        write(&mut self.pods, kept.pods);
        write(&mut self.namespaces, kept.namespaces);
    }

    fn read(&self) -> Kept {
        let (policies, pods) = (read(&self.policies), read(&self.pods));
        Kept { policies, pods, namespaces: read(&self.namespaces) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.pods.is_empty() && self.namespaces.is_empty()
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Namespace(NamespaceState),
    NoNamespace(Namespace),
    Pod(Pod),
    NoPod(PodKey),
    Policy(NetworkPolicy),
    NoPolicy(PolicyKey),
    Tier(Policy),
    NoTier(PolicyId),
    Subject(String, Subject),
    NoSubject(String),
    Forget,
    Commit,
    /// After a commit the engine is killed, before it hears that this policy went.
    Killed(PolicyKey),
}

/// Whether a row is of a subject's pod, as far as uid and labels tell.
pub(crate) fn is_of(subject: &Subject, row: &Pod) -> bool {
    let same_uid = subject.uid.is_none() || subject.uid.as_ref() == Some(&row.uid);
    let own_labels = subject.labels.clone().unwrap_or_default();
    let kept = own_labels.iter().all(|label| row.labels.iter().any(|other| other == label));
    row.key == subject.pod && same_uid && kept
}

impl World {
    pub(crate) fn namespace_labels(&self, name: &Namespace) -> Option<&Labels> {
        self.last_namespaces.get(name).map(|row| &row.labels)
    }

    fn remember_rows(&mut self) {
        let subjects: Vec<Subject> = self.subjects.values().cloned().collect();
        for subject in subjects {
            if let Some(row) = self.pods.get(&subject.pod)
                && is_of(&subject, row)
            {
                self.last_rows.insert(subject.addresses.clone(), row.clone());
            }
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::Namespace(row) => {
                if row.terminating {
                    self.revive(&row.name);
                }
                self.last_namespaces.insert(row.name.clone(), row.clone());
                self.namespaces.insert(row.name.clone(), row);
            }
            Event::NoNamespace(name) => {
                if self.namespaces.remove(&name).is_some() {
                    self.revive(&name);
                }
            }
            Event::Pod(row) => drop(self.pods.insert(row.key.clone(), row)),
            Event::NoPod(key) => drop(self.pods.remove(&key)),
            Event::Policy(row) => {
                self.removed.remove(&row.key);
                self.held.remove(&row.key);
                self.recent.remove(&row.key);
                self.policies.insert(row.key.clone(), row);
            }
            Event::NoPolicy(key) => {
                if let Some(row) = self.policies.remove(&key) {
                    self.removed.insert(key, row);
                }
            }
            Event::Tier(policy) => drop(self.tiers.insert(policy.id.clone(), policy)),
            Event::NoTier(id) => drop(self.tiers.remove(&id)),
            Event::Subject(key, subject) => {
                let before = self.subjects.insert(key, subject.clone());
                // Another pod with these addresses is another pod.
                if before.is_some_and(|before| before != subject)
                    && self.last_rows.get(&subject.addresses).is_some_and(|row| !is_of(&subject, row))
                {
                    self.last_rows.remove(&subject.addresses);
                }
            }
            Event::NoSubject(key) => {
                if let Some(subject) = self.subjects.remove(&key) {
                    self.last_rows.remove(&subject.addresses);
                }
            }
            Event::Forget => self.recent.clear(),
            Event::Commit => self.commit(),
            Event::Killed(key) => {
                self.commit();
                // What has no pods here is not kept: to this node it had said nothing yet.
                if !self.subjects_of(&key.namespace).is_empty() {
                    self.apply(&Event::NoPolicy(key));
                }
                self.commit();
            }
        }
        self.remember_rows();
    }

    fn subjects_of(&self, namespace: &Namespace) -> BTreeSet<String> {
        let of_it = self.subjects.iter().filter(|(_, subject)| subject.pod.namespace == *namespace);
        of_it.map(|(key, _)| key.clone()).collect()
    }

    /// What is decided once all that happened together is known.
    fn commit(&mut self) {
        for (key, row) in std::mem::take(&mut self.removed) {
            if self.namespaces.get(&key.namespace).is_some_and(|row| !row.terminating) {
                self.recent.insert(key.clone(), row.clone());
            }
            self.held.insert(key, (row, BTreeSet::new()));
        }
        for (key, (row, before)) in std::mem::take(&mut self.held) {
            let of_it = self.subjects_of(&key.namespace);
            let going = self.namespaces.get(&key.namespace).is_none_or(|row| row.terminating);
            let now: BTreeSet<String> = if going { of_it } else { &of_it & &before };
            if !now.is_empty() {
                self.held.insert(key, (row, now));
            }
        }
        let in_use: BTreeSet<Namespace> = self
            .subjects
            .values()
            .map(|subject| subject.pod.namespace.clone())
            .chain(self.pods.values().filter(|row| self.has_addresses(row)).map(|r| r.key.namespace.clone()))
            .collect();
        let there: BTreeSet<Namespace> = self.namespaces.keys().cloned().collect();
        self.last_namespaces.retain(|name, _| in_use.contains(name) || there.contains(name));
    }

    /// What went a moment before its namespace did went with it.
    fn revive(&mut self, namespace: &Namespace) {
        let of_it = self.recent.keys().filter(|key| key.namespace == *namespace);
        for key in of_it.cloned().collect::<Vec<_>>() {
            if let Some(row) = self.recent.remove(&key) {
                self.removed.insert(key, row);
            }
        }
    }

    fn has_addresses(&self, row: &Pod) -> bool {
        !row.host_network && !row.finished && row.node != self.settings.node
    }

    /// An engine that learns of all this at once.
    pub(crate) fn engine(&self) -> Engine {
        let mut engine = Engine::new(self.settings.clone());
        for (name, row) in &self.last_namespaces {
            engine.set_namespace(name, Some(Arc::new(row.clone())));
            engine.set_namespace(name, self.namespaces.get(name).cloned().map(Arc::new));
        }
        for (key, subject) in &self.subjects {
            engine.set_subject(key, Some(subject.clone()));
        }
        for row in self.last_rows.values() {
            engine.set_pod(&row.key, Some(Arc::new(row.clone())));
            engine.set_pod(&row.key, None);
        }
        for (key, row) in &self.pods {
            engine.set_pod(key, Some(Arc::new(row.clone())));
        }
        for (key, row) in &self.policies {
            engine.set_policy(key, Some(Arc::new(row.clone())));
        }
        for (id, policy) in &self.tiers {
            engine.set_rules(id, Some(Arc::new(policy.clone())));
        }
        let held = self.held.iter().map(|(key, (policy, subjects))| {
            let held = Held { policy: policy.clone(), subjects: subjects.clone(), undecided: false };
            (key.clone(), Some(held))
        });
        engine.set_kept(Kept { policies: held.collect(), ..Kept::default() });
        engine
    }

    /// An engine that comes after one that was killed: of the past it knows what was kept.
    pub(crate) fn engine_after(&self, kept: &Disk) -> Engine {
        let mut engine = Engine::new(self.settings.clone());
        for event in self.rows() {
            tell(&mut engine, &event);
        }
        engine.set_kept(kept.read());
        engine
    }

    /// All there is now.
    fn rows(&self) -> Vec<Event> {
        let namespaces = self.namespaces.values().cloned().map(Event::Namespace);
        let pods = self.pods.values().cloned().map(Event::Pod);
        let policies = self.policies.values().cloned().map(Event::Policy);
        let tiers = self.tiers.values().cloned().map(Event::Tier);
        let subjects = self.subjects.iter().map(|(key, of)| Event::Subject(key.clone(), of.clone()));
        namespaces.chain(pods).chain(policies).chain(tiers).chain(subjects).collect()
    }
}

/// Tells an engine.
pub(crate) fn tell(engine: &mut Engine, event: &Event) {
    match event.clone() {
        Event::Namespace(row) => engine.set_namespace(&row.name.clone(), Some(Arc::new(row))),
        Event::NoNamespace(name) => engine.set_namespace(&name, None),
        Event::Pod(row) => engine.set_pod(&row.key.clone(), Some(Arc::new(row))),
        Event::NoPod(key) => engine.set_pod(&key, None),
        Event::Policy(row) => engine.set_policy(&row.key.clone(), Some(Arc::new(row))),
        Event::NoPolicy(key) => engine.set_policy(&key, None),
        Event::Tier(policy) => engine.set_rules(&policy.id.clone(), Some(Arc::new(policy))),
        Event::NoTier(id) => engine.set_rules(&id, None),
        Event::Subject(key, subject) => engine.set_subject(&key, Some(subject)),
        Event::NoSubject(key) => engine.set_subject(&key, None),
        Event::Forget => engine.forget_removed(),
        Event::Commit | Event::Killed(_) => {}
    }
}

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// Pods by number: the first four are on this node.
pub(crate) const PODS: usize = 9;
pub(crate) const LOCAL: usize = 4;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

pub(crate) fn pod_key(number: usize) -> PodKey {
    let name = PodName::new(format!("p{number}")).unwrap();
    PodKey { namespace: namespace(NAMESPACES[number % 3]), name }
}

pub(crate) fn addresses(number: usize) -> Vec<IpAddr> {
    let net = if number < LOCAL { 1 } else { 2 };
    vec![ip(&format!("10.42.{net}.{number}")), ip(&format!("fd00:42:0:{net}::{number}"))]
}

/// All addresses that tests send from and to.
pub(crate) fn everyone() -> Vec<IpAddr> {
    let outside = ["192.0.2.9", "203.0.113.1", "10.42.2.200", "2001:db8::9", "fd00:42:0:2::200"].map(ip);
    (0..PODS).flat_map(addresses).chain(outside).collect()
}

/// Flows between all of them.
pub(crate) fn flows(ports: &[(u8, u16)]) -> Vec<Flow> {
    let mut out = Vec::new();
    for source in everyone() {
        for destination in everyone().into_iter().filter(|to| to.is_ipv4() == source.is_ipv4()) {
            let to_port =
                |(protocol, port): &(u8, u16)| Flow { source, destination, protocol: *protocol, port: *port };
            out.extend(ports.iter().map(to_port));
        }
    }
    out
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = || prop::option::of(prop::sample::select(vec!["a", "b", "c"]));
    (value(), value()).prop_map(|(app, env)| {
        let pairs = [("app", app), ("env", env)];
        pairs.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect()
    })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let key = prop::sample::select(vec!["app", "env"]).prop_map(str::to_owned);
    let values = prop::collection::btree_set(prop::sample::select(vec!["a", "b", "c"]), 1..3)
        .prop_map(|values| values.into_iter().map(str::to_owned).collect::<BTreeSet<_>>());
    (key, values, 0..6).prop_map(|(key, values, kind)| match kind {
        0..=2 => Requirement::In(key, values),
        3 => Requirement::NotIn(key, values),
        4 => Requirement::Exists(key),
        _ => Requirement::DoesNotExist(key),
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    prop::collection::vec(requirement(), 0..3).prop_map(Selector::new)
}

fn block() -> impl Strategy<Value = (ipnet::IpNet, Vec<ipnet::IpNet>)> {
    let v4 = ["0.0.0.0/0", "10.42.0.0/16", "10.42.2.0/24", "10.42.2.4/30", "192.0.2.0/24", "10.42.2.5/32"];
    let v6 = ["::/0", "fd00:42::/32", "fd00:42:0:2::/64", "fd00:42:0:2::4/126", "2001:db8::/32"];
    let of = |list: Vec<&'static str>| {
        let nets: Vec<ipnet::IpNet> = list.iter().map(|net| net.parse().unwrap()).collect();
        let inner = nets.clone();
        (prop::sample::select(nets), prop::collection::vec(prop::sample::select(inner), 0..3)).prop_map(
            |(cidr, except): (ipnet::IpNet, Vec<ipnet::IpNet>)| {
                let inside = |net: &ipnet::IpNet| cidr.contains(net) && *net != cidr;
                (cidr, except.into_iter().filter(inside).collect())
            },
        )
    };
    prop_oneof![of(v4.to_vec()), of(v6.to_vec())]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn port() -> impl Strategy<Value = PolicyPort> {
    let name = prop::sample::select(vec!["http", "dns", "none"]).prop_map(str::to_owned);
    let ports = prop_oneof![
        Just(PortMatch::Any),
        (79u16..84).prop_map(|port| PortMatch::Range(port, port)),
        (79u16..84, 0u16..3).prop_map(|(port, more)| PortMatch::Range(port, port + more)),
        name.prop_map(PortMatch::Named),
    ];
    (protocol(), ports).prop_map(|(protocol, ports)| PolicyPort { protocol, ports })
}

fn peer() -> impl Strategy<Value = PolicyPeer> {
    prop_oneof![
        2 => (prop::option::of(selector()), selector())
            .prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods }),
        1 => block().prop_map(|(cidr, except)| PolicyPeer::Block { cidr, except }),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<PolicyRule>>> {
    let rule = (prop::collection::vec(peer(), 0..3), prop::collection::vec(port(), 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..3))
}

pub(crate) fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (0..3usize, 0..3u8, selector(), rules(), rules()).prop_map(|(of, name, pods, ingress, egress)| {
        let name = PolicyName::new(format!("n{name}")).unwrap();
        let key = PolicyKey { namespace: namespace(NAMESPACES[of]), name };
        NetworkPolicy { key, uid: String::new(), pods, ingress, egress }
    })
}

fn tier_rules() -> impl Strategy<Value = Option<Vec<TierRule>>> {
    let action = prop::sample::select(vec![Action::Accept, Action::Deny, Action::Pass]);
    let rule = (action, prop::collection::vec(tier_peer(), 0..3), prop::collection::vec(port(), 0..3))
        .prop_map(|(action, peers, ports)| TierRule { action, peers, ports });
    prop::option::weighted(0.7, prop::collection::vec(rule, 0..4))
}

fn tier_peer() -> impl Strategy<Value = RulePeer> {
    prop_oneof![
        (selector(), selector()).prop_map(|(namespaces, pods)| {
            RulePeer::Pods(PodSelector { namespaces: Scope::Matching(namespaces), pods })
        }),
        block().prop_map(|(cidr, except)| RulePeer::Block(Block { cidr, except })),
    ]
}

pub(crate) fn tier_policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), 0..3u8, 0..2i32, selector(), selector(), tier_rules(), tier_rules()).prop_map(
        |(admin, name, order, namespaces, pods, ingress, egress)| {
            let tier = if admin { Tier::Admin } else { Tier::Baseline };
            let name = PolicyName::new(format!("c{name}")).unwrap();
            Policy {
                id: PolicyId { tier, namespace: None, name },
                order,
                subjects: PodSelector { namespaces: Scope::Matching(namespaces), pods },
                ingress,
                egress,
            }
        },
    )
}

fn named_ports() -> impl Strategy<Value = Vec<NamedPort>> {
    let one = (prop::sample::select(vec!["http", "dns"]), protocol(), 79u16..84)
        .prop_map(|(name, protocol, port)| NamedPort { name: name.to_owned(), protocol, port });
    prop::collection::vec(one, 0..3)
}

fn odd() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.05)
}

/// A pod; now and then with the address of another.
pub(crate) fn pod() -> impl Strategy<Value = Pod> {
    (0..PODS, labels(), named_ports(), odd(), odd(), odd(), odd()).prop_map(
        |(number, labels, named_ports, host_network, finished, other, clash)| Pod {
            key: pod_key(number),
            uid: if other { "other".to_owned() } else { format!("uid-{number}") },
            node: Some(node(if number < LOCAL { "here" } else { "there" })),
            ips: addresses(if clash { PODS - 1 } else { number }),
            host_network,
            labels,
            finished,
            named_ports,
        },
    )
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn namespace_row() -> impl Strategy<Value = NamespaceState> {
    (0..3usize, labels(), prop::bool::weighted(0.2)).prop_map(|(of, labels, terminating)| NamespaceState {
        name: namespace(NAMESPACES[of]),
        labels,
        terminating,
    })
}

pub(crate) fn subject() -> impl Strategy<Value = (String, Subject)> {
    (0..LOCAL, prop::bool::weighted(0.8), prop::option::weighted(0.2, labels())).prop_map(
        |(number, with_uid, labels)| {
            let subject = Subject {
                pod: pod_key(number),
                uid: with_uid.then(|| format!("uid-{number}")),
                addresses: addresses(number),
                labels,
            };
            (format!("c{number}/eth0"), subject)
        },
    )
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    any::<bool>().prop_map(|open| Settings {
        unknown: if open { Unknown::Open } else { Unknown::Closed },
        node: Some(node("here")),
    })
}

/// A cluster without a past.
pub(crate) fn world(tiers: bool) -> impl Strategy<Value = World> {
    let policies = prop::collection::vec(policy(), 0..7);
    let tiers = prop::collection::vec(tier_policy(), if tiers { 1..6 } else { 0..1 });
    (
        settings(),
        prop::collection::vec(namespace_row(), 2..8),
        prop::collection::vec(pod(), 6..25),
        policies,
        tiers,
        prop::collection::vec(subject(), 3..8),
    )
        .prop_map(|(settings, namespaces, pods, policies, tiers, subjects)| {
            let mut world = World { settings, ..World::default() };
            let events = namespaces.into_iter().map(Event::Namespace);
            let events =
                events.chain(subjects.into_iter().map(|(key, subject)| Event::Subject(key, subject)));
            let events = events.chain(policies.into_iter().map(Event::Policy));
            let events = events.chain(tiers.into_iter().map(Event::Tier));
            for event in events {
                world.apply(&event);
            }
            for row in pods {
                world.pods.insert(row.key.clone(), row);
            }
            world.remember_rows();
            world
        })
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let number = 0..PODS;
    prop_oneof![
        3 => namespace_row().prop_map(Event::Namespace),
        1 => (0..3usize).prop_map(|of| Event::NoNamespace(namespace(NAMESPACES[of]))),
        6 => pod().prop_map(Event::Pod),
        2 => number.prop_map(|number| Event::NoPod(pod_key(number))),
        4 => policy().prop_map(Event::Policy),
        3 => policy().prop_map(|row| Event::NoPolicy(row.key)),
        2 => tier_policy().prop_map(Event::Tier),
        1 => tier_policy().prop_map(|policy| Event::NoTier(policy.id)),
        4 => subject().prop_map(|(key, subject)| Event::Subject(key, subject)),
        1 => (0..LOCAL).prop_map(|number| Event::NoSubject(format!("c{number}/eth0"))),
        1 => Just(Event::Forget),
        6 => Just(Event::Commit),
        2 => policy().prop_map(|row| Event::Killed(row.key)),
    ]
}
