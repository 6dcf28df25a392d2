//! What is counted of questions and answers, named after the metrics of CoreDNS that mean the same.

use crate::upstream::figures::Count;
use crate::wire::{Transport, Type};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Types that are counted apart, as CoreDNS counts them; others are one.
pub const TYPES: [(Type, &str); 8] = [
    (Type::A, "A"),
    (Type::AAAA, "AAAA"),
    (Type::SRV, "SRV"),
    (Type::PTR, "PTR"),
    (Type::TXT, "TXT"),
    (Type::CNAME, "CNAME"),
    (Type::SOA, "SOA"),
    (Type::NS, "NS"),
];
/// The codes of answers that are counted apart, by number.
pub const CODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
/// Upper bounds of the classes of durations, in microseconds.
pub const BOUNDS: [u64; 10] = [10, 50, 250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, u64::MAX];

/// The counts of a server.
#[derive(Debug, Default)]
pub struct Figures {
    /// `coredns_dns_requests_total`: by protocol (UDP, TCP), family (1, 2) and type ([`TYPES`], then others).
    pub requests: [[[Count; TYPES.len() + 1]; 2]; 2],
    /// `coredns_dns_responses_total`: by code ([`CODES`], then others).
    pub responses: [Count; CODES.len() + 1],
    /// `coredns_dns_request_duration_seconds`: by class ([`BOUNDS`]).
    pub durations: [Count; BOUNDS.len()],
    /// Their sum, in microseconds.
    pub duration_micros: AtomicU64,
    /// Packets that are no questions, or cannot be read.
    pub unreadable: Count,
    /// Questions beyond what one client may ask.
    pub limited: Count,
    /// Questions that were not answered because too many waited.
    pub dropped: Count,
}

impl Figures {
    pub(crate) fn asked(&self, transport: Transport, from: IpAddr, qtype: Type) {
        let protocol = usize::from(transport == Transport::Tcp);
        let family = usize::from(from.is_ipv6());
        let kind = TYPES.iter().position(|(counted, _)| *counted == qtype).unwrap_or(TYPES.len());
        self.requests[protocol][family][kind].add();
    }

    /// Counts the answer that `out` holds.
    pub(crate) fn answered(&self, out: &[u8], since: Instant) {
        let code = out.get(3).map_or(usize::MAX, |flags| usize::from(flags & 0xf));
        self.responses[code.min(CODES.len())].add();
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.durations[BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len() - 1)].add();
        self.duration_micros.fetch_add(micros, Ordering::Relaxed);
    }
}
