//! What the overlay learned of its peers.

use crate::PublicKey;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The endpoint from which a peer last completed a handshake. Table `peer_endpoints`, written by `overlay`, so
/// that a restarted node can reach a roamed peer without the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEndpoint {
    /// The peer.
    pub public_key: PublicKey,
    /// Where it was last heard from.
    pub endpoint: SocketAddr,
}
