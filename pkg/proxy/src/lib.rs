//! Services: what kube-proxy does, in nftables over netlink.
//!
//! Job: connections to addresses of Services reach their endpoints, as the Kubernetes documentation of virtual IPs says.
//! Inputs: tables `services`, `endpoint_slices`, `nodes`, `cluster`, `local_node`, `attachments` (host ports); the kernel's
//! table and tracked connections, read back. Outputs: the section `svc_` of `inet warren`; UDP flows ended; table
//! `service_faults`; [`ProxyStatus`].
//! Owns: the sets, maps and chains in `inet warren` whose names begin with `svc_`; bit [`warren_types::marks::SERVICE_MARK`]
//! of the connection mark; the listeners of `healthCheckNodePort` and, on loopback, of node ports.
//! Ordering: nothing before all tables have been loaded once; each change is one transaction; flows end after the rules
//! that they would meet are in place.
//! Failure modes: a refused change leads to a comparison of the whole section; when that is refused too, the Services to
//! blame are found by halves and left out, each with a fault, until they change; the rules that are there serve on. A bad Service or endpoint is left out and named in `service_faults`; others are unharmed.
//! A reviewer asks: can a packet meet a mixture of old and new? Does a change cost more than what changed?
//!
//! [`plan`] says what should happen, for one Service; [`elements`] and [`ruleset`] how the kernel is told; [`engine`] keeps
//! all of it and finds differences. [`view`] and [`explain`] tell people what they say. These do no I/O.

pub mod config;
pub mod elements;
pub mod engine;
mod error;
pub mod explain;
pub mod flows;
mod host_ports;
mod local;
pub mod names;
pub mod node;
pub mod plan;
pub mod ruleset;
mod runner;
mod status;
pub mod view;

pub use config::{Deps, ProxyConfig, Tables};
pub use error::ProxyError;
pub use runner::run;
pub use status::{Figures, ProxyStatus};

#[cfg(test)]
mod tests;
