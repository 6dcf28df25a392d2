use proptest::prelude::*;
use serde_json::{Value, json};

use super::set::Set;
use super::*;
use crate::registry::{CONFIG_MAP, POD};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-02T00:00:00Z";

fn manager(name: &str, applies: bool) -> Manager {
    Manager { name: name.into(), applies, api_version: "v1".into(), subresource: "" }
}

fn applied(live: &Value, config: &Value, who: &str, force: bool) -> Result<Value, Refused> {
    apply(POD.get(), live, config, &manager(who, true), force, NOW)
}

fn updated(live: &Value, mut new: Value, who: &str) -> Value {
    update(POD.get(), live, &mut new, &manager(who, false), NOW);
    new
}

fn owned(object: &Value, who: &str) -> Value {
    let all = object["metadata"]["managedFields"].as_array().unwrap();
    all.iter().find(|e| e["manager"] == who).map(|e| e["fieldsV1"].clone()).unwrap_or_default()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn what_an_applier_drops_goes_and_what_others_set_stays() {
    let first = pod(
        json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}),
    );
    let mut live = applied(&Value::Null, &first, "m", false).unwrap();
    assert_eq!(
        owned(&live, "m"),
        json!({"f:spec": {"f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:env": {"k:{\"name\":\"X\"}": {".": {}, "f:name": {}, "f:value": {}}}, "f:image": {}, "f:name": {}},
            "k:{\"name\":\"b\"}": {".": {}, "f:image": {}, "f:name": {}}}}})
    );
    // Another sets a field of its own, and the server a default that nobody owns.
    let mut other = live.clone();
    other["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
    other["spec"]["containers"][1]["terminationMessagePath"] = "/x".into();
    live = updated(&live, other, "other");
    let second = pod(json!({"containers": [{"name": "a", "image": "2"}]}));
    let live = applied(&live, &second, "m", false).unwrap();
    assert_eq!(
        live["spec"]["containers"],
        json!([{"name": "a", "image": "2", "imagePullPolicy": "Always"}, {"name": "b", "terminationMessagePath": "/x"}])
    );
}

#[test]
fn a_dropped_probe_takes_its_defaults_with_it() {
    let probe = json!({"name": "a", "image": "1", "livenessProbe": {"httpGet": {"path": "/", "port": 80}}});
    let mut live = applied(&Value::Null, &pod(json!({"containers": [probe]})), "m", false).unwrap();
    live["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = 10.into();
    let live =
        applied(&live, &pod(json!({"containers": [{"name": "a", "image": "1"}]})), "m", false).unwrap();
    assert_eq!(live["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
}

#[test]
fn conflicts_are_named_and_force_takes_over() {
    let live = updated(&Value::Null, pod(json!({"containers": [{"name": "a", "image": "1"}]})), "editor");
    let config = pod(json!({"containers": [{"name": "a", "image": "2"}]}));
    let Err(Refused::Conflicts(conflicts)) = applied(&live, &config, "m", false) else {
        panic!("no conflict")
    };
    assert_eq!(
        conflicts,
        [Conflict {
            manager: format!("\"editor\" using v1 at {NOW}"),
            field: ".spec.containers[name=\"a\"].image".into()
        }]
    );
    let live = applied(&live, &config, "m", true).unwrap();
    assert_eq!(live["spec"]["containers"][0]["image"], "2");
    assert!(owned(&live, "editor").pointer("/f:spec/f:containers/k:{\"name\":\"a\"}/f:image").is_none());
    // The same value is shared, not contested.
    let shared = applied(&live, &config, "second", false).unwrap();
    assert_eq!(owned(&shared, "second"), owned(&shared, "m"));
    // Who no longer applies a shared field leaves it to the other.
    let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let left = applied(&shared, &nothing, "m", false).unwrap();
    assert_eq!(left["spec"]["containers"][0]["image"], "2");
    let gone = applied(&left, &nothing, "second", false).unwrap();
    assert!(owned(&gone, "second").is_null());
}

#[test]
fn ports_are_told_apart_by_port_and_protocol() {
    let with = |ports: Value| pod(json!({"containers": [{"name": "a", "image": "1", "ports": ports}]}));
    let live = updated(
        &Value::Null,
        with(json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}])),
        "e",
    );
    let live = applied(&live, &with(json!([{"containerPort": 53, "name": "dns"}])), "m", false).unwrap();
    assert_eq!(
        live["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP", "name": "dns"}])
    );
    let twice = with(json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "TCP"}]));
    assert!(matches!(applied(&live, &twice, "m", false), Err(Refused::Malformed(_))));
    assert!(matches!(applied(&live, &pod(json!({"x": 1})), "m", false), Err(Refused::Malformed(_))));
}

