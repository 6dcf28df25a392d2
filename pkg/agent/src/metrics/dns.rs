//! Metrics of cluster DNS: under the names that CoreDNS gives the same counts, so that its dashboards and alarms work, and
//! what CoreDNS does not count under Warren's.

use super::families::*;
use super::{Timing, counters, float, gauges, timings};
use crate::dns::DnsView;
use prometheus_client::registry::Registry;
use warren_dns::figures::BOUNDS;
use warren_dns::upstream::figures::DURATION_BOUNDS;

/// What CoreDNS says of its one server.
const SERVER: &str = "dns://:53";
const ZONE: &str = ".";
/// What CoreDNS calls the proxy of its forwarder.
const PROXY: &str = "forward";

/// Registers them.
pub(super) fn register(r: &mut Registry, view: &DnsView) {
    own(r, view);
    let counts = &view.counts;
    counters(
        r,
        COREDNS_REQUESTS,
        counts
            .questions
            .iter()
            .map(|(protocol, family, rtype, n)| ([SERVER, ZONE, protocol, family, rtype], *n)),
    );
    counters(r, COREDNS_RESPONSES, counts.answers.iter().map(|(code, n)| ([SERVER, ZONE, code], *n)));
    let answers = Timing { micros: counts.micros, classes: counts.durations.clone() };
    timings(r, COREDNS_DURATION, &BOUNDS, [([SERVER, ZONE], answers)]);
    cache(r, view);
    upstreams(r, view);
}

fn cache(r: &mut Registry, view: &DnsView) {
    let of = |name: &str| view.counts.others.iter().find(|(n, _)| n == name).map_or(0, |(_, n)| *n);
    gauges(r, COREDNS_CACHE_ENTRIES, [([SERVER], float(view.cache.0))]);
    counters(
        r,
        COREDNS_CACHE_HITS,
        [("success", "cache_hits"), ("denial", "cache_denials")]
            .map(|(kind, name)| ([SERVER, kind], of(name))),
    );
    for (metric, count) in [
        (COREDNS_CACHE_MISSES, "cache_misses"),
        (COREDNS_CACHE_PREFETCH, "cache_prefetches"),
        (COREDNS_CACHE_STALE, "cache_stale"),
        (COREDNS_REJECTS, "forward_rejected"),
        (COREDNS_BROKEN, "forward_broken"),
    ] {
        counters(r, metric, [([SERVER], of(count))]);
    }
}

fn upstreams(r: &mut Registry, view: &DnsView) {
    let all = || view.upstreams.iter();
    counters(r, COREDNS_FORWARD_REQUESTS, all().map(|u| ([u.address.as_str()], u.requests)));
    counters(
        r,
        COREDNS_FORWARD_RESPONSES,
        all().flat_map(|u| u.replies.iter().map(|(code, n)| ([u.address.as_str(), code], *n))),
    );
    counters(r, COREDNS_PROBE_FAILURES, all().map(|u| ([PROXY, &u.address], u.probe_failures)));
    let replies = all().map(|u| {
        let timing = Timing { micros: u.micros, classes: u.durations.clone() };
        ([PROXY, u.address.as_str()], timing)
    });
    timings(r, COREDNS_FORWARD_DURATION, &DURATION_BOUNDS, replies);
}

fn own(r: &mut Registry, view: &DnsView) {
    for (metric, value) in [(DNS_KNOWN, view.known), (DNS_STALE, view.stale)] {
        gauges(r, metric, [([], f64::from(u8::from(value)))]);
    }
    let up = view.upstreams.iter().map(|u| ([u.address.as_str()], f64::from(u8::from(u.up))));
    gauges(r, DNS_UPSTREAM_UP, up);
    let own = ["unreadable", "limited", "dropped", "forward_joined", "overridden", "offline"];
    let others = view.counts.others.iter().filter(|(name, _)| own.contains(&name.as_str()));
    counters(r, DNS_QUESTIONS, others.map(|(name, n)| ([name.as_str()], *n)));
}
