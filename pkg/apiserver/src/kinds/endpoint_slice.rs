//! discovery.k8s.io/v1 EndpointSlice.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

use super::{default, default_text, each, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    generation: true,
    typed: typed::<k8s_openapi::api::discovery::v1::EndpointSlice>,
    default: defaults,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("AddressType", "Whether the addresses are IPv4, IPv6 or names."),
        Column::text("Ports", "The ports of every endpoint."),
        Column::text("Endpoints", "The addresses."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

fn defaults(value: &mut Value) {
    let Value::Object(o) = value else { return };
    for port in each(o, "ports") {
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
    default(o, "endpoints", Value::Array(Vec::new()));
}

fn validate(o: &Value, causes: &mut Causes) {
    let of_type = text(o, "/addressType");
    if of_type.is_empty() {
        causes.required("addressType", "");
    } else {
        rules::one_of("addressType", of_type, TYPES, causes);
    }
    let endpoints = list(o, "/endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        causes.too_many("endpoints", endpoints.len(), MAX_ENDPOINTS);
    } else {
        for (i, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, of_type, &format!("endpoints[{i}]"), causes);
        }
    }
    validate_ports(list(o, "/ports"), causes);
}

fn validate_endpoint(endpoint: &Value, of_type: &str, at: &str, causes: &mut Causes) {
    let addresses = list(endpoint, "/addresses");
    let field = format!("{at}.addresses");
    if addresses.is_empty() {
        causes.required(&field, "must contain at least 1 address");
    } else if addresses.len() > MAX_ADDRESSES {
        causes.too_many(&field, addresses.len(), MAX_ADDRESSES);
    } else {
        for (i, address) in addresses.iter().enumerate() {
            let (at, address) = (format!("{field}[{i}]"), address.as_str().unwrap_or_default());
            match of_type {
                "IPv4" | "IPv6" => {
                    let Some(parsed) = rules::address(&at, address, causes) else { continue };
                    if parsed.is_ipv4() == (of_type == "IPv4") {
                        rules::not_special(&at, address, parsed, causes);
                    } else {
                        causes.invalid(&at, address, format_args!("must be an {of_type} address"));
                    }
                }
                "FQDN" => rules::dns_subdomain(&at, address, causes),
                _ => {}
            }
        }
    }
    for (key, rule) in
        [("hostname", rules::dns_label as fn(&str, &str, &mut Causes)), ("nodeName", rules::dns_subdomain)]
    {
        if let Some(value) = endpoint.get(key).and_then(Value::as_str) {
            rule(&format!("{at}.{key}"), value, causes);
        }
    }
    let topology = endpoint.get("deprecatedTopology").and_then(Value::as_object);
    if topology.is_some_and(|t| t.contains_key("kubernetes.io/hostname")) {
        let field = format!("{at}.deprecatedTopology[kubernetes.io/hostname]");
        causes.invalid(&field, "kubernetes.io/hostname", "may not be set; use nodeName");
    }
    for (part, name) in [("forZones", "zone"), ("forNodes", "node")] {
        let field = format!("{at}.hints.{part}");
        let hints = list(endpoint, &format!("/hints/{part}"));
        if hints.len() > MAX_HINTS {
            causes.too_many(&field, hints.len(), MAX_HINTS);
            continue;
        }
        let mut seen = BTreeSet::new();
        for (i, hint) in hints.iter().enumerate() {
            let value = text(hint, "/name");
            if value.is_empty() {
                causes.required(&format!("{field}[{i}].name"), &format!("a {name} must have a name"));
            } else if !seen.insert(value) {
                causes.duplicate(&format!("{field}[{i}].name"), value);
            }
        }
    }
}

fn validate_ports(ports: &[Value], causes: &mut Causes) {
    if ports.len() > MAX_PORTS {
        causes.too_many("ports", ports.len(), MAX_PORTS);
        return;
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("ports[{i}]");
        let name = text(port, "/name");
        if !name.is_empty() {
            rules::dns_label(&format!("{at}.name"), name, causes);
        }
        if !names.insert(name) {
            causes.duplicate(&format!("{at}.name"), name);
        }
        rules::protocol(&format!("{at}.protocol"), text(port, "/protocol"), causes);
        if let Some(number) = port.get("port").filter(|n| !n.is_null()) {
            rules::port_number(&format!("{at}.port"), number, causes);
        }
        let app = text(port, "/appProtocol");
        if !app.is_empty() {
            rules::qualified_name(&format!("{at}.appProtocol"), app, causes);
        }
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    super::immutable(new, old, "/addressType", causes);
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(o, "/ports")
        .iter()
        .map(|p| p.get("port").filter(|n| !n.is_null()).map_or_else(|| "*".into(), ToString::to_string))
        .collect();
    let addresses: Vec<String> = list(o, "/endpoints")
        .iter()
        .flat_map(|e| list(e, "/addresses"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        text(o, "/metadata/name").into(),
        text(o, "/addressType").into(),
        rules::first_three(&ports, "<unset>").into(),
        rules::first_three(&addresses, "<unset>").into(),
        age(o, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(mut o: Value) -> Vec<String> {
        defaults(&mut o);
        let mut causes = Causes::default();
        validate(&o, &mut causes);
        causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect()
    }

    #[test]
    fn every_rule() {
        let v4 = |address: &str| json!({"addressType": "IPv4", "endpoints": [{"addresses": [address]}]});
        for (o, expected) in [
            (v4("10.0.0.1"), vec![]),
            (v4("127.0.0.1"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (v4("169.254.0.1"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (v4("0.0.0.0"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (v4("224.0.0.5"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (v4("239.1.1.1"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (v4("fd00::1"), vec!["endpoints[0].addresses[0] FieldValueInvalid"]),
            (
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fe80::1"]}]}),
                vec!["endpoints[0].addresses[0] FieldValueInvalid"],
            ),
            (json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}), vec![]),
            (json!({"addressType": "X"}), vec!["addressType FieldValueNotSupported"]),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                vec!["endpoints[0].addresses FieldValueRequired"],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": vec!["10.0.0.1"; 101]}]}),
                vec!["endpoints[0].addresses FieldValueTooMany"],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
                vec!["endpoints FieldValueTooMany"],
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"port": 1}, {"port": 2}]}),
                vec!["ports[1].name FieldValueDuplicate"],
            ),
            (
                json!({"addressType": "IPv4", "ports": [{"port": 1, "name": "a", "protocol": "X"}, {"port": 0, "name": "b"}]}),
                vec!["ports[0].protocol FieldValueNotSupported", "ports[1].port FieldValueInvalid"],
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "-", "hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}]}),
                vec![
                    "endpoints[0].nodeName FieldValueInvalid",
                    "endpoints[0].hints.forZones[1].name FieldValueDuplicate",
                ],
            ),
        ] {
            assert_eq!(
                faults(o.clone()),
                expected,
                "{}",
                o.to_string().chars().take(200).collect::<String>()
            );
        }
    }

    #[test]
    fn the_address_type_stays() {
        let mut causes = Causes::default();
        validate_update(&json!({"addressType": "IPv6"}), &json!({"addressType": "IPv4"}), &mut causes);
        assert_eq!(causes.0[0].field, "addressType");
    }
}
