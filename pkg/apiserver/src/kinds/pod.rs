//! v1 Pod.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

use super::{default, object, rules};
use crate::error::Causes;
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, duration, list, or, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "pods",
    singular: "pod",
    short: &["po"],
    kind: "Pod",
    categories: &["all"],
    status: true,
    generation: true,
    returns_deleted: true,
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.restartPolicy", "/spec/restartPolicy"),
        ("spec.schedulerName", "/spec/schedulerName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("spec.hostNetwork", "/spec/hostNetwork"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
        ("status.nominatedNodeName", "/status/nominatedNodeName"),
    ],
    typed: typed::<k8s_openapi::api::core::v1::Pod>,
    default: defaults,
    create,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Ready", "Ready containers of all."),
        Column::text("Status", "What the pod is doing."),
        Column::text("Restarts", "Restarts of its containers."),
        Column::AGE,
        Column::wide("IP", "Address of the pod."),
        Column::wide("Node", "Node it runs on."),
        Column::wide("Nominated Node", "Node it may move to."),
        Column::wide("Readiness Gates", "Passed gates of all."),
    ],
    cells,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    let spec = object(o, "spec");
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "enableServiceLinks", true);
    for part in ["containers", "initContainers"] {
        for c in spec.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(c) = c {
                container_defaults(c);
            }
        }
    }
}

fn container_defaults(c: &mut Map<String, Value>) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    let policy = if latest { "Always" } else { "IfNotPresent" };
    default(c, "resources", json!({}));
    default(c, "terminationMessagePath", "/dev/termination-log");
    default(c, "terminationMessagePolicy", "File");
    default(c, "imagePullPolicy", policy);
    for port in c.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(port) = port {
            default(port, "protocol", "TCP");
        }
    }
}

fn create(o: &mut Value) {
    o["status"] = json!({ "phase": "Pending", "qosClass": qos(o) });
}

/// `status.qosClass`: from requests and limits of memory and cpu.
fn qos(o: &Value) -> &'static str {
    let mut any = false;
    let mut all_bound = true;
    for c in list(o, "/spec/containers").iter().chain(list(o, "/spec/initContainers")) {
        for what in ["cpu", "memory"] {
            let limit = c.pointer(&format!("/resources/limits/{what}"));
            let request = c.pointer(&format!("/resources/requests/{what}")).or(limit);
            any |= limit.is_some() || request.is_some();
            all_bound &= limit.is_some() && request == limit;
        }
    }
    match (any, all_bound) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    if list(o, "/spec/containers").is_empty() {
        causes.required("spec.containers", "");
    }
    let mut names = BTreeSet::new();
    for part in ["initContainers", "containers"] {
        for (i, c) in list(o, &format!("/spec/{part}")).iter().enumerate() {
            let at = format!("spec.{part}[{i}]");
            let name = text(c, "/name");
            if name.is_empty() {
                causes.required(&format!("{at}.name"), "");
            } else if !crate::meta::is_dns_label(name) {
                causes.invalid(&format!("{at}.name"), name, crate::meta::LABEL_RULE);
            } else if !names.insert(name) {
                causes.duplicate(&format!("{at}.name"), name);
            }
            if text(c, "/image").trim().is_empty() {
                causes.required(&format!("{at}.image"), "");
            }
            let mut ports = BTreeSet::new();
            for (j, port) in list(c, "/ports").iter().enumerate() {
                let at = format!("{at}.ports[{j}]");
                validate_port(port, &at, causes);
                let name = text(port, "/name");
                if !name.is_empty() && !ports.insert(name) {
                    causes.duplicate(&format!("{at}.name"), name);
                }
            }
        }
    }
    let policy = text(o, "/spec/restartPolicy");
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        causes.unsupported("spec.restartPolicy", policy, &["Always", "OnFailure", "Never"]);
    }
    let node = text(o, "/spec/nodeName");
    if !node.is_empty() && !crate::meta::is_dns_subdomain(node) {
        causes.invalid("spec.nodeName", node, crate::meta::SUBDOMAIN_RULE);
    }
    validate_addresses(o, causes);
}

fn validate_port(port: &Value, at: &str, causes: &mut Causes) {
    let name = text(port, "/name");
    if !name.is_empty() {
        rules::port_name(&format!("{at}.name"), name, causes);
    }
    let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
    if !(1..=65_535).contains(&number) {
        causes.invalid(&format!("{at}.containerPort"), number, "must be between 1 and 65535, inclusive");
    }
    let protocol = text(port, "/protocol");
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        causes.unsupported(&format!("{at}.protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
}

fn validate_addresses(o: &Value, causes: &mut Causes) {
    let mut families = BTreeSet::new();
    for (i, ip) in list(o, "/status/podIPs").iter().enumerate() {
        let (at, ip) = (format!("status.podIPs[{i}]"), text(ip, "/ip"));
        match ip.parse::<std::net::IpAddr>() {
            Ok(addr) if !families.insert(addr.is_ipv4()) => {
                causes.invalid(&at, ip, "may specify no more than one IP for each IP family");
            }
            Ok(_) => {}
            Err(_) => causes.invalid(&at, ip, "must be a valid IP address"),
        }
    }
}

/// A spec without the fields that may change in a living pod.
fn fixed_spec(o: &Value) -> Value {
    let mut spec = o.get("spec").cloned().unwrap_or_default();
    if let Value::Object(map) = &mut spec {
        for free in
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
        {
            map.shift_remove(free);
        }
        for part in ["containers", "initContainers"] {
            for c in map.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(c) = c {
                    c.shift_remove("image");
                    c.shift_remove("imagePullPolicy");
                }
            }
        }
    }
    spec
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    if fixed_spec(new) != fixed_spec(old) {
        causes.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`, \
             `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to \
             existing tolerations), `spec.terminationGracePeriodSeconds`",
        );
    }
}

