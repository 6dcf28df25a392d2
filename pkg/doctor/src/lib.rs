//! Preflight and diagnosis of a node: what would keep, or keeps, Warren from working here, and what to do about it.
//!
//! Job: gather facts of this machine ([`probe`]), judge them ([`diagnose`]), and pack them for people who help ([`bundle`]).
//! Inputs: the agent's configuration and, where one runs, its admin socket; netlink; `/proc`, `/sys`, files; the API.
//! Outputs: a [`Report`] of named checks, each with findings and fixes; a support archive.
//! Owns: nothing. The kernel's features are tried in a network namespace of the probe's own, which ends with it; nothing of
//! the host is changed. Across each tunnel a few echo requests are sent.
//! Ordering: all facts first, then the engine, which does no I/O.
//! Failure modes: a fact that cannot be had makes its checks `skipped`, with the reason; none stops the others.

pub mod bundle;
mod checks;
mod engine;
mod facts;
mod packets;
pub mod probe;
mod render;
#[cfg(test)]
mod testing;

pub use engine::{
    Check, CheckResult, Finding, Group, Report, Status, Summary, catalogue, diagnose, markdown,
};
pub use facts::Facts;
pub use probe::{Asked, gather};
pub use render::{list, render};
