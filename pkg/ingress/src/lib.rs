//! HTTP and HTTPS into the cluster: a reverse proxy in the agent, straight to the endpoints of Services.
//!
//! Job: take requests on listening sockets that the caller holds, find their route, send them to an endpoint, and send the
//! answer back.
//!
//! Inputs: a [`route::RouteTable`], typed data that is swapped as a whole, and listening sockets. Outputs: answers. The
//! data path knows nothing of Kubernetes: what the rows of the store mean for the table is decided elsewhere.

pub mod auth;
pub mod compile;
pub mod route;
pub mod tls;