#[test]
fn sets_and_wholes() {
    let meta = |finalizers: Value| json!({"metadata": {"name": "p", "finalizers": finalizers}});
    let live = applied(&Value::Null, &meta(json!(["a/a"])), "one", false).unwrap();
    let live = applied(&live, &meta(json!(["b/b"])), "two", false).unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["a/a", "b/b"]));
    let live = applied(&live, &json!({"metadata": {"name": "p"}}), "one", false).unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["b/b"]));
    let selector = |v: Value| pod(json!({"nodeSelector": v}));
    let live = applied(&live, &selector(json!({"a": "1"})), "one", false).unwrap();
    let Err(Refused::Conflicts(c)) = applied(&live, &selector(json!({"b": "1"})), "two", false) else {
        panic!("a map owned as a whole was shared")
    };
    assert_eq!(c[0].field, ".spec.nodeSelector");
    let live = applied(&live, &selector(json!({"b": "1"})), "two", true).unwrap();
    assert_eq!(live["spec"]["nodeSelector"], json!({"b": "1"}));
}

#[test]
fn status_has_a_door_of_its_own() {
    let mut live = updated(&Value::Null, pod(json!({"containers": [{"name": "a"}]})), "e");
    live["status"] = json!({"phase": "Pending"});
    let door = Manager { subresource: "status", ..manager("node", false) };
    let mut new = live.clone();
    new["status"]["phase"] = "Running".into();
    update(POD.get(), &live, &mut new, &door, LATER);
    let entry = new["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "node");
    assert_eq!(
        *entry.unwrap(),
        json!({"manager": "node", "operation": "Update", "apiVersion": "v1", "time": LATER, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:status": {"f:phase": {}}}, "subresource": "status"})
    );
    // Status in a configuration that comes through the main door is left alone.
    let mut config = pod(json!({}));
    config["status"] = json!({"phase": "Failed"});
    let applied = applied(&new, &config, "m", false).unwrap();
    assert_eq!(applied["status"]["phase"], "Running");
}

#[test]
fn an_object_without_managers_gets_one_for_what_was_there() {
    let live = json!({"metadata": {"name": "c"}, "data": {"a": "1"}});
    let config = json!({"metadata": {"name": "c"}, "data": {"a": "2"}});
    let result = apply(CONFIG_MAP.get(), &live, &config, &manager("m", true), false, NOW);
    let Err(Refused::Conflicts(c)) = result else { panic!("taken over") };
    assert!(c[0].manager.contains(BEFORE), "{c:?}");
}

#[test]
fn old_updaters_are_merged() {
    let mut live = Value::Null;
    for i in 0..15 {
        let mut new = if i == 0 { json!({"metadata": {"name": "c"}, "data": {}}) } else { live.clone() };
        new["data"][format!("k{i}")] = "v".into();
        let at = format!("2026-01-{:02}T00:00:00Z", i + 1);
        update(CONFIG_MAP.get(), &live, &mut new, &manager(&format!("u{i}"), false), &at);
        live = new;
    }
    assert_eq!(live["metadata"]["managedFields"].as_array().unwrap().len(), 10);
    assert_eq!(owned(&live, "ancient-changes")["f:data"]["f:k0"], json!({}));
}

fn spec() -> impl Strategy<Value = Value> {
    let word = || "[a-c]";
    let port = (1..4, prop::option::of(prop_oneof![Just("TCP"), Just("UDP")]), prop::option::of("[a-c]"))
        .prop_map(|(port, protocol, name)| {
            let mut p = json!({"containerPort": port});
            if let Some(protocol) = protocol {
                p["protocol"] = protocol.into();
            }
            if let Some(name) = name {
                p["name"] = name.into();
            }
            p
        });
    let env = (word(), "[0-2]").prop_map(|(n, v)| json!({"name": n, "value": v}));
    let container =
        (word(), "[0-2]", prop::collection::vec(port, 0..3), prop::collection::vec(env, 0..3)).prop_map(
            |(n, i, ports, env)| {
                json!({"name": n, "image": i, "ports": unique(ports, port_key), "env": unique(env, name_key)})
            },
        );
    let labels = prop::collection::btree_map("[a-c]", "[0-2]", 0..3);
    (
        prop::collection::vec(container, 1..3),
        labels.clone(),
        labels.clone(),
        prop::collection::btree_set("[a-c]/[a-c]", 0..3),
        prop::collection::vec(word().prop_map(|k| json!({"key": k})), 0..3),
    )
        .prop_map(|(containers, labels, selector, finalizers, tolerations)| {
            let mut o = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                "spec": {"containers": unique(containers, name_key)}});
            // Empty parts are left out, as clients leave them.
            let mut put = |part: &str, key: &str, v: Value| {
                let empty =
                    v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(|m| m.is_empty());
                if !empty {
                    o[part][key] = v;
                }
            };
            put("metadata", "labels", json!(labels));
            put("metadata", "finalizers", json!(finalizers));
            put("spec", "nodeSelector", json!(selector));
            put("spec", "tolerations", json!(tolerations));
            for c in o["spec"]["containers"].as_array_mut().unwrap() {
                c.as_object_mut().unwrap().retain(|_, v| !v.as_array().is_some_and(Vec::is_empty));
            }
            o
        })
}

fn name_key(v: &Value) -> String {
    v["name"].to_string()
}
fn port_key(v: &Value) -> String {
    format!("{}{}", v["containerPort"], v["protocol"].as_str().unwrap_or("TCP"))
}
fn unique(items: Vec<Value>, key: fn(&Value) -> String) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter(|i| seen.insert(key(i))).collect()
}

