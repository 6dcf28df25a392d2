//! What the kernel is told: elements of sets and maps that are always there.

use crate::rules::Direction;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What becomes of a packet in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// It passes this direction.
    Accept,
    /// It is dropped.
    Deny,
}

/// An element. Two of one map never have a key in common: addresses have one class and one identity, and the boxes of a
/// class are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// A class that denies what nothing else decides.
    Closed {
        /// The class.
        class: u32,
    },
    /// What passes between a class and peers of an identity.
    Peer {
        /// The class.
        class: u32,
        /// The identity of the peer.
        identity: u32,
        /// Numbers of protocols, both included.
        protocols: (u8, u8),
        /// Destination ports, both included.
        ports: (u16, u16),
        /// What becomes of it.
        verdict: Verdict,
    },
    /// What passes between a class and peers without an identity.
    Block {
        /// The class.
        class: u32,
        /// Addresses of the peer, both included.
        addresses: (IpAddr, IpAddr),
        /// Numbers of protocols, both included.
        protocols: (u8, u8),
        /// Destination ports, both included.
        ports: (u16, u16),
        /// What becomes of it.
        verdict: Verdict,
    },
    /// An address of a pod of the cluster has an identity.
    Identity {
        /// The pod's address.
        address: IpAddr,
        /// The identity.
        identity: u32,
    },
    /// An address of a pod of this node is isolated in a direction.
    Local {
        /// The direction.
        direction: Direction,
        /// The pod's address.
        address: IpAddr,
        /// What it is judged by.
        class: u32,
    },
    /// A pod of this node, whose packets to itself pass.
    Loop {
        /// The pod's address.
        address: IpAddr,
    },
}
