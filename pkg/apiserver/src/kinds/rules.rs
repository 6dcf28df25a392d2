//! Rules that several kinds share, told as the API of Kubernetes tells them.

use ipnet::IpNet;
use serde_json::Value;
use std::net::IpAddr;

use crate::error::Causes;
use crate::meta::{
    LABEL_RULE, SUBDOMAIN_RULE, is_dns_label, is_dns_subdomain, is_label_value, is_qualified_name,
};
use crate::table::{list, text};

/// Protocols of ports.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
/// The rule of a port's number.
pub(crate) const PORT_RULE: &str = "must be between 1 and 65535, inclusive";
/// The rule of an address.
pub(crate) const IP_RULE: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// The rule of a prefix.
pub(crate) const CIDR_RULE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
     end with an alphanumeric character";
const WILDCARD_RULE: &str =
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain";

/// A DNS label, when it is there.
pub(crate) fn dns_label(at: &str, value: &str, causes: &mut Causes) {
    if !is_dns_label(value) {
        causes.invalid(at, value, LABEL_RULE);
    }
}

/// A DNS subdomain.
pub(crate) fn dns_subdomain(at: &str, value: &str, causes: &mut Causes) {
    if !is_dns_subdomain(value) {
        causes.invalid(at, value, SUBDOMAIN_RULE);
    }
}

/// A name as labels and annotations have it.
pub(crate) fn qualified_name(at: &str, value: &str, causes: &mut Causes) {
    if !is_qualified_name(value) {
        causes.invalid(at, value, QUALIFIED_RULE);
    }
}

/// A host of an ingress: a DNS name, whose first label may be `*`.
pub(crate) fn host(at: &str, value: &str, causes: &mut Causes) {
    match value.strip_prefix('*') {
        Some(rest) => {
            if !rest.strip_prefix('.').is_some_and(is_dns_subdomain) {
                causes.invalid(at, value, WILDCARD_RULE);
            }
        }
        None => dns_subdomain(at, value, causes),
    }
}

/// A name of the form that IANA gives services (RFC 6335).
pub(crate) fn port_name(at: &str, value: &str, causes: &mut Causes) {
    let b = value.as_bytes();
    let mut broken = |rule: &str| causes.invalid(at, value, rule);
    if b.len() > 15 {
        broken("must be no more than 15 characters");
    }
    if !b.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') || b.is_empty() {
        broken("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !b.iter().any(u8::is_ascii_lowercase) {
        broken("must contain at least one letter (a-z)");
    }
    if value.contains("--") {
        broken("must not contain consecutive hyphens");
    }
    if b.first() == Some(&b'-') || b.last() == Some(&b'-') {
        broken("must not begin or end with a hyphen");
    }
}

/// A port's number.
pub(crate) fn port_number(at: &str, value: &Value, causes: &mut Causes) {
    if !value.as_i64().is_some_and(|n| (1..=65_535).contains(&n)) {
        causes.invalid_value(at, value, PORT_RULE);
    }
}

/// A port by number or by name.
pub(crate) fn port_number_or_name(at: &str, value: &Value, causes: &mut Causes) {
    match value {
        Value::String(name) => port_name(at, name, causes),
        number => port_number(at, number, causes),
    }
}

/// A protocol.
pub(crate) fn protocol(at: &str, value: &str, causes: &mut Causes) {
    if value.is_empty() {
        causes.required(at, "");
    } else if !PROTOCOLS.contains(&value) {
        causes.unsupported(at, value, PROTOCOLS);
    }
}

/// One of a few words.
pub(crate) fn one_of(at: &str, value: &str, known: &[&str], causes: &mut Causes) {
    if !known.contains(&value) {
        causes.unsupported(at, value, known);
    }
}

/// An address; `None` and a cause when it is none.
pub(crate) fn address(at: &str, value: &str, causes: &mut Causes) -> Option<IpAddr> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        causes.invalid(at, value, IP_RULE);
    }
    parsed
}

