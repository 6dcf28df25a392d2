//! Against the kernel: each test in network namespaces of its own.

mod links;
mod routes;
mod support;
mod timing;
