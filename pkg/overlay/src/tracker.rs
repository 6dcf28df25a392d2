//! What consecutive readings of the device tell about each peer: whether it answers, and who chose its endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use warren_types::PublicKey;

use crate::device::{DeviceChange, ObservedDevice, ObservedPeer};
use crate::endpoint::PeerState;

/// Two readings of one handshake may differ by so much: userspace reckons the time back from its age, in whole seconds.
const SAME_HANDSHAKE: Duration = Duration::from_secs(2);

/// Size of a keepalive: a message without a payload. No other message of WireGuard is so small. It is all that is never
/// answered: who receives data sends a packet of its own, or a keepalive, within ten seconds.
const KEEPALIVE_BYTES: u64 = 32;

#[derive(Debug)]
struct Track {
    read: ObservedPeer,
    endpoint_since: Instant,
    /// The endpoint that this agent last set.
    configured: Option<SocketAddr>,
    /// When the last handshake was first seen, less the age it had then.
    handshake_at: Option<Instant>,
    unanswered_since: Option<Instant>,
}

/// Readings of the device over time. Ages are kept by the monotonic clock: the wall clock may jump.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    peers: BTreeMap<PublicKey, Track>,
}

impl Tracker {
    /// Takes in a reading.
    pub(crate) fn observe(&mut self, now: Instant, wall: SystemTime, device: &ObservedDevice) {
        self.peers.retain(|key, _| device.peers.contains_key(key));
        for (key, read) in &device.peers {
            let age = read.last_handshake.map(|at| wall.duration_since(at).unwrap_or_default());
            let seen = age.map(|age| now.checked_sub(age).unwrap_or(now));
            match self.peers.get_mut(key) {
                None => {
                    let track = Track {
                        read: read.clone(),
                        endpoint_since: now,
                        configured: None,
                        handshake_at: seen,
                        unanswered_since: None,
                    };
                    self.peers.insert(*key, track);
                }
                Some(track) => track.observe(now, seen, read),
            }
        }
    }

    /// Notes what was just applied.
    pub(crate) fn applied(&mut self, now: Instant, change: &DeviceChange) {
        for (key, change) in &change.peers {
            let Some(endpoint) = change.endpoint else { continue };
            let track = self.peers.entry(*key).or_insert_with(|| Track {
                read: ObservedPeer::default(),
                endpoint_since: now,
                configured: None,
                handshake_at: None,
                unanswered_since: None,
            });
            track.read.endpoint = Some(endpoint);
            track.configured = Some(endpoint);
            track.endpoint_since = now;
        }
    }

    /// Forgets all: the device is a new one.
    pub(crate) fn clear(&mut self) {
        self.peers.clear();
    }

    /// The state of each peer.
    pub(crate) fn states(&self, now: Instant) -> BTreeMap<PublicKey, PeerState> {
        self.peers.iter().map(|(key, track)| (*key, track.state(now))).collect()
    }
}

