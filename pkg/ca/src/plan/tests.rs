use super::*;
use crate::authority::{Authority, LIFE};
use crate::secret::{body, set};
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

const SPACE: &str = "shop";

fn now() -> Timestamp {
    "2027-03-01T00:00:00Z".parse().unwrap()
}

fn days(n: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * n)
}

fn authority() -> Authority {
    let (cert, key) = Authority::make(now()).unwrap();
    Authority::from_pem(&cert, &key).unwrap()
}

fn ingress(name: &str, tls: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": SPACE, "uid": format!("uid-{name}"),
            "annotations": {ANNOTATION_CERTIFICATE: "private"}},
        "spec": {"tls": tls},
    })
}

/// A namespace whose plans are carried out.
struct World {
    ca: Authority,
    wishes: Vec<Wish>,
    secrets: BTreeMap<String, Value>,
}

impl World {
    fn of(ingresses: &[Value]) -> Self {
        let mut world = Self { ca: authority(), wishes: Vec::new(), secrets: BTreeMap::new() };
        world.are(ingresses);
        world
    }
    fn are(&mut self, ingresses: &[Value]) {
        self.wishes = ingresses.iter().filter_map(Wish::read).collect();
    }
    fn plan(&self, at: Timestamp) -> Plan {
        let found = self.secrets.iter().map(|(name, secret)| (name.clone(), Found::read(secret))).collect();
        of_namespace(SPACE, &self.wishes, &found, self.ca.root(), at)
    }
    /// Does what is to be done; says how many writes that were.
    fn step(&mut self, at: Timestamp) -> usize {
        let plan = self.plan(at);
        for write in &plan.writes {
            self.write(write, at);
        }
        plan.writes.len()
    }
    fn write(&mut self, write: &Write, at: Timestamp) {
        let root = self.ca.root();
        match write {
            Write::Issue { secret, names, owners } => {
                let leaf = self.ca.issue(names, at).unwrap();
                match self.secrets.get_mut(secret) {
                    Some(there) => set(there, Some((&leaf, root)), owners),
                    None => drop(self.secrets.insert(secret.clone(), body(secret, &leaf, root, owners))),
                }
            }
            Write::Own { secret, owners } => set(self.secrets.get_mut(secret).unwrap(), None, owners),
            Write::Delete { secret } => drop(self.secrets.remove(secret)),
        }
    }
    fn messages(&self) -> Vec<String> {
        self.plan(now())
            .told
            .into_iter()
            .map(|told| format!("{}: {}", told.ingress, told.fault.message))
            .collect()
    }
}

#[test]
fn a_secret_is_made_renewed_and_follows_its_hosts() {
    let tls = |hosts: &[&str]| ingress("web", &json!([{"hosts": hosts, "secretName": "web"}]));
    let mut world = World::of(&[tls(&["a.test", "*.a.test"])]);
    assert_eq!((world.step(now()), world.step(now())), (1, 0));
    let secret = &world.secrets["web"];
    assert_eq!(secret["type"], "kubernetes.io/tls");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], "uid-web");
    assert_eq!(world.plan(now()).look, Some(LOOK));
    assert_eq!(world.plan(days(59) + SignedDuration::from_mins(23 * 60 + 30)).look, Some(LOOK / 2));
    assert_eq!((world.step(days(59)), world.step(days(60)), world.step(days(60))), (0, 1, 0));
    world.are(&[tls(&["a.test", "b.test"])]);
    assert_eq!((world.step(days(61)), world.step(days(61))), (1, 0));
    // The authority was lost, and another made.
    world.ca = authority();
    assert_eq!((world.step(days(61)), world.step(days(61))), (1, 0));
    assert!(world.plan(days(61)).told.is_empty());
    // The annotation was taken away.
    world.are(&[]);
    assert_eq!((world.step(days(61)), world.secrets.len()), (1, 0));
    assert!(LOOK < LIFE / 3);
}

