//! Cluster DNS under the names that CoreDNS gives the same counts, so that its dashboards and alarms work.

use super::{Labels, Timing, Timings, counters, float, gauges};
use crate::dns::DnsView;
use prometheus_client::registry::Registry;
use warren_dns::figures::BOUNDS;
use warren_dns::upstream::figures::DURATION_BOUNDS;

/// What CoreDNS says of its one server.
const SERVER: (&str, &str) = ("server", "dns://:53");
const ZONE: (&str, &str) = ("zone", ".");

fn labels(more: &[(&'static str, &str)]) -> Labels {
    more.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The registry of these names.
pub(super) fn registry(view: &DnsView) -> Registry {
    let mut registry = Registry::with_prefix("coredns");
    let r = &mut registry;
    let counts = &view.counts;
    counters(
        r,
        "dns_requests",
        "Questions by protocol, family and type",
        counts.questions.iter().map(|(protocol, family, rtype, n)| {
            (labels(&[SERVER, ZONE, ("proto", protocol), ("family", family), ("type", rtype)]), *n)
        }),
    );
    counters(
        r,
        "dns_responses",
        "Answers by code",
        counts.answers.iter().map(|(code, n)| (labels(&[SERVER, ZONE, ("rcode", code)]), *n)),
    );
    r.register_collector(Box::new(Timings {
        name: "dns_request_duration",
        help: "How long answers took",
        ends: &BOUNDS,
        all: vec![Timing {
            labels: labels(&[SERVER, ZONE]),
            micros: counts.micros,
            classes: counts.durations.clone(),
        }],
    }));
    cache(r, view);
    upstreams(r, view);
    registry
}

fn cache(r: &mut Registry, view: &DnsView) {
    let of = |name: &str| view.counts.others.iter().find(|(n, _)| n == name).map_or(0, |(_, n)| *n);
    gauges(r, "cache_entries", "Answers of others that are kept", [(labels(&[SERVER]), float(view.cache.0))]);
    counters(
        r,
        "cache_hits",
        "Answers of others that were kept",
        [("success", "cache_hits"), ("denial", "cache_denials")]
            .map(|(kind, name)| (labels(&[SERVER, ("type", kind)]), of(name))),
    );
    for (name, help, count) in [
        ("cache_misses", "Questions that others were asked", "cache_misses"),
        ("cache_prefetch", "Answers that were asked for again before their time", "cache_prefetches"),
        ("cache_served_stale", "Answers given beyond their time", "cache_stale"),
        ("forward_max_concurrent_rejects", "Questions beyond those that may wait", "forward_rejected"),
        ("forward_healthcheck_broken", "Questions while no upstream was up", "forward_broken"),
    ] {
        counters(r, name, help, [(labels(&[SERVER]), of(count))]);
    }
}

fn upstreams(r: &mut Registry, view: &DnsView) {
    counters(
        r,
        "forward_requests",
        "Questions to upstreams",
        view.upstreams.iter().map(|u| (labels(&[("to", &u.address)]), u.requests)),
    );
    counters(
        r,
        "forward_responses",
        "Answers of upstreams by code",
        view.upstreams.iter().flat_map(|u| {
            u.replies.iter().map(|(code, n)| (labels(&[("to", &u.address), ("rcode", code)]), *n))
        }),
    );
    counters(
        r,
        "proxy_healthcheck_failures",
        "Probes of upstreams that failed",
        view.upstreams
            .iter()
            .map(|u| (labels(&[("proxy_name", "forward"), ("to", &u.address)]), u.probe_failures)),
    );
    r.register_collector(Box::new(Timings {
        name: "proxy_request_duration",
        help: "How long upstreams took",
        ends: &DURATION_BOUNDS,
        all: view
            .upstreams
            .iter()
            .map(|u| Timing {
                labels: labels(&[("proxy_name", "forward"), ("to", &u.address)]),
                micros: u.micros,
                classes: u.durations.clone(),
            })
            .collect(),
    }));
}

/// What CoreDNS does not count, under Warren's name.
pub(super) fn own(r: &mut Registry, view: &DnsView) {
    for (name, help, value) in [
        ("dns_known", "Whether the cluster's names are known", view.known),
        ("dns_stale", "Whether they are from an earlier life of the agent", view.stale),
    ] {
        gauges(r, name, help, [(vec![], f64::from(u8::from(value)))]);
    }
    gauges(
        r,
        "dns_upstream_up",
        "Whether an upstream is asked",
        view.upstreams.iter().map(|u| (labels(&[("to", &u.address)]), f64::from(u8::from(u.up)))),
    );
    let others = view.counts.others.iter();
    let own = ["unreadable", "limited", "dropped", "forward_joined", "overridden", "offline"];
    counters(
        r,
        "dns_questions",
        "Questions that went no usual way",
        others
            .filter(|(name, _)| own.contains(&name.as_str()))
            .map(|(name, n)| (labels(&[("way", name)]), *n)),
    );
}
