//! Clients that mean harm: each is ended or bounded, while others are served.
//!
//! The ingress runs in a process of its own, on one thread, so that what it holds can be read from the kernel and that a
//! thread that is kept busy is everybody's. Backends and clients are threads of the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it must be"
)]

#[path = "../common/mod.rs"]
mod common;
mod h1;
mod h2;
mod h2c;
mod raw;
mod tls;
mod victim;
