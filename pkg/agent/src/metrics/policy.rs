//! Metrics of network policies.

use super::{counters, float, gauges};
use crate::policy::PolicyView;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Registers them.
pub(super) fn own(r: &mut Registry, view: &PolicyView) {
    let PolicyView { policies, held, refused, isolated, unknown, .. } = view;
    for (name, help, value) in [
        ("policy_policies", "NetworkPolicies in force", policies),
        ("policy_held", "NetworkPolicies that outlive their objects", held),
        ("policy_refused", "NetworkPolicies that the kernel refuses, and that allow nothing", refused),
        ("policy_isolated_pods", "Pods of this node that a NetworkPolicy isolates", isolated),
        ("policy_unknown_pods", "Pods of this node of which nothing is known yet", unknown),
    ] {
        gauges(r, name, help, view.loaded.then(|| (vec![], float(*value))));
    }
    let last = Duration::from_micros(view.last_change_micros).as_secs_f64();
    gauges(
        r,
        "policy_last_change_seconds",
        "How long the last change took, from its row to the kernel's word",
        (view.changes > 0).then_some((vec![], last)),
    );
    for (name, help, value) in [
        ("policy_changes", "Changes of network policies brought to the kernel", view.changes),
        (
            "policy_comparisons",
            "How often the kernel's rules of network policies were compared",
            view.comparisons,
        ),
        ("policy_repairs", "How often these rules had to be mended", view.repairs),
        ("policy_flows_ended", "Connections ended because they were no longer allowed", view.flows_ended),
        ("policy_denied_packets", "Packets denied to pods of this node", view.denied_packets),
    ] {
        counters(r, name, help, [(vec![], value)]);
    }
    counters(
        r,
        "policy_denied_packets_by_policy",
        "Packets denied to pods that a policy isolates; each counts for every such policy",
        view.denied.iter().map(|(name, n)| (labels(name), *n)),
    );
}

fn labels(name: &str) -> super::Labels {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    vec![("namespace", namespace.to_owned()), ("policy", name.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusReport;

    #[test]
    fn policies_are_counted_each_and_together() {
        let view = PolicyView {
            loaded: true,
            policies: 3,
            changes: 2,
            last_change_micros: 700,
            flows_ended: 4,
            denied_packets: 9,
            denied: [("shop/deny".into(), 8)].into(),
            ..PolicyView::default()
        };
        let report = |view| StatusReport { policy: Some(view), ..StatusReport::default() };
        let text = crate::metrics::text(&report(view)).unwrap();
        for line in [
            "warren_policy_policies{} 3.0",
            "warren_policy_changes_total{} 2",
            "warren_policy_last_change_seconds{} 0.0007",
            "warren_policy_flows_ended_total{} 4",
            "warren_policy_denied_packets_total{} 9",
            "warren_policy_denied_packets_by_policy_total{namespace=\"shop\",policy=\"deny\"} 8",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        // Before the first load nobody knows how many there are.
        let text = crate::metrics::text(&report(PolicyView::default())).unwrap();
        assert!(!text.contains("warren_policy_policies{}"), "{text}");
    }
}