impl Track {
    fn observe(&mut self, now: Instant, seen: Option<Instant>, read: &ObservedPeer) {
        if read.endpoint != self.read.endpoint {
            self.endpoint_since = now;
        }
        let renewed = match (read.last_handshake, self.read.last_handshake) {
            (Some(new), Some(old)) => {
                let apart = new.duration_since(old).unwrap_or_else(|e| e.duration());
                apart > SAME_HANDSHAKE
            }
            (new, old) => new.is_some() != old.is_some(),
        };
        if renewed {
            self.handshake_at = seen;
        }
        // Counters that fell belong to a peer that was made anew.
        let answered = renewed || read.rx_bytes != self.read.rx_bytes;
        // The last word of a tunnel that comes to rest is a keepalive: waiting for its answer would end in giving up an
        // endpoint that works.
        let sent = !matches!(read.tx_bytes.saturating_sub(self.read.tx_bytes), 0 | KEEPALIVE_BYTES);
        if answered {
            self.unanswered_since = None;
        } else if sent && self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
        }
        let handshake_kept = if renewed { read.last_handshake } else { self.read.last_handshake };
        self.read = ObservedPeer { last_handshake: handshake_kept, ..read.clone() };
    }

    fn state(&self, now: Instant) -> PeerState {
        PeerState {
            endpoint: self.read.endpoint,
            endpoint_is_ours: self.configured.is_some() && self.configured == self.read.endpoint,
            endpoint_age: now.saturating_duration_since(self.endpoint_since),
            handshake_age: self.handshake_at.map(|at| now.saturating_duration_since(at)),
            unanswered: self.unanswered_since.map(|since| now.saturating_duration_since(since)),
            keepalive: self.read.keepalive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::PeerChange;

    const KEY: PublicKey = PublicKey([2; 32]);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }
    fn read(handshake: Option<SystemTime>, rx: u64, tx: u64, endpoint: Option<SocketAddr>) -> ObservedDevice {
        let peer = ObservedPeer {
            endpoint,
            last_handshake: handshake,
            rx_bytes: rx,
            tx_bytes: tx,
            ..ObservedPeer::default()
        };
        ObservedDevice { peers: BTreeMap::from([(KEY, peer)]), ..ObservedDevice::default() }
    }

    #[test]
    fn silence_begins_with_the_first_packet_that_nobody_answers() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut tracker = Tracker::default();
        let mut state = |at: u64, rx, tx, handshake: Option<SystemTime>| {
            tracker.observe(start + secs(at), wall + secs(at), &read(handshake, rx, tx, None));
            tracker.states(start + secs(at))[&KEY]
        };
        assert_eq!(state(0, 0, 0, None).unanswered, None);
        assert_eq!(state(100, 0, 0, None).unanswered, None, "nothing was sent");
        assert_eq!(state(110, 0, 148, None).unanswered, Some(secs(0)));
        assert_eq!(state(120, 0, 148, None).unanswered, Some(secs(10)), "giving up is no answer");
        let done = Some(wall + secs(121));
        let answered = state(122, 92, 300, done);
        assert_eq!((answered.unanswered, answered.handshake_age), (None, Some(secs(1))));
        assert_eq!(state(130, 92, 300, done).handshake_age, Some(secs(9)));
        let wobble = Some(wall + secs(122));
        assert_eq!(state(131, 92, 300, wobble).handshake_age, Some(secs(10)), "rounding is no handshake");
        assert_eq!(state(140, 92, 300, Some(wall + secs(139))).handshake_age, Some(secs(1)));
    }

    #[test]
    fn a_tunnel_at_rest_whose_last_word_is_a_keepalive_waits_for_nothing() {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut tracker = Tracker::default();
        let done = Some(wall);
        let mut unanswered = |at: u64, rx, tx| {
            tracker.observe(start + secs(at), wall + secs(at), &read(done, rx, tx, None));
            tracker.states(start + secs(at))[&KEY].unanswered
        };
        assert_eq!(unanswered(0, 500, 500), None);
        assert_eq!(unanswered(10, 600, 500), None, "the peer's last packet");
        assert_eq!(unanswered(20, 600, 532), None, "the keepalive that it is due");
        assert_eq!(unanswered(60, 600, 532), None);
        assert_eq!(unanswered(70, 600, 660), Some(secs(0)), "a packet that is owed an answer");
        assert_eq!(unanswered(80, 600, 692), Some(secs(10)), "a keepalive is no answer either");
        assert_eq!(unanswered(82, 632, 692), None, "the peer's keepalive is");
    }

    #[test]
    fn an_endpoint_that_changes_by_itself_is_not_ours() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let (first, second): (SocketAddr, SocketAddr) =
            ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap());
        let mut tracker = Tracker::default();
        let peers =
            BTreeMap::from([(KEY, PeerChange { new: true, endpoint: Some(first), ..PeerChange::default() })]);
        tracker.applied(now, &DeviceChange { peers, ..DeviceChange::default() });
        tracker.observe(now, wall, &read(None, 0, 0, Some(first)));
        assert!(tracker.states(now)[&KEY].endpoint_is_ours);
        tracker.observe(now + secs(9), wall, &read(None, 0, 0, Some(second)));
        let state = tracker.states(now + secs(10))[&KEY];
        assert!(!state.endpoint_is_ours);
        assert_eq!(state.endpoint_age, secs(1));
    }
}
