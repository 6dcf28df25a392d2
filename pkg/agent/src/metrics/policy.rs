//! Metrics of network policies.

use super::families::*;
use super::{counters, float, gauges};
use crate::policy::PolicyView;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Registers them.
pub(super) fn register(r: &mut Registry, view: &PolicyView) {
    for (metric, value) in [
        (POLICY_POLICIES, view.policies),
        (POLICY_HELD, view.held),
        (POLICY_REFUSED, view.refused),
        (POLICY_ISOLATED, view.isolated),
        (POLICY_UNKNOWN, view.unknown),
    ] {
        gauges(r, metric, view.loaded.then(|| ([], float(value))));
    }
    let last = Duration::from_micros(view.last_change_micros).as_secs_f64();
    gauges(r, POLICY_LAST_CHANGE, (view.changes > 0).then_some(([], last)));
    for (metric, value) in [
        (POLICY_CHANGES, view.changes),
        (POLICY_COMPARISONS, view.comparisons),
        (POLICY_REPAIRS, view.repairs),
        (POLICY_FLOWS_ENDED, view.flows_ended),
        (POLICY_DENIED, view.denied_packets),
    ] {
        counters(r, metric, [([], value)]);
    }
    let denied = view.denied.iter().map(|(key, n)| {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        ([namespace, name], *n)
    });
    counters(r, POLICY_DENIED_BY, denied);
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
