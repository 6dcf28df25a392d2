//! Where to send a peer's packets, when to keep a NAT mapping open, and how large a packet may be. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use warren_types::Family;

/// Persistent keepalive where a NAT is seen, in seconds: shorter than the shortest UDP timeout in common use (30 s).
pub const KEEPALIVE: u16 = 25;
/// An endpoint that does not answer for so long is given up for the next one.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A handshake younger than this means that the tunnel works: sessions are renewed every two minutes and end after three.
pub const FRESH: Duration = Duration::from_secs(180);
/// Smallest MTU that IPv6 allows.
const MIN_V6: u32 = 1280;
/// Smallest MTU that every IPv4 host must take.
const MIN_V4: u32 = 576;

/// What is known of the tunnel to one peer, as read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerState {
    /// The endpoint in the device.
    pub endpoint: Option<SocketAddr>,
    /// Whether the endpoint is one that this agent set, not one that the peer's own packets taught the device.
    pub endpoint_is_ours: bool,
    /// How long the device has had this endpoint, as far as known.
    pub endpoint_age: Duration,
    /// Age of the last handshake; none before the first.
    pub handshake_age: Option<Duration>,
    /// For how long packets have been sent without any answer; none while answers come, or nothing is sent.
    pub unanswered: Option<Duration>,
    /// The persistent keepalive in the device, in seconds; 0 for none.
    pub keepalive: u16,
}

impl PeerState {
    /// Whether the endpoint has been tried for long enough to call it dead.
    fn failing(&self) -> bool {
        self.endpoint_age >= PATIENCE && self.unanswered.is_some_and(|since| since >= PATIENCE)
    }
    /// Whether it may soon be worth a look: packets are not answered, or the first handshake may be under way.
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.unanswered.is_some() || (self.handshake_age.is_none() && self.endpoint_age < 2 * PATIENCE)
    }
    /// Whether the last handshake is young and packets are answered.
    #[must_use]
    pub fn works(&self) -> bool {
        self.handshake_age.is_some_and(|age| age < FRESH)
            && self.unanswered.is_none_or(|since| since < PATIENCE)
    }
}

/// Where a peer may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Whereabouts<'a> {
    /// What the peer publishes, in its order.
    pub published: &'a [SocketAddr],
    /// From where other nodes hear it: a NAT's public side, if it has one.
    pub observed: &'a [SocketAddr],
    /// From where this node last heard it.
    pub learned: Option<SocketAddr>,
}

/// The endpoints worth trying, best first: where the peer was last heard from, what it publishes in a subnet that this
/// node is `connected` to, where others hear it, then the rest of what it publishes. `usable`: whether the underlay has
/// a way to it.
pub fn candidates(
    at: &Whereabouts<'_>,
    connected: &[IpNet],
    usable: impl Fn(IpAddr) -> bool,
) -> Vec<SocketAddr> {
    let near = |e: &&SocketAddr| connected.iter().any(|net| net.contains(&e.ip()));
    let all =
        at.learned.iter().chain(at.published.iter().filter(near)).chain(at.observed).chain(at.published);
    let mut out: Vec<SocketAddr> = Vec::new();
    for endpoint in all {
        if endpoint.port() != 0 && usable(endpoint.ip()) && !out.contains(endpoint) {
            out.push(*endpoint);
        }
    }
    out
}

/// The endpoint that the device should have.
///
/// What the device has is kept while it works or while nothing says that it fails, whether it was configured or learned
/// from the peer's packets. It is left when it does not answer for [`PATIENCE`] (the next candidate is tried, round and
/// round), when there is no way to it any more, or when this agent set it and it is no longer among `candidates`.
pub fn choose(
    at: &Whereabouts<'_>,
    candidates: &[SocketAddr],
    usable: impl Fn(IpAddr) -> bool,
    state: Option<&PeerState>,
) -> Option<SocketAddr> {
    let current = state.and_then(|s| s.endpoint);
    let (Some(state), Some(current)) = (state, current) else {
        return candidates.first().copied();
    };
    let withdrawn = state.endpoint_is_ours && !candidates.contains(&current);
    if !withdrawn && usable(current.ip()) && !state.failing() {
        return Some(current);
    }
    // What is left is not gone back to before the others have had their turn.
    let next = match candidates.iter().position(|c| *c == current) {
        Some(at) => candidates.get((at + 1) % candidates.len()),
        // Published comes first: a withdrawn or roamed endpoint has just been left.
        None => candidates.iter().find(|c| at.published.contains(c)).or(candidates.first()),
    };
    next.copied().or(Some(current))
}

