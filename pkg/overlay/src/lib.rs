//! The encrypted overlay between nodes: WireGuard peers, the routes to them, and the guard against clear text.
//!
//! Job: packets between pods of different nodes travel through `wrn-wg` or not at all.
//! Inputs: tables `nodes`, `cluster`, `local_node`; the kernel's links, addresses, routes, rules and the WireGuard device,
//! read back. Outputs: those of Warren's marks; table `peer_endpoints`; [`OverlayStatus`].
//! Owns: the link `wrn-wg`; routes of protocol 87 through it or unreachable with the guard's metric; table and rules
//! 8700; the base of the nftables table `inet warren`.
//! Ordering: the guard comes first and goes last; a peer comes before its route and goes after it; nothing before the
//! tables have been loaded once.
//!
//! [`engine`] says what should be, from values alone; [`device`], [`endpoint`] and the tracker reckon with what is;
//! `runner` reads, applies and tells; `backend` hides whether the device is the kernel's or the process of [`process`].

mod backend;
mod config;
pub mod device;
pub mod endpoint;
pub mod engine;
mod error;
pub mod process;
mod runner;
mod status;
mod sysctls;
mod tracker;
mod tun;
mod uapi;
mod udp;
mod underlay;

pub use backend::{BackendChoice, BackendKind, read_existing_key};
pub use config::{Deps, OverlayConfig, Tables};
pub use error::OverlayError;
pub use runner::run;
pub use status::{OverlayStatus, PeerStatus, StatusSnapshot};
pub use sysctls::NoteSysctl;
