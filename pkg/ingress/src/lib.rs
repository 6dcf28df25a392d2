//! HTTP and HTTPS into the cluster: a reverse proxy in the agent, straight to the endpoints of Services.
//!
//! Job: serve the cluster's Ingresses on this node.
//! Inputs: rows of Ingresses, classes, Services, EndpointSlices, Secrets and nodes; requests. Outputs: answers; the rows of
//! wanted Secrets, faults and addresses. Owns: its listening sockets, which a process of their own keeps ([`KEEPER`]).
//!
//! Three parts, each of which knows only the one before: [`route`] is typed data; [`server`](Ingress) and all below it is
//! the data path, which takes requests by a table and knows nothing of Kubernetes; [`compile`] makes tables of rows, and the
//! runner brings both together.

mod access;
pub mod auth;
mod bounds;
mod certificate;
pub mod compile;
mod config;
mod decide;
mod error;
mod exchange;
pub mod explain;
pub mod external;
mod fields;
mod flood;
mod front;
mod front_h1;
mod front_h2;
mod h1;
mod hands;
mod hash;
mod message;
mod observe;
mod patience;
mod proxy_header;
pub mod route;
mod runner;
mod server;
mod sockets;
mod spare;
mod standby;
mod state;
mod target;
mod text;
mod tickets;
pub mod tls;
mod tunnel;
mod upstream;
mod websocket;
mod worker;

pub use access::{AccessLog, AccessLogConfig, Format as AccessLogFormat};
pub use bounds::Bounds;
pub use config::{Deps, IngressConfig, Tables};
pub use error::IngressError;
pub use observe::{Observer, Record};
pub use runner::{IngressStatus, Listening, RunError, StatusSnapshot, clear, run};
pub use server::{Figures, Ingress, Listener, Serving};
pub use sockets::KEEPER;
