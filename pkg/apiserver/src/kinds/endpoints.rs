//! v1 Endpoints: written for those who still read them.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

use super::{default_text, each, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, list, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "endpoints",
    singular: "endpoints",
    short: &["ep"],
    kind: "Endpoints",
    typed: typed::<k8s_openapi::api::core::v1::Endpoints>,
    default: defaults,
    validate,
    columns: &[
        Column::NAME,
        Column::text("Endpoints", "Where the Service is served: addresses with ports."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

fn defaults(value: &mut Value) {
    let Value::Object(o) = value else { return };
    for subset in each(o, "subsets") {
        for port in each(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    for (i, subset) in list(o, "/subsets").iter().enumerate() {
        let at = format!("subsets[{i}]");
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            causes.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for part in ["addresses", "notReadyAddresses"] {
            for (j, address) in list(subset, &format!("/{part}")).iter().enumerate() {
                validate_address(address, &format!("{at}.{part}[{j}]"), causes);
            }
        }
        let ports = list(subset, "/ports");
        let mut names = BTreeSet::new();
        for (j, port) in ports.iter().enumerate() {
            let at = format!("{at}.ports[{j}]");
            let name = text(port, "/name");
            if name.is_empty() && ports.len() > 1 {
                causes.required(&format!("{at}.name"), "");
            } else if !name.is_empty() {
                rules::dns_label(&format!("{at}.name"), name, causes);
                if !names.insert(name) {
                    causes.duplicate(&format!("{at}.name"), name);
                }
            }
            rules::port_number(&format!("{at}.port"), &port["port"], causes);
            rules::protocol(&format!("{at}.protocol"), text(port, "/protocol"), causes);
            let app = text(port, "/appProtocol");
            if !app.is_empty() {
                rules::qualified_name(&format!("{at}.appProtocol"), app, causes);
            }
        }
    }
}

fn validate_address(address: &Value, at: &str, causes: &mut Causes) {
    let ip = text(address, "/ip");
    let field = format!("{at}.ip");
    if let Some(parsed) = rules::address(&field, ip, causes) {
        rules::not_special(&field, ip, parsed, causes);
    }
    let (host, node) = (text(address, "/hostname"), text(address, "/nodeName"));
    if !host.is_empty() {
        rules::dns_label(&format!("{at}.hostname"), host, causes);
    }
    if !node.is_empty() {
        rules::dns_subdomain(&format!("{at}.nodeName"), node, causes);
    }
}

/// An address and a port, as one text.
pub(crate) fn socket(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(o, "/subsets") {
        let ips = || list(subset, "/addresses").iter().map(|a| text(a, "/ip"));
        let ports = list(subset, "/ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| socket(ip, &port["port"].to_string())));
        }
    }
    vec![text(o, "/metadata/name").into(), rules::first_three(&all, "<none>").into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_rule() {
        for (subset, faults) in [
            (json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}), vec![]),
            (json!({"notReadyAddresses": [{"ip": "fd00::1"}]}), vec![]),
            (json!({}), vec!["subsets[0] FieldValueRequired"]),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}]}),
                vec!["subsets[0].addresses[0].ip FieldValueInvalid"],
            ),
            (
                json!({"addresses": [{"ip": "::ffff:127.0.0.1"}]}),
                vec!["subsets[0].addresses[0].ip FieldValueInvalid"],
            ),
            (
                json!({"addresses": [{"ip": "169.254.1.1"}]}),
                vec!["subsets[0].addresses[0].ip FieldValueInvalid"],
            ),
            (json!({"addresses": [{"ip": "fe80::1"}]}), vec!["subsets[0].addresses[0].ip FieldValueInvalid"]),
            (json!({"addresses": [{"ip": "0.0.0.0"}]}), vec!["subsets[0].addresses[0].ip FieldValueInvalid"]),
            (json!({"addresses": [{"ip": "x"}]}), vec!["subsets[0].addresses[0].ip FieldValueInvalid"]),
            (
                json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 0}]}),
                vec![
                    "subsets[0].ports[1].name FieldValueRequired",
                    "subsets[0].ports[1].port FieldValueInvalid",
                ],
            ),
        ] {
            let mut o = json!({"subsets": [subset.clone()]});
            defaults(&mut o);
            let mut causes = Causes::default();
            validate(&o, &mut causes);
            let found: Vec<String> =
                causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect();
            assert_eq!(found, faults, "{subset}");
        }
    }

    #[test]
    fn the_table_shows_three() {
        let o = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]}]});
        let cells = cells(&o, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...");
    }
}
