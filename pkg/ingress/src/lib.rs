//! HTTP and HTTPS into the cluster: a reverse proxy in the agent, straight to the endpoints of Services.
//!
//! Job: take requests on listening sockets that the caller holds, find their route, send them to an endpoint, and send the
//! answer back.
//!
//! Inputs: a [`route::RouteTable`], typed data that is swapped as a whole, and listening sockets. Outputs: answers. The
//! data path knows nothing of Kubernetes: what the rows of the store mean for the table is decided elsewhere.

pub mod auth;
mod bounds;
mod certificate;
pub mod compile;
pub mod config;
mod decide;
mod error;
mod exchange;
pub mod explain;
mod fields;
mod front_h1;
mod front_h2;
mod h1;
mod message;
mod observe;
mod proxy_header;
pub mod route;
pub mod runner;
mod server;
mod sockets;
mod state;
mod target;
pub mod tls;
mod upstream;
mod worker;

pub use bounds::Bounds;
pub use error::IngressError;
pub use observe::{Observer, Record};
pub use server::{Figures, Ingress, IngressConfig, Listener};
pub use sockets::KEEPER;
