//! Cluster DNS: the records that Kubernetes promises, and everything else from upstream resolvers.
//!
//! Job: answer questions on the cluster's DNS address, from the agent of the node where they are asked.
//!
//! Inputs: the tables `services`, `endpoint_slices`, `pods`, `nodes`, `attachments` and `cluster` of the store; the node's
//! resolver configuration. Outputs: answers. It writes no table and owns no object of the kernel but its sockets and the
//! local route of its address.
//!
//! The way of a question: [`wire`] reads the packet, the zone answers what lies in the cluster's domain, and the forwarder
//! asks upstream for the rest. Zone and answers are pure; they take time and randomness as arguments.

pub mod answer;
pub mod ask;
pub mod cache;
mod clients;
mod config;
mod desk;
mod error;
pub mod figures;
pub mod limits;
pub mod overrides;
pub mod place;
pub mod resolv;
mod runner;
pub mod search;
mod server;
mod sockets;
mod status;
pub mod upstream;
pub mod wire;
pub mod zone;

pub use config::{Deps, DnsConfig, Tables};
pub use error::DnsError;
pub use runner::{clear, run};
pub use sockets::KEEPER;
pub use status::{DnsStatus, StatusSnapshot};