/// The STATUS column, and how often containers restarted and when last.
fn summary(o: &Value) -> (String, i64, Option<Timestamp>, usize) {
    let mut reason = or(text(o, "/status/reason"), or(text(o, "/status/phase"), "Pending")).to_owned();
    let (mut restarts, mut last, mut ready) = (0, None::<Timestamp>, 0);
    let mut initializing = false;
    let inits = list(o, "/status/initContainerStatuses");
    for (i, c) in inits.iter().enumerate() {
        restarts += c.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let exit = c.pointer("/state/terminated/exitCode").and_then(Value::as_i64);
        if exit == Some(0) {
            continue;
        }
        let waiting = text(c, "/state/waiting/reason");
        reason = match exit {
            Some(code) => match text(c, "/state/terminated/reason") {
                "" => format!("Init:ExitCode:{code}"),
                why => format!("Init:{why}"),
            },
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{}", list(o, "/spec/initContainers").len()),
        };
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        restarts = 0;
        for c in list(o, "/status/containerStatuses").iter().rev() {
            restarts += c.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
            if let Ok(t) = text(c, "/lastState/terminated/finishedAt").parse::<Timestamp>() {
                last = last.max(Some(t));
            }
            let waiting = text(c, "/state/waiting/reason");
            let exit = c.pointer("/state/terminated/exitCode").and_then(Value::as_i64);
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(code) = exit {
                reason = match text(c, "/state/terminated/reason") {
                    "" => format!("ExitCode:{code}"),
                    why => why.to_owned(),
                };
            } else if c.get("ready") == Some(&Value::Bool(true)) && c.pointer("/state/running").is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            let is_ready = list(o, "/status/conditions")
                .iter()
                .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True");
            reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }
    if !text(o, "/metadata/deletionTimestamp").is_empty() {
        reason = if text(o, "/status/reason") == "NodeLost" { "Unknown" } else { "Terminating" }.into();
    }
    (reason, restarts, last, ready)
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let (reason, restarts, last, ready) = summary(o);
    let restarts = match last.filter(|_| restarts > 0) {
        Some(at) => format!("{restarts} ({} ago)", duration(now.as_second() - at.as_second())),
        None => restarts.to_string(),
    };
    let ip = match list(o, "/status/podIPs").first() {
        Some(ip) => text(ip, "/ip"),
        None => text(o, "/status/podIP"),
    };
    let gates = list(o, "/spec/readinessGates");
    let passed = gates
        .iter()
        .filter(|g| {
            list(o, "/status/conditions")
                .iter()
                .any(|c| text(c, "/type") == text(g, "/conditionType") && text(c, "/status") == "True")
        })
        .count();
    vec![
        text(o, "/metadata/name").into(),
        format!("{ready}/{}", list(o, "/spec/containers").len()).into(),
        reason.into(),
        restarts.into(),
        age(o, now),
        or(ip, "<none>").into(),
        or(text(o, "/spec/nodeName"), "<none>").into(),
        or(text(o, "/status/nominatedNodeName"), "<none>").into(),
        if gates.is_empty() { "<none>".into() } else { format!("{passed}/{}", gates.len()).into() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_column_says_what_kubectl_users_expect() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let pod = |status: Value| {
            let o = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}, "status": status});
            let c = cells(&o, now);
            format!("{} {} {}", c[1].as_str().unwrap(), c[2].as_str().unwrap(), c[3].as_str().unwrap())
        };
        assert_eq!(
            pod(json!({"phase": "Running", "containerStatuses": [
            {"ready": true, "restartCount": 0, "state": {"running": {}}},
            {"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:57:00Z"}}}]})),
            "2/2 Running 2 (3m ago)"
        );
        assert_eq!(
            pod(
                json!({"phase": "Pending", "initContainerStatuses": [{"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
            ),
            "0/2 Init:CrashLoopBackOff 1"
        );
        assert_eq!(
            pod(json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]})),
            "0/2 Init:0/1 0"
        );
        assert_eq!(
            pod(
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]})
            ),
            "0/2 ExitCode:3 0"
        );
        assert_eq!(pod(json!({})), "0/2 Pending 0");
    }

    #[test]
    fn ports_have_names_that_a_policy_can_use() {
        let faults = |ports: Value| {
            let mut o = json!({"spec": {"containers": [{"name": "c", "image": "i", "ports": ports}]}});
            defaults(&mut o);
            let mut causes = Causes::default();
            validate(&o, &mut causes);
            causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect::<Vec<_>>()
        };
        assert_eq!(faults(json!([{"name": "http", "containerPort": 80}, {"containerPort": 80}])), [""; 0]);
        let twice = json!([{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]);
        assert_eq!(faults(twice), ["spec.containers[0].ports[1].name FieldValueDuplicate"]);
        let bad = json!([{"name": "HTTP", "containerPort": 1}]);
        assert!(faults(bad)[0].starts_with("spec.containers[0].ports[0].name FieldValueInvalid"));
        let long = json!([{"name": "a-name-of-16-byt", "containerPort": 1}]);
        assert_eq!(faults(long), ["spec.containers[0].ports[0].name FieldValueInvalid"]);
    }

    #[test]
    fn a_living_pod_keeps_its_node() {
        let old = json!({"spec": {"nodeName": "a", "containers": [{"name": "c", "image": "x"}]}});
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "y".into();
        let mut causes = Causes::default();
        validate_update(&new, &old, &mut causes);
        assert!(causes.0.is_empty());
        new["spec"]["nodeName"] = "b".into();
        validate_update(&new, &old, &mut causes);
        assert_eq!(causes.0.len(), 1);
    }
}
