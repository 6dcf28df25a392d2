//! The node agent: wires the subsystems together, keeps them running, and says how they are.
//!
//! Job: open the store, load or make the node's keys, join, find the node's addresses, start source, overlay, ipam and
//! cni, restart what fails, answer `warren status` and scrapes, and write the CNI configuration when pods can be attached.
//! Inputs: [`config::AgentConfig`]. Outputs: tables `local_node` and `keys`; `/run/warren/admin.sock`; health and
//! metrics on loopback; the conflist and the plugin.
//! Owns: the files under its data and run directories, the conflist, the plugin.
//! Ordering: nothing waits for the API; cni answers ADD only when overlay's guard is in the kernel and the node's
//! podCIDRs are known; stopping removes nothing.

pub mod address;
pub mod admin;
pub mod board;
pub mod client;
pub mod config;
pub mod dns;
pub mod files;
pub mod identity;
pub mod ingress;
pub mod metrics;
pub mod notify;
pub mod policy;
pub mod services;
pub mod status;
pub mod supervisor;
pub mod sysctls;

pub use run::{AgentError, run};
mod run;
mod subsystems;
