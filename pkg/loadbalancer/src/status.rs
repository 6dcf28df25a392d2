//! What the load balancer tells of itself.

use crate::announce::Mac;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;
use tokio::sync::watch;

/// What this node is to an address of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// It listens whether somebody holds it.
    Listening,
    /// It answers for it.
    Holder,
    /// Another node answers for it.
    Backup {
        /// That node's hardware address.
        holder: Mac,
    },
}

/// An address of the pool that this node could serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressStatus {
    /// What this node is to it.
    pub state: AddressState,
    /// Since when.
    pub since: Instant,
}

/// The load balancer, as of now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// Whether this node writes the addresses of Services.
    pub writer: bool,
    /// The links that addresses are announced on, with this node's hardware address there.
    pub links: Vec<(String, Mac)>,
    /// Addresses of the pool that this node could serve.
    pub addresses: BTreeMap<IpAddr, AddressStatus>,
    /// Addresses that are not announced, and why.
    pub refused: BTreeMap<IpAddr, String>,
}

/// A shared view of the load balancer. Clones share it; it outlives restarts of the subsystem.
#[derive(Debug, Clone)]
pub struct LoadBalancerStatus(watch::Sender<StatusSnapshot>);

impl Default for LoadBalancerStatus {
    fn default() -> Self {
        Self(watch::Sender::new(StatusSnapshot::default()))
    }
}

impl LoadBalancerStatus {
    /// The load balancer, as of now.
    #[must_use]
    pub fn get(&self) -> StatusSnapshot {
        self.0.borrow().clone()
    }

    /// Follows it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<StatusSnapshot> {
        self.0.subscribe()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StatusSnapshot)) {
        self.0.send_if_modified(|now| {
            let before = now.clone();
            change(now);
            *now != before
        });
    }
}
