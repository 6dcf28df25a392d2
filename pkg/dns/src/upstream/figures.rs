//! What is counted. Plain numbers: whoever serves metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    /// So many so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of the forwarder, named after the metrics of CoreDNS that mean the same.
#[derive(Debug, Default)]
pub struct ForwardFigures {
    /// `coredns_cache_hits_total{type="success"}`.
    pub hits: Count,
    /// `coredns_cache_hits_total{type="denial"}`.
    pub denial_hits: Count,
    /// `coredns_cache_misses_total`: questions that were not answered from the cache alone.
    pub misses: Count,
    /// `coredns_cache_prefetch_total`.
    pub prefetches: Count,
    /// `coredns_cache_served_stale_total`.
    pub stale: Count,
    /// Questions that joined one that was under way; CoreDNS has no such metric.
    pub joined: Count,
    /// `coredns_forward_max_concurrent_rejects_total`: not asked, since too many were under way.
    pub rejected: Count,
    /// `coredns_forward_healthcheck_broken_total`: answered at once, since all upstreams are down.
    pub broken: Count,
    /// Answered from configuration; `coredns_hosts_entries` counts entries, not answers.
    pub overridden: Count,
    /// Answered at once because outside names are switched off.
    pub offline: Count,
}

/// Upper bounds of the classes of [`UpstreamFigures::duration`], in microseconds; those of CoreDNS' slim histogram.
pub const DURATION_BOUNDS: [u64; 9] =
    [250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, u64::MAX];

/// The counts of one upstream; `to` is its address.
#[derive(Debug, Default)]
pub struct UpstreamFigures {
    /// `coredns_forward_requests_total{to}` (now `coredns_proxy_request_duration_seconds_count`): attempts.
    pub requests: Count,
    /// `coredns_forward_responses_total{to,rcode}`: NOERROR, NXDOMAIN, SERVFAIL, REFUSED, others.
    pub responses: [Count; 5],
    /// Attempts without a reply that can be used.
    pub failures: Count,
    /// `coredns_proxy_healthcheck_failures_total{to}`: probes that failed.
    pub probe_failures: Count,
    /// `coredns_proxy_request_duration_seconds{to}`: classes bounded by [`DURATION_BOUNDS`], not cumulated.
    pub duration: [Count; DURATION_BOUNDS.len()],
    /// Sum of those durations, in microseconds.
    pub duration_sum: AtomicU64,
}

impl UpstreamFigures {
    /// A reply with this code after `took`.
    pub(crate) fn replied(&self, rcode: u8, took: Duration) {
        let class = match rcode {
            0 => 0,
            3 => 1,
            2 => 2,
            5 => 3,
            _ => 4,
        };
        self.responses[class].add();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = DURATION_BOUNDS.iter().position(|&bound| micros <= bound).unwrap_or_default();
        self.duration[class].add();
        self.duration_sum.fetch_add(micros, Ordering::Relaxed);
    }
}