/// Whether `addr` is of a range that is used behind NATs: private (RFC 1918), shared (RFC 6598), link-local, ULA.
#[must_use]
pub fn is_private(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The persistent keepalive towards a peer, in seconds; 0 for none.
///
/// It is [`KEEPALIVE`] where a NAT may be on the way:
/// - the peer is heard from an endpoint that it does not publish, so something translates its address; or
/// - all addresses that this node publishes are of private ranges, and none that the peer publishes is in a subnet that
///   this node is connected to, so something may translate this node's address. The mapping towards every such peer has
///   to stay open, or the peer cannot reach this node.
///
/// Once seen, a NAT is taken to stay (`state`): a session is not disturbed to save a packet in 25 seconds.
#[must_use]
pub fn keepalive(
    own: &[SocketAddr],
    published: &[SocketAddr],
    connected: &[IpNet],
    learned: Option<SocketAddr>,
    state: Option<&PeerState>,
) -> u16 {
    let heard = state
        .filter(|s| s.handshake_age.is_some() && !s.endpoint_is_ours)
        .and_then(|s| s.endpoint)
        .or(learned);
    let peer_translated = heard.is_some_and(|h| !published.is_empty() && !published.contains(&h));
    let own_private = !own.is_empty() && own.iter().all(|e| is_private(e.ip()));
    let same_subnet = published.iter().any(|e| connected.iter().any(|net| net.contains(&e.ip())));
    let seen_before = state.is_some_and(|s| s.keepalive != 0);
    if peer_translated || (own_private && !same_subnet) || seen_before { KEEPALIVE } else { 0 }
}

/// What WireGuard adds to a packet: outer IP header, UDP header, and 32 bytes of its own.
#[must_use]
pub fn overhead(outer: Family) -> u32 {
    match outer {
        Family::V4 => 60,
        Family::V6 => 80,
    }
}

/// The MTU inside a tunnel whose packets travel a path of `path_mtu` bytes.
///
/// Never below what IPv6 demands where pods have IPv6: the outer packets are then fragmented instead.
#[must_use]
pub fn inner_mtu(path_mtu: u32, outer: Family, ipv6_pods: bool) -> u32 {
    path_mtu.saturating_sub(overhead(outer)).max(if ipv6_pods { MIN_V6 } else { MIN_V4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }
    fn v4_only(addr: IpAddr) -> bool {
        addr.is_ipv4()
    }

    fn choose(
        published: &[SocketAddr],
        learned: Option<SocketAddr>,
        usable: impl Fn(IpAddr) -> bool,
        state: Option<&PeerState>,
    ) -> Option<SocketAddr> {
        let at = Whereabouts { published, observed: &[], learned };
        super::choose(&at, &candidates(&at, &[], &usable), usable, state)
    }

    #[test]
    fn what_is_near_comes_before_what_others_hear_and_that_before_what_is_far() {
        let published = [at("10.0.0.1:1"), at("192.168.1.5:1"), at("[fd00::1]:1")];
        let observed = [at("198.51.100.7:9"), at("192.168.1.5:1")];
        let lan: Vec<IpNet> = vec!["192.168.1.0/24".parse().unwrap()];
        let all = Whereabouts { published: &published, observed: &observed, learned: None };
        assert_eq!(candidates(&all, &lan, |_| true), [published[1], observed[0], published[0], published[2]]);
        let heard = Whereabouts { learned: Some(at("203.0.113.9:2")), ..all };
        assert_eq!(
            candidates(&heard, &[], v4_only),
            [at("203.0.113.9:2"), observed[0], published[1], published[0]]
        );
    }

    #[test]
    fn published_endpoints_are_tried_in_order_as_far_as_the_underlay_goes() {
        let published = [at("[2001:db8::1]:51840"), at("10.0.0.1:51840"), at("10.0.1.1:51840")];
        assert_eq!(choose(&published, None, v4_only, None), Some(published[1]));
        assert_eq!(choose(&published, None, |_| true, None), Some(published[0]));
        assert_eq!(choose(&published, None, |_| false, None), None);
        assert_eq!(choose(&published, Some(at("192.0.2.7:9")), v4_only, None), Some(at("192.0.2.7:9")));
        assert_eq!(choose(&[at("10.0.0.1:0")], None, v4_only, None), None, "port 0 is nowhere");
    }

    #[test]
    fn an_endpoint_that_works_is_never_reset() {
        let published = [at("10.0.0.1:51840")];
        let roamed = PeerState {
            endpoint: Some(at("192.0.2.7:9")),
            endpoint_age: secs(1000),
            handshake_age: Some(secs(100)),
            ..PeerState::default()
        };
        assert_eq!(choose(&published, None, v4_only, Some(&roamed)), Some(at("192.0.2.7:9")));
        let idle = PeerState { handshake_age: Some(secs(100_000)), ..roamed };
        assert_eq!(
            choose(&published, None, v4_only, Some(&idle)),
            Some(at("192.0.2.7:9")),
            "idle is not dead"
        );
        let never = PeerState { handshake_age: None, ..roamed };
        assert_eq!(
            choose(&published, None, v4_only, Some(&never)),
            Some(at("192.0.2.7:9")),
            "nothing was sent yet"
        );
    }

    #[test]
    fn a_silent_endpoint_gives_way_to_the_next_round_and_round() {
        let published = [at("10.0.0.1:1"), at("10.0.0.2:1"), at("10.0.0.3:1")];
        let mut state = PeerState {
            endpoint: Some(published[0]),
            endpoint_is_ours: true,
            endpoint_age: secs(14),
            unanswered: Some(secs(20)),
            ..PeerState::default()
        };
        assert_eq!(choose(&published, None, v4_only, Some(&state)), Some(published[0]), "not yet");
        state.endpoint_age = secs(15);
        for expected in [published[1], published[2], published[0]] {
            state.endpoint = choose(&published, None, v4_only, Some(&state));
            assert_eq!(state.endpoint, Some(expected));
        }
        assert_eq!(
            choose(&published[..1], None, v4_only, Some(&state)),
            Some(published[0]),
            "there is no other"
        );
        let roamed = PeerState { endpoint: Some(at("192.0.2.7:9")), endpoint_is_ours: false, ..state };
        assert_eq!(choose(&published, Some(at("192.0.2.7:9")), v4_only, Some(&roamed)), Some(published[0]));
    }

    #[test]
    fn a_withdrawn_or_unreachable_endpoint_is_left_at_once() {
        let ours = PeerState {
            endpoint: Some(at("10.0.0.1:1")),
            endpoint_is_ours: true,
            handshake_age: Some(secs(3)),
            ..PeerState::default()
        };
        let moved = [at("10.0.0.9:1")];
        assert_eq!(choose(&moved, None, v4_only, Some(&ours)), Some(moved[0]));
        let v6 = PeerState { endpoint: Some(at("[2001:db8::1]:1")), endpoint_is_ours: false, ..ours };
        assert_eq!(choose(&moved, None, v4_only, Some(&v6)), Some(moved[0]));
        assert_eq!(choose(&[], None, v4_only, Some(&v6)), v6.endpoint, "better than none");
    }

    #[test]
    fn keepalive_where_a_nat_may_be() {
        let lan: Vec<IpNet> = vec!["192.168.1.0/24".parse().unwrap()];
        let (private, public) = ([at("192.168.1.5:1")], [at("192.0.2.1:1")]);
        let (neighbour, remote) = ([at("192.168.1.6:1")], [at("192.168.9.6:1")]);
        assert_eq!(keepalive(&private, &neighbour, &lan, None, None), 0, "same LAN");
        assert_eq!(keepalive(&private, &remote, &lan, None, None), KEEPALIVE);
        assert_eq!(keepalive(&private, &public, &lan, None, None), KEEPALIVE);
        assert_eq!(keepalive(&public, &remote, &lan, None, None), 0, "nothing hides this node");
        assert_eq!(keepalive(&public, &remote, &lan, Some(at("192.0.2.99:7")), None), KEEPALIVE);
        let state = PeerState {
            endpoint: Some(at("192.0.2.99:7")),
            handshake_age: Some(secs(1)),
            ..PeerState::default()
        };
        assert_eq!(keepalive(&public, &remote, &lan, None, Some(&state)), KEEPALIVE);
        let kept = PeerState { keepalive: KEEPALIVE, ..PeerState::default() };
        assert_eq!(keepalive(&public, &public, &lan, None, Some(&kept)), KEEPALIVE);
    }

    #[test]
    fn the_mtu_leaves_room_for_the_outer_packet() {
        assert_eq!(inner_mtu(1500, Family::V4, true), 1440);
        assert_eq!(inner_mtu(1500, Family::V6, true), 1420);
        assert_eq!(inner_mtu(1300, Family::V6, true), 1280);
        assert_eq!(inner_mtu(1300, Family::V6, false), 1220);
        assert_eq!(inner_mtu(0, Family::V4, false), 576);
    }
}
