//! networking.k8s.io/v1 NetworkPolicy.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{default, default_text, each, object, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "networking.k8s.io",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short: &["netpol"],
    kind: "NetworkPolicy",
    generation: true,
    typed: typed::<k8s_openapi::api::networking::v1::NetworkPolicy>,
    default: defaults,
    validate,
    columns: &[Column::NAME, Column::text("Pod-Selector", "The pods that it is for."), Column::AGE],
    cells,
    ..PLAIN
};

const TYPES: &[&str] = &["Egress", "Ingress"];

fn defaults(value: &mut Value) {
    let spec = object(value, "spec");
    default(spec, "podSelector", json!({}));
    for part in ["ingress", "egress"] {
        for rule in each(spec, part) {
            for port in each(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
        spec.insert(
            "policyTypes".into(),
            if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
        );
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    rules::label_selector("spec.podSelector", &o["spec"]["podSelector"], causes);
    for (part, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(o, &format!("/spec/{part}")).iter().enumerate() {
            let at = format!("spec.{part}[{i}]");
            for (j, port) in list(rule, "/ports").iter().enumerate() {
                validate_port(port, &format!("{at}.ports[{j}]"), causes);
            }
            for (j, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
                validate_peer(peer, &format!("{at}.{peers}[{j}]"), causes);
            }
        }
    }
    let types = list(o, "/spec/policyTypes");
    if types.len() > TYPES.len() {
        let value = o["spec"]["policyTypes"].clone();
        causes.invalid_value("spec.policyTypes", &value, "may not specify more than two policyTypes");
        return;
    }
    for (i, of_type) in types.iter().filter_map(Value::as_str).enumerate() {
        rules::one_of(&format!("spec.policyTypes[{i}]"), of_type, TYPES, causes);
    }
}

fn validate_port(port: &Value, at: &str, causes: &mut Causes) {
    rules::protocol(&format!("{at}.protocol"), text(port, "/protocol"), causes);
    let end = port.get("endPort").filter(|e| !e.is_null());
    match port.get("port").filter(|p| !p.is_null()) {
        None => {
            if end.is_some() {
                causes.required(&format!("{at}.port"), "must be specified when `endPort` is specified");
            }
        }
        Some(number @ Value::Number(first)) => {
            rules::port_number(&format!("{at}.port"), number, causes);
            let Some(end) = end else { return };
            let field = format!("{at}.endPort");
            if end.as_i64() < first.as_i64() {
                causes.invalid_value(&field, end, "must be greater than or equal to `port`");
            } else {
                rules::port_number(&field, end, causes);
            }
        }
        Some(name) => {
            rules::port_number_or_name(&format!("{at}.port"), name, causes);
            if let Some(end) = end {
                let rule = "may not be specified when `port` is non-numeric";
                causes.invalid_value(&format!("{at}.endPort"), end, rule);
            }
        }
    }
}

fn validate_peer(peer: &Value, at: &str, causes: &mut Causes) {
    let part = |key: &str| peer.get(key).filter(|p| !p.is_null());
    let mut peers = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = part(key) {
            peers += 1;
            rules::label_selector(&format!("{at}.{key}"), selector, causes);
        }
    }
    if let Some(block) = part("ipBlock") {
        if peers > 0 {
            causes.forbidden(at, "may not specify both ipBlock and another peer");
        }
        peers += 1;
        validate_block(block, &format!("{at}.ipBlock"), causes);
    }
    if peers == 0 {
        causes.required(at, "must specify a peer");
    }
}

fn validate_block(block: &Value, at: &str, causes: &mut Causes) {
    let cidr = text(block, "/cidr");
    let field = format!("{at}.cidr");
    if cidr.is_empty() {
        return causes.required(&field, "");
    }
    let Some(cidr) = rules::prefix(&field, cidr, causes) else { return };
    for (i, except) in list(block, "/except").iter().filter_map(Value::as_str).enumerate() {
        let at = format!("{at}.except[{i}]");
        let Some(inner) = rules::prefix(&at, except, causes) else { continue };
        if !cidr.trunc().contains(&inner.trunc()) || inner.prefix_len() <= cidr.prefix_len() {
            causes.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let selector = rules::show_selector(o.pointer("/spec/podSelector").unwrap_or(&Value::Null));
    vec![text(o, "/metadata/name").into(), selector.into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(spec: &Value) -> Vec<String> {
        let mut o = json!({"spec": spec});
        defaults(&mut o);
        let mut causes = Causes::default();
        validate(&o, &mut causes);
        causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect()
    }

    #[test]
    fn defaults_of_types_and_protocols() {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"egress": []}), json!(["Ingress"])),
            (json!({"policyTypes": ["Egress"], "ingress": [{}]}), json!(["Egress"])),
        ] {
            let mut o = json!({"spec": spec});
            defaults(&mut o);
            assert_eq!(o["spec"]["policyTypes"], types);
            assert_eq!(o["spec"]["podSelector"], json!({}));
        }
        let mut o = json!({"spec": {"ingress": [{"ports": [{"port": 80}]}]}});
        defaults(&mut o);
        assert_eq!(o["spec"]["ingress"][0]["ports"][0]["protocol"], "TCP");
    }

    #[test]
    fn every_rule() {
        let port = |p: Value| json!({"ingress": [{"ports": [p]}]});
        let peer = |p: Value| json!({"egress": [{"to": [p]}]});
        let block = |b: Value| json!({"egress": [{"to": [{"ipBlock": b}]}]});
        for (spec, expected) in [
            (port(json!({"port": 80, "endPort": 90})), vec![]),
            (port(json!({"port": 80, "endPort": 80})), vec![]),
            (port(json!({"port": "http"})), vec![]),
            (port(json!({"protocol": "SCTP"})), vec![]),
            (
                port(json!({"port": 80, "endPort": 79})),
                vec!["spec.ingress[0].ports[0].endPort FieldValueInvalid"],
            ),
            (
                port(json!({"port": 80, "endPort": 65536})),
                vec!["spec.ingress[0].ports[0].endPort FieldValueInvalid"],
            ),
            (
                port(json!({"port": "http", "endPort": 90})),
                vec!["spec.ingress[0].ports[0].endPort FieldValueInvalid"],
            ),
            (port(json!({"endPort": 90})), vec!["spec.ingress[0].ports[0].port FieldValueRequired"]),
            (port(json!({"port": 0})), vec!["spec.ingress[0].ports[0].port FieldValueInvalid"]),
            (port(json!({"port": "-"})).clone(), vec!["spec.ingress[0].ports[0].port FieldValueInvalid"; 2]),
            (
                port(json!({"protocol": "ICMP"})),
                vec!["spec.ingress[0].ports[0].protocol FieldValueNotSupported"],
            ),
            (peer(json!({})), vec!["spec.egress[0].to[0] FieldValueRequired"]),
            (peer(json!({"podSelector": {}, "namespaceSelector": {}})), vec![]),
            (
                peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                vec!["spec.egress[0].to[0] FieldValueForbidden"],
            ),
            (block(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})), vec![]),
            (block(json!({"cidr": "fd00::/8", "except": ["fd00:1::/32"]})), vec![]),
            (
                block(json!({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]})),
                vec!["spec.egress[0].to[0].ipBlock.except[0] FieldValueInvalid"],
            ),
            (
                block(json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]})),
                vec!["spec.egress[0].to[0].ipBlock.except[0] FieldValueInvalid"],
            ),
            (
                block(json!({"cidr": "10.0.0.0/8", "except": ["x"]})),
                vec!["spec.egress[0].to[0].ipBlock.except[0] FieldValueInvalid"],
            ),
            (block(json!({"cidr": "10.0.0.0"})), vec!["spec.egress[0].to[0].ipBlock.cidr FieldValueInvalid"]),
            (block(json!({"cidr": ""})), vec!["spec.egress[0].to[0].ipBlock.cidr FieldValueRequired"]),
            (json!({"policyTypes": ["Both"]}), vec!["spec.policyTypes[0] FieldValueNotSupported"]),
            (
                json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}),
                vec!["spec.policyTypes FieldValueInvalid"],
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
                vec!["spec.podSelector.matchExpressions[0].values FieldValueRequired"],
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
                vec!["spec.podSelector.matchExpressions[0].values FieldValueForbidden"],
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}),
                vec!["spec.podSelector.matchExpressions[0].operator FieldValueInvalid"],
            ),
            (
                json!({"podSelector": {"matchLabels": {"a b": "c"}}}),
                vec!["spec.podSelector.matchLabels FieldValueInvalid"],
            ),
        ] {
            assert_eq!(faults(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn the_selector_is_shown() {
        let o = json!({"spec": {"podSelector": {"matchLabels": {"b": "2", "a": "1"}, "matchExpressions": [{"key": "t", "operator": "NotIn", "values": ["y", "x"]}]}}});
        assert_eq!(cells(&o, Timestamp::UNIX_EPOCH)[1], "a=1,b=2,t notin (x,y)");
    }
}