/// An address that may stand for an endpoint: none that means something else on every host.
pub(crate) fn not_special(at: &str, value: &str, address: IpAddr, causes: &mut Causes) {
    let address = match address {
        IpAddr::V6(a) => a.to_ipv4_mapped().map_or(IpAddr::V6(a), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    let (link_local, link_multicast) = match address {
        IpAddr::V4(a) => (a.is_link_local(), a.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(a) => (a.segments()[0] & 0xffc0 == 0xfe80, a.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        causes.invalid(at, value, "may not be unspecified (0.0.0.0 or ::)");
    }
    if address.is_loopback() {
        causes.invalid(at, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        causes.invalid(at, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        causes.invalid(at, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    } else if address.is_multicast() {
        causes.invalid(at, value, "may not be a multicast address");
    }
}

/// A prefix; `None` and a cause when it is none.
pub(crate) fn prefix(at: &str, value: &str, causes: &mut Causes) -> Option<IpNet> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        causes.invalid(at, value, CIDR_RULE);
    }
    parsed
}

/// Labels of a selector.
pub(crate) fn labels(at: &str, value: Option<&Value>, causes: &mut Causes) {
    for (key, v) in value.and_then(Value::as_object).into_iter().flatten() {
        qualified_name(at, key, causes);
        let v = v.as_str().unwrap_or_default();
        if !is_label_value(v) {
            causes.invalid(at, v, LABEL_VALUE_RULE);
        }
    }
}

const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' \
     or '.', and must start and end with an alphanumeric character";

/// A `LabelSelector`.
pub(crate) fn label_selector(at: &str, value: &Value, causes: &mut Causes) {
    labels(&format!("{at}.matchLabels"), value.get("matchLabels"), causes);
    for (i, term) in list(value, "/matchExpressions").iter().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = list(term, "/values");
        match text(term, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                causes.required(
                    &format!("{at}.values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let rule = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                causes.forbidden(&format!("{at}.values"), rule);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.invalid(&format!("{at}.operator"), other, "not a valid selector operator"),
        }
        qualified_name(&format!("{at}.key"), text(term, "/key"), causes);
        for (j, v) in values.iter().filter_map(Value::as_str).enumerate() {
            if !is_label_value(v) {
                causes.invalid(&format!("{at}.values[{j}]"), v, LABEL_VALUE_RULE);
            }
        }
    }
}

/// A label selector as kubectl prints it.
pub(crate) fn show_selector(value: &Value) -> String {
    let mut terms: Vec<String> = Vec::new();
    let mut equal: Vec<(&String, &str)> = value
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k, v.as_str().unwrap_or_default()))
        .collect();
    equal.sort_unstable();
    terms.extend(equal.into_iter().map(|(k, v)| format!("{k}={v}")));
    for term in list(value, "/matchExpressions") {
        let key = text(term, "/key");
        let mut values: Vec<&str> = list(term, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        terms.push(match text(term, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}

/// The first three of `all`, and how many more there are.
pub(crate) fn first_three(all: &[String], none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    }
}

/// Refuses what a load balancer may not be reported as: `status.loadBalancer`.
pub(crate) fn load_balancer(o: &Value, causes: &mut Causes) {
    for (i, ingress) in list(o, "/status/loadBalancer/ingress").iter().enumerate() {
        let at = format!("status.loadBalancer.ingress[{i}]");
        let (ip, name) = (text(ingress, "/ip"), text(ingress, "/hostname"));
        if !ip.is_empty() {
            address(&format!("{at}.ip"), ip, causes);
        }
        if !name.is_empty() {
            dns_subdomain(&format!("{at}.hostname"), name, causes);
            if name.parse::<IpAddr>().is_ok() {
                causes.invalid(&format!("{at}.hostname"), name, "must be a DNS name, not an IP address");
            }
        }
        let mode = text(ingress, "/ipMode");
        if !mode.is_empty() {
            one_of(&format!("{at}.ipMode"), mode, &["Proxy", "VIP"], causes);
        }
    }
}

/// Where a load balancer is reported to be.
pub(crate) fn load_balancer_addresses(o: &Value) -> Vec<String> {
    list(o, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| crate::table::or(text(i, "/ip"), text(i, "/hostname")).to_owned())
        .filter(|a| !a.is_empty())
        .collect()
}
