//! What the overlay learned of its peers.

use crate::PublicKey;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The endpoint from which a peer last completed a handshake, while it is not one that the peer publishes: it has roamed,
/// or a NAT hides it. Table `peer_endpoints`, written by `overlay`, so that a restarted node can reach it without the API,
/// and `source` can tell others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEndpoint {
    /// The peer.
    pub public_key: PublicKey,
    /// Where it was last heard from.
    pub endpoint: SocketAddr,
}
