//! Against the kernel: each test in network namespaces of its own.

mod conntrack;
mod links;
mod packets;
mod routes;
pub(crate) mod support;
mod timing;
