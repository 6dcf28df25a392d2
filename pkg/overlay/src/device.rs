//! The WireGuard device as it is read back, and the changes that make it what it should be. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use warren_types::{PublicKey, SecretKey};

use crate::engine::DesiredPeer;

/// A peer as the device has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPeer {
    /// Where its packets are sent.
    pub endpoint: Option<SocketAddr>,
    /// What it may send from.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Persistent keepalive in seconds; 0 for none.
    pub keepalive: u16,
    /// When the last handshake was done, by the wall clock.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// The device as it is read back.
#[derive(Debug, Clone, Default)]
pub struct ObservedDevice {
    /// Its private key.
    pub private_key: Option<SecretKey>,
    /// The port it listens on.
    pub listen_port: Option<u16>,
    /// The mark of its own packets.
    pub fwmark: Option<u32>,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, ObservedPeer>,
}

/// What the device should be, peers aside.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    /// Private key.
    pub private_key: SecretKey,
    /// Port to listen on.
    pub listen_port: u16,
    /// Mark of its own packets.
    pub fwmark: u32,
}

/// A change of one peer; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChange {
    /// Whether the device does not have the peer yet.
    pub new: bool,
    /// New endpoint.
    pub endpoint: Option<SocketAddr>,
    /// New allowed-ips, in place of all it has.
    pub allowed_ips: Option<BTreeSet<IpNet>>,
    /// New keepalive in seconds; 0 turns it off.
    pub keepalive: Option<u16>,
}

/// The changes of a device that add or alter something. None of them touches a peer that is not named.
#[derive(Debug, Clone, Default)]
pub struct DeviceChange {
    /// New private key.
    pub private_key: Option<SecretKey>,
    /// New port.
    pub listen_port: Option<u16>,
    /// New mark.
    pub fwmark: Option<u32>,
    /// Peers to add or alter.
    pub peers: BTreeMap<PublicKey, PeerChange>,
    /// Peers to remove.
    pub removed: BTreeSet<PublicKey>,
}

impl DeviceChange {
    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.private_key.is_none()
            && self.listen_port.is_none()
            && self.fwmark.is_none()
            && self.peers.is_empty()
            && self.removed.is_empty()
    }

    /// This change without the removals, which come last, and the removals alone.
    #[must_use]
    pub fn split(mut self) -> (DeviceChange, DeviceChange) {
        let removed = std::mem::take(&mut self.removed);
        (self, DeviceChange { removed, ..DeviceChange::default() })
    }
}

/// The changes from `observed` to `settings` and `peers`. What is already so is not mentioned, so that no session is
/// disturbed; in particular an endpoint is only set where the engine chose another than the device has.
#[must_use]
pub fn diff(
    observed: &ObservedDevice,
    settings: &DeviceSettings,
    peers: &BTreeMap<PublicKey, DesiredPeer>,
) -> DeviceChange {
    let key =
        (observed.private_key.as_ref() != Some(&settings.private_key)).then(|| settings.private_key.clone());
    let mut out = DeviceChange {
        private_key: key,
        listen_port: (observed.listen_port != Some(settings.listen_port)).then_some(settings.listen_port),
        fwmark: (observed.fwmark.unwrap_or(0) != settings.fwmark).then_some(settings.fwmark),
        ..DeviceChange::default()
    };
    for (key, wanted) in peers {
        let Some(have) = observed.peers.get(key) else {
            let change = PeerChange {
                new: true,
                endpoint: wanted.endpoint,
                allowed_ips: Some(wanted.allowed_ips.clone()),
                keepalive: Some(wanted.keepalive),
            };
            out.peers.insert(*key, change);
            continue;
        };
        let change = PeerChange {
            new: false,
            endpoint: wanted.endpoint.filter(|e| have.endpoint != Some(*e)),
            allowed_ips: (have.allowed_ips != wanted.allowed_ips).then(|| wanted.allowed_ips.clone()),
            keepalive: (have.keepalive != wanted.keepalive).then_some(wanted.keepalive),
        };
        if change != PeerChange::default() {
            out.peers.insert(*key, change);
        }
    }
    out.removed = observed.peers.keys().filter(|k| !peers.contains_key(k)).copied().collect();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use warren_types::NodeName;

    fn settings() -> DeviceSettings {
        DeviceSettings { private_key: SecretKey::from_bytes([9; 32]), listen_port: 51840, fwmark: 7 }
    }

    fn apply(device: &mut ObservedDevice, change: &DeviceChange) {
        if let Some(key) = &change.private_key {
            device.private_key = Some(key.clone());
        }
        device.listen_port = change.listen_port.or(device.listen_port);
        device.fwmark = change.fwmark.or(device.fwmark);
        for (key, change) in &change.peers {
            assert_eq!(change.new, !device.peers.contains_key(key));
            let peer = device.peers.entry(*key).or_default();
            peer.endpoint = change.endpoint.or(peer.endpoint);
            peer.keepalive = change.keepalive.unwrap_or(peer.keepalive);
            if let Some(ips) = &change.allowed_ips {
                peer.allowed_ips = ips.clone();
            }
        }
        device.peers.retain(|key, _| !change.removed.contains(key));
    }

    fn any_peer() -> impl Strategy<Value = (PublicKey, Option<SocketAddr>, BTreeSet<IpNet>, u16)> {
        let endpoint =
            proptest::option::of(1u16..4).prop_map(|p| p.map(|p| SocketAddr::from(([10, 0, 0, 1], p))));
        let ips = proptest::collection::btree_set(0u8..4, 0..3);
        (0u8..5, endpoint, ips, 0u16..2).prop_map(|(key, endpoint, ips, keepalive)| {
            let ips = ips.iter().map(|i| format!("10.42.{i}.0/24").parse().unwrap()).collect();
            (PublicKey([key; 32]), endpoint, ips, keepalive * 25)
        })
    }

    proptest! {
        #[test]
        fn a_diff_leads_there_and_the_next_one_is_empty(
            have in proptest::collection::vec(any_peer(), 0..5),
            want in proptest::collection::vec(any_peer(), 0..5),
            configured: bool,
        ) {
            let mut device = ObservedDevice::default();
            if configured {
                device.private_key = Some(settings().private_key);
                device.listen_port = Some(51840);
            }
            for (key, endpoint, allowed_ips, keepalive) in have {
                device.peers.insert(key, ObservedPeer { endpoint, allowed_ips, keepalive, ..ObservedPeer::default() });
            }
            let want: BTreeMap<PublicKey, DesiredPeer> = want
                .into_iter()
                .map(|(key, endpoint, allowed_ips, keepalive)| {
                    (key, DesiredPeer { node: NodeName::new("n").unwrap(), allowed_ips, endpoint, candidates: Vec::new(), keepalive })
                })
                .collect();
            let change = diff(&device, &settings(), &want);
            for key in change.peers.keys() {
                let same = device.peers.get(key).zip(want.get(key)).is_some_and(|(h, w)| {
                    h.allowed_ips == w.allowed_ips && h.keepalive == w.keepalive
                        && (w.endpoint.is_none() || h.endpoint == w.endpoint)
                });
                prop_assert!(!same, "a peer that is right was touched");
            }
            apply(&mut device, &change);
            prop_assert!(diff(&device, &settings(), &want).is_empty());
        }
    }
}
