//! Endpoints objects, written for readers that know no slices. Pure.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::compile;
use super::slices::{HEADLESS_LABEL, address_type, ports_key};
use crate::storage::Object;
use crate::table::{list, text};

/// Names who writes an Endpoints object.
pub(crate) const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
/// Who writes those of Services with selectors.
pub(crate) const MANAGER: &str = "endpoint-controller";
/// Says that there are more than the object shows.
pub(crate) const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses of an object.
const MOST: usize = 1000;

#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    not_ready: Vec<Value>,
}

/// The labels, annotations and subsets of a Service's Endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoints {
    pub(crate) labels: Map<String, Value>,
    pub(crate) annotations: Map<String, Value>,
    pub(crate) subsets: Vec<Value>,
}

/// The one family that an Endpoints object shows.
fn primary_type(service: &Value, pods: &[Arc<Object>]) -> &'static str {
    let first = list(service, "/spec/ipFamilies").first().and_then(Value::as_str);
    let address = text(service, "/spec/clusterIP");
    let six = match first {
        Some(family) => family == "IPv6",
        None if address.is_empty() || address == "None" => {
            let first = pods.iter().find_map(|p| compile::addresses(&p.value).first().copied());
            first.is_some_and(|a| a.contains(':'))
        }
        None => address.contains(':'),
    };
    if six { "IPv6" } else { "IPv4" }
}

/// The Endpoints of a Service.
pub(crate) fn wanted(service: &Value, pods: &[Arc<Object>]) -> Endpoints {
    let family = primary_type(service, pods);
    let all = compile::publishes_not_ready(service);
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    for pod in pods.iter().map(|p| &p.value).filter(|p| compile::runs(p)) {
        if compile::is_terminating(pod) && !all {
            continue;
        }
        let found = compile::addresses(pod).into_iter().find(|a| address_type(a) == Some(family));
        let Some(ip) = found else { continue };
        let ports = compile::ports(service, pod);
        if ports.is_empty() && !list(service, "/spec/ports").is_empty() {
            continue;
        }
        let mut address = json!({"ip": ip, "targetRef": compile::pod_reference(pod)});
        if let Some(hostname) = compile::hostname(service, pod) {
            address["hostname"] = hostname.into();
        }
        let node = text(pod, "/spec/nodeName");
        if !node.is_empty() {
            address["nodeName"] = node.into();
        }
        let subset = subsets.entry(ports_key(&ports)).or_default();
        subset.ports = ports;
        let ready = all || compile::is_ready(pod);
        if ready { &mut subset.ready } else { &mut subset.not_ready }.push(address);
    }
    let truncated = truncate(&mut subsets);
    let mut annotations = Map::new();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    let mut labels = compile::labels_of(service, &[HEADLESS_LABEL, MANAGED_BY_LABEL]);
    if compile::headless(service) {
        labels.insert(HEADLESS_LABEL.into(), "".into());
    }
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    Endpoints { labels, annotations, subsets: subsets.into_values().filter_map(render).collect() }
}

/// Cuts to [`MOST`], those that are not ready first.
fn truncate(subsets: &mut BTreeMap<String, Subset>) -> bool {
    let mut room = MOST;
    let mut cut = false;
    let mut keep = |addresses: &mut Vec<Value>| {
        addresses.sort_by(|a, b| {
            (text(a, "/ip"), text(a, "/targetRef/uid")).cmp(&(text(b, "/ip"), text(b, "/targetRef/uid")))
        });
        cut |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
    };
    for subset in subsets.values_mut() {
        keep(&mut subset.ready);
    }
    for subset in subsets.values_mut() {
        keep(&mut subset.not_ready);
    }
    cut
}

fn render(subset: Subset) -> Option<Value> {
    let mut out = Map::new();
    for (key, list) in
        [("addresses", subset.ready), ("notReadyAddresses", subset.not_ready), ("ports", subset.ports)]
    {
        if !list.is_empty() {
            out.insert(key.into(), list.into());
        }
    }
    (out.contains_key("addresses") || out.contains_key("notReadyAddresses")).then_some(Value::Object(out))
}

impl Endpoints {
    /// Whether a stored object says this already.
    pub(crate) fn is(&self, stored: &Value) -> bool {
        let same = |part: &str, wanted: &Map<String, Value>| match stored["metadata"].get(part) {
            Some(Value::Object(found)) => found == wanted,
            _ => wanted.is_empty(),
        };
        list(stored, "/subsets") == self.subsets
            && same("labels", &self.labels)
            && stored["metadata"].get("annotations").and_then(|a| a.get(OVER_CAPACITY))
                == self.annotations.get(OVER_CAPACITY)
    }

    /// Writes it into an object.
    pub(crate) fn put(&self, o: &mut Value) {
        o["metadata"]["labels"] = self.labels.clone().into();
        match self.annotations.get(OVER_CAPACITY) {
            Some(mark) => o["metadata"]["annotations"][OVER_CAPACITY] = mark.clone(),
            None => {
                if let Some(Value::Object(annotations)) = o["metadata"].get_mut("annotations") {
                    annotations.shift_remove(OVER_CAPACITY);
                }
            }
        }
        o["subsets"] = self.subsets.clone().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::POD;

    fn pod(n: usize, ready: &str) -> Arc<Object> {
        let value = json!({"metadata": {"name": format!("p{n}"), "namespace": "d", "uid": format!("u{n}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "fd00::1"}, {"ip": format!("10.0.{}.{}", n / 200, n % 200 + 1)}],
                "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(Object::new(POD, value, 1))
    }

    fn service() -> Value {
        json!({"metadata": {"name": "web", "namespace": "d", "labels": {"team": "a"}},
            "spec": {"clusterIP": "10.43.0.1", "ipFamilies": ["IPv4"], "ports": [{"name": "w", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
    }

    #[test]
    fn ready_and_others_stand_apart_in_the_first_family() {
        let e = wanted(&service(), &[pod(1, "True"), pod(0, "True"), pod(2, "False")]);
        let address = |n: usize| {
            json!({"ip": format!("10.0.0.{}", n + 1), "nodeName": "n1",
                "targetRef": {"kind": "Pod", "namespace": "d", "name": format!("p{n}"), "uid": format!("u{n}")}})
        };
        assert_eq!(
            e.subsets,
            [json!({"addresses": [address(0), address(1)], "notReadyAddresses": [address(2)],
                "ports": [{"name": "w", "port": 8080, "protocol": "TCP"}]})]
        );
        assert_eq!(
            Value::Object(e.labels.clone()),
            json!({"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"})
        );
        let mut stored = json!({"metadata": {"annotations": {OVER_CAPACITY: "truncated", "x": "y"}}});
        assert!(!e.is(&stored));
        e.put(&mut stored);
        assert!(e.is(&stored));
        assert_eq!(stored["metadata"]["annotations"], json!({"x": "y"}));
    }

    #[test]
    fn a_thousand_addresses_at_most_and_the_object_says_so() {
        let mut pods: Vec<Arc<Object>> = (0..900).map(|n| pod(n, "False")).collect();
        pods.extend((900..1200).map(|n| pod(n, "True")));
        let e = wanted(&service(), &pods);
        assert_eq!(list(&e.subsets[0], "/addresses").len(), 300);
        assert_eq!(list(&e.subsets[0], "/notReadyAddresses").len(), 700);
        assert_eq!(e.annotations[OVER_CAPACITY], "truncated");
        let mut stored = json!({"metadata": {}});
        e.put(&mut stored);
        assert!(e.is(&stored));
    }
}
