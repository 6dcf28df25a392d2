//! What is written so that a status says what it should, and that nothing is when it does.

use super::*;
use warren_types::{GroupKind, RouteKind};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn condition(kind: &str, holds: bool, generation: i64) -> Condition {
    Condition { kind: kind.into(), holds, reason: kind.into(), message: String::new(), generation }
}

fn parent(name: &str) -> ParentRef {
    let of = GroupKind { group: "gateway.networking.k8s.io".into(), kind: "Gateway".into() };
    ParentRef { of, namespace: None, name: name.into(), section: None, port: None }
}

#[test]
fn a_condition_keeps_its_time_while_it_holds() {
    let told =
        |holds, generation| GatewayTold::Class { conditions: vec![condition("Accepted", holds, generation)] };
    let pending = json!({"conditions": [{"type": "Accepted", "status": "Unknown", "lastTransitionTime": "1970-01-01T00:00:00Z"}]});
    let first = status(&told(true, 1), &pending, at(10)).unwrap();
    assert_eq!(first["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:10Z");
    assert_eq!(status(&told(true, 1), &first, at(20)), None, "it says so already");
    let second = status(&told(true, 2), &first, at(20)).unwrap();
    assert_eq!(second["conditions"][0]["observedGeneration"], 2);
    assert_eq!(second["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:10Z");
    let third = status(&told(false, 2), &second, at(30)).unwrap();
    assert_eq!(third["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:30Z");
}

#[test]
fn what_others_say_of_a_route_stays() {
    let theirs = json!({"parentRef": {"name": "theirs"}, "controllerName": "a.example/b", "conditions": []});
    let old = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "old"},
        "controllerName": GATEWAY_CONTROLLER, "conditions": []});
    let told = |parents: &[&str]| {
        let parents =
            parents.iter().map(|name| (parent(name), vec![condition("Accepted", true, 1)])).collect();
        GatewayTold::Route { parents }
    };
    let shown = json!({"parents": [old, theirs]});
    let made = status(&told(&["gw", "two"]), &shown, at(1)).unwrap();
    let names: Vec<&Value> =
        made["parents"].as_array().unwrap().iter().map(|p| &p["parentRef"]["name"]).collect();
    assert_eq!(names, ["theirs", "gw", "two"]);
    assert_eq!(status(&told(&["gw", "two"]), &made, at(2)), None);
    let none = status(&told(&[]), &made, at(2)).unwrap();
    assert_eq!(none, json!({"parents": [theirs]}));
    assert_eq!(
        status(&told(&[]), &Value::Null, at(2)),
        None,
        "there is nothing to say, and nothing was said"
    );
}

#[test]
fn a_gateway_says_where_it_is_and_how_its_listeners_do() {
    let told = GatewayTold::Gateway {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        conditions: vec![condition("Accepted", true, 1)],
        listeners: vec![ListenerTold {
            name: "http".into(),
            kinds: vec![RouteKind::Http],
            attached: 2,
            conditions: vec![condition("Programmed", true, 1)],
        }],
    };
    let made = status(&told, &Value::Null, at(1)).unwrap();
    assert_eq!(made["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.1"}]));
    let listener = &made["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(2)));
    assert_eq!(listener["supportedKinds"][0]["kind"], "HTTPRoute");
    assert_eq!(status(&told, &made, at(9)), None);
    let mut foreign = made.clone();
    foreign["conditions"].as_array_mut().unwrap().push(json!({"type": "Theirs", "status": "True"}));
    foreign["listeners"][0]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "Conflicted", "status": "True"}));
    let again = status(&told, &foreign, at(9)).unwrap();
    assert_eq!(again["conditions"][1]["type"], "Theirs", "a condition of somebody else stays");
    assert_eq!(
        again["listeners"][0]["conditions"].as_array().unwrap().len(),
        1,
        "one of ours that is not said goes"
    );
}

#[test]
fn what_was_said_of_a_route_is_taken_back() {
    let ours = json!({"parentRef": {"name": "gw"}, "controllerName": GATEWAY_CONTROLLER, "conditions": []});
    let theirs = json!({"parentRef": {"name": "theirs"}, "controllerName": "a.example/b", "conditions": []});
    let seen =
        |parents: Value| Seen { uid: "u".into(), version: "7".into(), status: json!({"parents": parents}) };
    let write = forgotten("HTTPRoute/shop/web", &seen(json!([ours, theirs])), at(1)).unwrap();
    assert_eq!((write.object.as_str(), write.version.as_str()), ("shop/web", "7"));
    assert_eq!(write.status, json!({"parents": [theirs]}));
    assert_eq!(forgotten("HTTPRoute/shop/web", &seen(json!([theirs])), at(1)), None);
    assert_eq!(forgotten("Gateway/shop/gw", &seen(json!([ours])), at(1)), None);
}
