use super::*;
use crate::registry::POD;
use proptest::prelude::*;

fn frame() -> Frame {
    let labels = json!({SERVICE_LABEL: "web", MANAGED_BY_LABEL: "me"});
    Frame {
        service: "web".into(),
        labels: labels.as_object().unwrap().clone(),
        annotations: Map::new(),
        owner: json!({"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "u1"}),
        most: 100,
        placeholder: true,
    }
}

fn endpoint(n: usize, ready: bool) -> Value {
    json!({"addresses": [format!("10.0.{}.{}", n / 250, n % 250 + 1)], "conditions": {"ready": ready},
        "targetRef": {"kind": "Pod", "uid": format!("p{n}")}})
}

fn group(port: u16, endpoints: impl IntoIterator<Item = usize>) -> Group {
    let ports = vec![json!({"name": "", "protocol": "TCP", "port": port})];
    Group { ports, endpoints: endpoints.into_iter().map(|n| endpoint(n, true)).collect() }
}

fn wanted(groups: Vec<Group>) -> Wanted {
    BTreeMap::from([("IPv4", groups)])
}

/// Slices as they are stored; the kind does not matter here.
#[derive(Default)]
struct Stored {
    slices: Vec<Arc<Object>>,
    made: usize,
}

impl Stored {
    /// Applies, and says how many were made, changed, removed.
    fn apply(&mut self, changes: Changes) -> (usize, usize, usize) {
        let counts = (changes.create.len(), changes.update.len(), changes.delete.len());
        for mut new in changes.create {
            self.made += 1;
            new["metadata"]["name"] = format!("web-{}", self.made).into();
            self.slices.push(Arc::new(Object::new(POD, new, 1)));
        }
        for (old, new) in changes.update {
            let slot = self.slices.iter_mut().find(|s| s.name == old.name).unwrap();
            *slot = Arc::new(Object::new(POD, new, 2));
        }
        for old in changes.delete {
            self.slices.retain(|s| s.name != old.name);
        }
        counts
    }
    fn bring(&mut self, wanted: &Wanted) -> (usize, usize, usize) {
        self.apply(plan(&frame(), wanted, &self.slices))
    }
    fn sizes(&self) -> Vec<usize> {
        self.slices.iter().map(|s| list(&s.value, "/endpoints").len()).collect()
    }
}

#[test]
fn no_slice_holds_more_than_a_hundred_and_what_fits_stays() {
    let mut s = Stored::default();
    assert_eq!(s.bring(&wanted(vec![group(80, 0..250)])), (3, 0, 0));
    assert_eq!(s.sizes(), [100, 100, 50]);
    assert_eq!(s.bring(&wanted(vec![group(80, 0..250)])), (0, 0, 0));
    assert_eq!(s.bring(&wanted(vec![group(80, 0..251)])), (0, 1, 0), "one slice has room");
    let mut changed = group(80, 0..251);
    changed.endpoints[7] = endpoint(7, false);
    assert_eq!(s.bring(&wanted(vec![changed])), (0, 1, 0));
    // One goes from a full slice and another comes: the slice that changes anyway takes it.
    assert_eq!(s.bring(&wanted(vec![group(80, (0..7).chain(8..252))])), (0, 1, 0));
    assert_eq!(s.sizes(), [100, 100, 51]);
}

#[test]
fn an_empty_service_has_one_empty_slice() {
    let mut s = Stored::default();
    assert_eq!(s.bring(&wanted(Vec::new())), (1, 0, 0));
    assert_eq!((s.sizes(), list(&s.slices[0].value, "/ports").len()), (vec![0], 0));
    assert_eq!(s.bring(&wanted(Vec::new())), (0, 0, 0));
    assert_eq!(s.bring(&wanted(vec![group(80, 0..3)])), (0, 1, 0), "the empty slice is used again");
    assert_eq!(s.bring(&wanted(vec![group(8080, 0..3)])), (0, 1, 0), "and so is one with other ports");
    assert_eq!(s.bring(&wanted(vec![group(80, 0..2), group(8080, 2..3)])), (1, 1, 0));
    assert_eq!(s.bring(&wanted(Vec::new())), (0, 1, 1));
}

#[test]
fn slices_of_another_owner_or_family_go() {
    let mut s = Stored::default();
    s.bring(&BTreeMap::from([("IPv4", vec![group(80, 0..3)]), ("IPv6", Vec::new())]));
    assert_eq!(s.slices.len(), 2);
    assert_eq!(s.bring(&wanted(vec![group(80, 0..3)])), (0, 0, 1));
    let mut other = frame();
    other.owner["uid"] = "u2".into();
    let changes = plan(&other, &wanted(vec![group(80, 0..3)]), &s.slices);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (1, 0, 1));
}

#[test]
fn new_labels_rewrite_the_slices_and_nothing_else_does() {
    let mut s = Stored::default();
    s.bring(&wanted(vec![group(80, 0..3)]));
    let mut labelled = frame();
    labelled.labels.insert("team".into(), "a".into());
    let changes = plan(&labelled, &wanted(vec![group(80, 0..3)]), &s.slices);
    assert_eq!(s.apply(changes), (0, 1, 0));
    assert_eq!(s.slices[0].value["metadata"]["labels"]["team"], "a");
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    for (address, is) in [
        ("10.0.0.1", Some("IPv4")),
        ("fd00::1", Some("IPv6")),
        ("127.0.0.1", None),
        ("169.254.3.4", None),
        ("224.0.0.1", None),
        ("0.0.0.0", None),
        ("::1", None),
        ("fe80::1", None),
        ("ff02::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("name", None),
    ] {
        assert_eq!(address_type(address), is, "{address}");
    }
}

proptest! {
    #[test]
    fn whatever_was_there_the_slices_hold_just_what_is_wanted(
        steps in prop::collection::vec(prop::collection::vec((0usize..400, any::<bool>(), 0u16..3), 0..300), 1..6)
    ) {
        let mut s = Stored::default();
        for step in steps {
            let mut pods: BTreeMap<usize, (bool, u16)> = BTreeMap::new();
            for (n, ready, port) in step {
                pods.insert(n, (ready, port));
            }
            let groups: Vec<Group> = (0..3)
                .map(|port| Group {
                    ports: group(port + 80, []).ports,
                    endpoints: pods.iter().filter(|(_, v)| v.1 == port).map(|(n, v)| endpoint(*n, v.0)).collect(),
                })
                .collect();
            let wanted = wanted(groups.clone());
            s.bring(&wanted);
            prop_assert_eq!(s.bring(&wanted), (0, 0, 0), "a second look writes nothing");
            prop_assert!(s.sizes().iter().all(|n| *n <= 100));
            for group in &groups {
                let mut found: Vec<String> = s.slices.iter()
                    .filter(|x| ports_key(list(&x.value, "/ports")) == ports_key(&group.ports))
                    .flat_map(|x| list(&x.value, "/endpoints").to_vec())
                    .map(|e| e.to_string()).collect();
                let mut right: Vec<String> = group.endpoints.iter().map(ToString::to_string).collect();
                found.sort();
                right.sort();
                prop_assert_eq!(found, right);
            }
            if pods.is_empty() {
                prop_assert_eq!(s.sizes(), vec![0]);
            }
        }
    }
}