#[test]
fn what_somebody_else_made_or_changed_is_never_written() {
    let mut world = World::of(&[ingress("web", &json!([{"hosts": ["a.test"], "secretName": "web"}]))]);
    world.step(now());
    let ours = world.secrets["web"].clone();
    let changed = |path: &str, to: Value| {
        let mut secret = ours.clone();
        *secret.pointer_mut(path).unwrap() = to;
        secret
    };
    let theirs = [
        json!({"metadata": {"name": "web"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": "eA=="}}),
        json!({"metadata": {"name": "web"}, "type": "Opaque"}),
        changed("/data/tls.crt", json!("eA==")),
        changed("/metadata/annotations", json!({})),
        changed("/type", json!("Opaque")),
    ];
    for secret in theirs {
        for at in [0, 61, 1000] {
            world.secrets.insert("web".into(), secret.clone());
            assert_eq!(world.step(days(at)), 0, "{secret}");
        }
        let told = world.messages();
        assert!(
            told.len() == 1 && told[0].contains("web: Secret shop/web was not issued by Warren"),
            "{told:?}"
        );
        world.wishes.clear();
        assert_eq!(world.step(now()), 0, "{secret}");
        world.are(&[ingress("web", &json!([{"hosts": ["a.test"], "secretName": "web"}]))]);
    }
    // What is damaged, and still has our mark, is made whole.
    for (path, to) in [("/data/tls.key", "eA=="), ("/data/ca.crt", "eA==")] {
        world.secrets.insert("web".into(), changed(path, json!(to)));
        assert_eq!((world.step(now()), world.step(now())), (1, 0), "{path}");
    }
    // One that is on its way out is left to go.
    let mut ends = ours;
    ends["metadata"]["deletionTimestamp"] = "2027-03-01T00:00:00Z".into();
    world.secrets.insert("web".into(), ends);
    assert_eq!((world.step(days(61)), world.messages()), (0, Vec::new()));
}

#[test]
fn ingresses_that_share_a_secret_share_its_certificate() {
    let a = ingress("a", &json!([{"hosts": ["a.test"], "secretName": "both"}]));
    let b = ingress(
        "b",
        &json!([{"hosts": ["b.test"], "secretName": "both"}, {"hosts": ["a.test"], "secretName": "both"}]),
    );
    let mut world = World::of(&[a.clone(), b]);
    assert_eq!((world.step(now()), world.step(now())), (1, 0));
    assert_eq!(world.secrets["both"]["metadata"]["ownerReferences"].as_array().unwrap().len(), 2);
    // Both wanted this host; the certificate stays, and is the other's alone.
    world.are(&[ingress("c", &json!([{"hosts": ["a.test", "b.test"], "secretName": "both"}]))]);
    let before = world.secrets["both"]["data"].clone();
    assert_eq!((world.step(now()), world.step(now())), (1, 0));
    assert_eq!(world.secrets["both"]["data"], before);
    assert_eq!(world.secrets["both"]["metadata"]["ownerReferences"][0]["name"], "c");
    world.are(&[a]);
    assert_eq!((world.step(now()), world.step(now())), (1, 0));
    assert_ne!(world.secrets["both"]["data"], before);
}

#[test]
fn what_cannot_be_issued_is_said_with_what_to_do() {
    let many: Vec<String> = (0..101).map(|n| format!("h{n}.test")).collect();
    let tls = json!([
        {"hosts": ["a.test"]}, {"secretName": "none"}, {"hosts": ["192.0.2.1", "b.test"], "secretName": "some"},
        {"hosts": many, "secretName": "many"},
    ]);
    let mut world = World::of(&[ingress("web", &tls)]);
    assert_eq!(world.step(now()), 1);
    assert_eq!(world.secrets.keys().collect::<Vec<_>>(), ["some"]);
    let told = world.messages().join("\n");
    for wanted in ["spec.tls[0] names no Secret", "spec.tls[1] has no hosts", "not an address", "101 hosts"] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    // Without hosts for a moment, a Secret stays as it is.
    world.are(&[ingress("web", &json!([{"secretName": "some"}]))]);
    assert_eq!(world.step(now()), 0);
    let others =
        [json!({"metadata": {"annotations": {ANNOTATION_CERTIFICATE: "public"}}}), json!({"metadata": {}})];
    assert!(others.iter().all(|ingress| Wish::read(ingress).is_none()));
    let wish =
        [Wish::read(&ingress("web", &json!([{"hosts": ["a.test"], "secretName": DEFAULT_CERTIFICATE.1}])))
            .unwrap()];
    let plan = of_namespace(DEFAULT_CERTIFICATE.0, &wish, &BTreeMap::new(), world.ca.root(), now());
    assert!(plan.writes.is_empty() && plan.told.len() == 1);
}

#[test]
fn the_default_certificate_is_for_all_nodes() {
    let ca = authority();
    let node = |name: &str, ip: &str| {
        node_names(&json!({"metadata": {"name": name}, "status": {"addresses": [
            {"type": "InternalIP", "address": ip}, {"type": "ExternalDNS", "address": "bank.example"}]}}))
    };
    let issue = |nodes: &[BTreeSet<Name>], found: Option<&Found>, at| {
        of_default(nodes.to_vec(), found, ca.root(), at)
    };
    let one = [node("n1", "192.0.2.1")];
    let plan = issue(&one, None, now());
    let [Write::Issue { secret, names, owners }] = &plan.writes[..] else { panic!("{plan:?}") };
    assert_eq!(names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["n1", "192.0.2.1"]);
    let found = Found::read(&body(secret, &ca.issue(names, now()).unwrap(), ca.root(), owners));
    assert!(issue(&one, Some(&found), days(59)).writes.is_empty());
    assert_eq!(issue(&one, Some(&found), days(60)).writes.len(), 1);
    let two = [node("n1", "192.0.2.1"), node("n2", "2001:db8::2")];
    assert_eq!(issue(&two, Some(&found), now()).writes.len(), 1);
    let theirs = Found::read(&json!({"type": "kubernetes.io/tls"}));
    assert!(issue(&two, Some(&theirs), now()).writes.is_empty());
    assert!(issue(&[], None, now()).writes.is_empty(), "no node, no names");
    let many: Vec<_> = (0..150).map(|n| node(&format!("n{n}"), &format!("192.0.2.{n}"))).collect();
    let plan = issue(&many, None, now());
    let [Write::Issue { names, .. }] = &plan.writes[..] else { panic!("{plan:?}") };
    assert_eq!(names.len(), MOST_NAMES);
    // It is not one that Ingresses have, and is not swept away as one that none wants.
    let secrets = [(DEFAULT_CERTIFICATE.1.to_owned(), found)].into();
    assert!(of_namespace(DEFAULT_CERTIFICATE.0, &[], &secrets, ca.root(), now()).writes.is_empty());
}

/// What users do.
#[derive(Debug, Clone)]
enum Deed {
    /// An Ingress is like this: Secrets and hosts by number.
    Ingress(u8, Vec<(u8, Vec<u8>)>),
    Gone(u8),
    /// A Secret of their own.
    Theirs(u8),
    Deleted(u8),
    Days(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let tls = proptest::collection::vec((0..4u8, proptest::collection::vec(0..4u8, 0..3)), 0..3);
    prop_oneof![
        4 => (0..3u8, tls).prop_map(|(name, tls)| Deed::Ingress(name, tls)),
        1 => (0..3u8).prop_map(Deed::Gone),
        1 => (1..4u8).prop_map(Deed::Theirs),
        1 => (1..4u8).prop_map(Deed::Deleted),
        2 => (0..70u8).prop_map(Deed::Days),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever users do: theirs stays theirs, a second look finds nothing to do, and every wish that can be fulfilled is.
    #[test]
    fn plans_come_to_rest_and_spare_what_is_not_ours(deeds in proptest::collection::vec(deed(), 1..12)) {
        let mut world = World::of(&[]);
        let (mut ingresses, mut theirs, mut at) = (BTreeMap::new(), BTreeMap::new(), now());
        for deed in deeds {
            match deed {
                Deed::Ingress(name, tls) => {
                    let secret = |n: &u8| if *n == 0 { String::new() } else { format!("s{n}") };
                    let tls: Vec<Value> = tls.iter().map(|(s, hosts)| {
                        let hosts: Vec<String> = hosts.iter().map(|h| format!("h{h}.test")).collect();
                        json!({"secretName": secret(s), "hosts": hosts})
                    }).collect();
                    ingresses.insert(name, ingress(&format!("i{name}"), &json!(tls)));
                }
                Deed::Gone(name) => drop(ingresses.remove(&name)),
                Deed::Theirs(n) => {
                    let own = json!({"metadata": {"name": format!("s{n}")}, "type": "kubernetes.io/tls",
                        "data": {"tls.crt": "eA==", "tls.key": "eA=="}});
                    theirs.insert(format!("s{n}"), own.clone());
                    world.secrets.insert(format!("s{n}"), own);
                }
                Deed::Deleted(n) => {
                    theirs.remove(&format!("s{n}"));
                    world.secrets.remove(&format!("s{n}"));
                }
                Deed::Days(n) => at += SignedDuration::from_hours(24 * i64::from(n)),
            }
            world.are(&ingresses.values().cloned().collect::<Vec<_>>());
            world.step(at);
            prop_assert_eq!(world.plan(at).writes, vec![], "it does not come to rest");
            for (name, own) in &theirs {
                prop_assert_eq!(world.secrets.get(name), Some(own));
            }
            for (secret, hosts) in world.wishes.iter().flat_map(|w| &w.tls) {
                if secret.is_empty() || theirs.contains_key(secret) {
                    continue;
                }
                let found = world.secrets.get(secret).map(Found::read);
                let whole = found.as_ref().and_then(|f| f.whole(world.ca.root()));
                for host in hosts {
                    let name = Name::Host(HostPattern::new(host.clone()).unwrap());
                    prop_assert!(whole.is_some_and(|w| w.names.contains(&name) && w.rests(world.ca.root(), at).is_some()));
                }
            }
        }
    }
}

#[test]
fn rows_tell_when_there_is_something_to_do() {
    use warren_types::{IngressTls, SecretBytes};
    let row = |hosts: &[&str]| Ingress {
        key: warren_types::IngressKey::parse("shop/web").unwrap(),
        uid: "u".into(),
        created: 0,
        class: None,
        options: [(ANNOTATION_CERTIFICATE.to_owned(), "private".to_owned())].into(),
        default_backend: None,
        rules: Vec::new(),
        tls: vec![IngressTls {
            hosts: hosts.iter().map(|host| HostPattern::new(*host).unwrap()).collect(),
            secret: Some(warren_types::SecretName::new("tls").unwrap()),
        }],
        published: Vec::new(),
    };
    assert_eq!(Wish::of(&Ingress { options: BTreeMap::new(), ..row(&["a.test"]) }), None);
    let wish = Wish::of(&row(&["a.test"])).unwrap();
    let read = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": {ANNOTATION_CERTIFICATE: "private"}},
        "spec": {"tls": [{"hosts": ["a.test"], "secretName": "tls"}]}});
    assert_eq!(Some(&wish), Wish::read(&read).as_ref(), "an object and its row wish the same");
    let ca = authority();
    let names = [Name::Host(HostPattern::new("a.test").unwrap())].into();
    let leaf = ca.issue(&names, now()).unwrap();
    let entries = [
        ("tls.crt", leaf.cert_pem.as_str()),
        ("tls.key", leaf.key_pem.expose()),
        ("ca.crt", ca.root().pem.as_str()),
    ];
    let data = entries.map(|(key, text)| (key.to_owned(), SecretBytes::new(text))).into();
    let held = SecretContent { kind: "kubernetes.io/tls".into(), data };
    let asked = |wish: &Wish, held: Option<&SecretContent>, day| {
        rests(std::slice::from_ref(wish), |_| held, days(day))
    };
    assert!(asked(&wish, Some(&held), 0).is_some() && asked(&wish, Some(&held), 59).is_some());
    assert_eq!((asked(&wish, Some(&held), 61), asked(&wish, None, 0)), (None, None));
    assert_eq!(asked(&Wish::of(&row(&["a.test", "b.test"])).unwrap(), Some(&held), 0), None, "other hosts");
    assert!(default_rests([names], Some(&held), now()).is_some() && default_rests([], None, now()).is_some());
}
