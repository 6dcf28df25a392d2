//! Metrics of ingress.

use super::families::*;
use super::{counters, float, gauges};
use crate::ingress::IngressView;
use prometheus_client::registry::Registry;

/// Registers them.
pub(super) fn register(r: &mut Registry, view: &IngressView) {
    for (metric, value) in [
        (INGRESS_INGRESSES, view.ingresses),
        (INGRESS_FAULTY, view.faulty),
        (INGRESS_ROUTES, view.routes),
        (INGRESS_CONNECTIONS, view.connections),
    ] {
        gauges(r, metric, [([], float(value))]);
    }
    for (metric, value) in [
        (INGRESS_MALFORMED, view.malformed),
        (INGRESS_TURNED_AWAY, view.turned_away),
        (INGRESS_HANDSHAKES_FAILED, view.handshakes_failed),
    ] {
        counters(r, metric, [([], value)]);
    }
    counters(r, INGRESS_UNLOGGED, view.unlogged.map(|lines| ([], lines)));
    let hundreds = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let by_route = view.by_route.iter().flat_map(|(route, answers)| {
        hundreds.iter().zip(answers).filter(|(_, n)| **n > 0).map(move |(code, n)| (labels(route, code), *n))
    });
    counters(r, INGRESS_ANSWERS, by_route);
}

fn labels<'a>(route: &'a str, code: &'a str) -> [&'a str; 4] {
    let (ingress, of) = route.split_once(' ').unwrap_or((route, ""));
    let (namespace, name) = ingress.split_once('/').unwrap_or(("", ingress));
    [namespace, name, of, code]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusReport;

    #[test]
    fn answers_are_counted_by_route() {
        let view = IngressView {
            ingresses: 2,
            unlogged: Some(3),
            by_route: vec![("shop/web foo.test /".into(), [0, 7, 0, 1, 0])],
            ..IngressView::default()
        };
        let report = StatusReport { ingress: Some(view), ..StatusReport::default() };
        let text = crate::metrics::text(&report).unwrap();
        for line in [
            "warren_ingress_ingresses{} 2.0",
            "warren_ingress_access_log_dropped_total{} 3",
            "warren_ingress_answers_total{namespace=\"shop\",ingress=\"web\",route=\"foo.test /\",code=\"2xx\"} 7",
            "warren_ingress_answers_total{namespace=\"shop\",ingress=\"web\",route=\"foo.test /\",code=\"4xx\"} 1",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
    }

    #[test]
    fn what_is_counted_once_has_no_route_and_what_is_nothing_is_left_out() {
        let view = IngressView {
            faulty: 1,
            routes: 4,
            connections: 5,
            malformed: 6,
            turned_away: 7,
            handshakes_failed: 8,
            by_route: vec![("shop/idle".into(), [0; 5]), ("shop/default".into(), [0, 0, 2, 0, 0])],
            ..IngressView::default()
        };
        let report = StatusReport { ingress: Some(view), ..StatusReport::default() };
        let text = crate::metrics::text(&report).unwrap();
        for line in [
            "warren_ingress_faulty{} 1.0",
            "warren_ingress_routes{} 4.0",
            "warren_ingress_connections{} 5.0",
            "warren_ingress_malformed_total{} 6",
            "warren_ingress_turned_away_total{} 7",
            "warren_ingress_handshakes_failed_total{} 8",
            "warren_ingress_answers_total{namespace=\"shop\",ingress=\"default\",route=\"\",code=\"3xx\"} 2",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains("idle") && !text.contains("access_log_dropped_total{"), "{text}");
        let nothing = crate::metrics::text(&StatusReport::default()).unwrap();
        assert!(!nothing.contains("warren_ingress_"), "{nothing}");
    }
}