fn all_fields(o: &Value) -> Set {
    typed::fields(&bare(o), &shape(POD.get()))
}

/// The object with nothing but these fields.
fn part(o: &Value, keep: &Set) -> Value {
    let all = all_fields(o).with_ways();
    typed::remove(&bare(o), &all.difference(&keep.with_ways()), &shape(POD.get())).unwrap_or_default()
}

proptest! {
    #[test]
    fn a_second_apply_changes_nothing(live in spec(), config in spec()) {
        let live = updated(&Value::Null, live, "e");
        let once = applied(&live, &config, "m", true).unwrap();
        let twice = apply(POD.get(), &once, &config, &manager("m", true), false, LATER).unwrap();
        prop_assert_eq!(&once, &twice);
        // Whatever is configured is there.
        let wanted = all_fields(&config);
        prop_assert!(wanted.difference(&all_fields(&once)).is_empty());
        prop_assert!(typed::changes(&bare(&once), &typed::merge(&bare(&once), &config, &shape(POD.get())), &shape(POD.get())).set.is_empty());
    }

    #[test]
    fn what_is_dropped_goes_and_nothing_of_others_is_lost(live in spec(), first in spec(), second in spec()) {
        let live = updated(&Value::Null, live, "e");
        let once = applied(&live, &first, "m", true).unwrap();
        let others = Managers::decode(&once).unwrap().0.into_iter().filter(|e| e.manager.name == "e").fold(Set::default(), |s, e| s.union(e.fields));
        let again = applied(&once, &second, "m", true).unwrap();
        // Nothing of the first is left but what the second or the other sets.
        let held = all_fields(&second).union(others.clone()).with_ways();
        let dropped = all_fields(&first).difference(&held);
        prop_assert!(dropped.intersection(&all_fields(&again)).is_empty(), "{:?}", dropped.intersection(&all_fields(&again)).paths());
        // What the other alone held is there, unchanged.
        let kept = others.difference(&all_fields(&second).with_ways());
        let differ = typed::changes(&part(&once, &kept), &part(&again, &kept), &shape(POD.get()));
        prop_assert!(differ.set.is_empty() && differ.removed.is_empty(), "{differ:?}");
    }

    #[test]
    fn an_apply_and_its_end_leave_the_object_as_it_was(live in spec(), config in spec()) {
        let live = updated(&Value::Null, live, "e");
        if let Ok(applied_once) = applied(&live, &config, "m", false) {
            let ended = applied(&applied_once, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}), "m", false).unwrap();
            let lost = all_fields(&live).difference(&all_fields(&ended));
            prop_assert!(lost.is_empty(), "lost {:?}", lost.paths());
        }
    }

    #[test]
    fn updates_own_what_they_change(old in spec(), new in spec()) {
        let live = updated(&Value::Null, old, "e");
        let mut next = new;
        next["metadata"]["managedFields"] = live["metadata"]["managedFields"].clone();
        let after = updated(&live, next, "f");
        let managers = Managers::decode(&after).unwrap();
        let owned = managers.0.iter().fold(Set::default(), |s, e| s.union(e.fields.clone()));
        // Every field that the object has is owned by someone, and nobody owns what is not there.
        let there = ownable(all_fields(&after), "", true);
        prop_assert!(there.difference(&owned).is_empty(), "unowned {:?}", there.difference(&owned).paths());
        let nowhere = owned.difference(&there.with_ways());
        prop_assert!(nowhere.is_empty(), "{:?}", nowhere.paths());
    }
}
