//! What the overlay tells of itself.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use warren_types::{NodeName, PublicKey};

use crate::backend::BackendKind;
use crate::engine::Quarantined;

/// The tunnel to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node behind it.
    pub node: NodeName,
    /// Its public key.
    pub public_key: PublicKey,
    /// Where its packets are sent; none while it has to come to us.
    pub endpoint: Option<SocketAddr>,
    /// Age of the last handshake when this was read; none before the first.
    pub handshake_age: Option<Duration>,
    /// For how long packets have been sent without an answer; none while answers come, or nothing is sent.
    pub unanswered: Option<Duration>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// What it may send from.
    pub allowed_ips: Vec<IpNet>,
    /// Persistent keepalive in seconds; 0 for none.
    pub keepalive: u16,
}

/// The overlay, as last read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// Whether the guard is in the kernel: unreachable routes, and the base of the nftables table. Before that, no pod
    /// may be attached.
    pub guarded: bool,
    /// The backend; none before it is chosen.
    pub backend: Option<BackendKind>,
    /// MTU of the tunnel link, and of pods; 0 before it is known.
    pub mtu: u32,
    /// The tunnels, by node.
    pub peers: Vec<PeerStatus>,
    /// What is refused, and why.
    pub quarantined: Vec<Quarantined>,
    /// Sysctls that could not be set, in words.
    pub sysctls: Vec<String>,
}

/// A shared view of the overlay. Clones share it; it outlives restarts of the subsystem.
#[derive(Debug, Clone)]
pub struct OverlayStatus(watch::Sender<StatusSnapshot>);

impl Default for OverlayStatus {
    fn default() -> Self {
        Self(watch::Sender::new(StatusSnapshot::default()))
    }
}

impl OverlayStatus {
    /// The overlay, as last read.
    #[must_use]
    pub fn get(&self) -> StatusSnapshot {
        self.0.borrow().clone()
    }

    /// Follows it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<StatusSnapshot> {
        self.0.subscribe()
    }

    /// Returns when the guard is in the kernel.
    pub async fn guarded(&self) {
        // The sender is `self`, so it does not go.
        let _ = self.0.subscribe().wait_for(|s| s.guarded).await;
    }

    /// The MTU for pods, once known.
    #[must_use]
    pub fn mtu(&self) -> Option<u32> {
        Some(self.0.borrow().mtu).filter(|mtu| *mtu > 0)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StatusSnapshot)) {
        self.0.send_if_modified(|now| {
            let before = now.clone();
            change(now);
            *now != before
        });
    }
}
