//! The nodes' part of `warren connectivity`: who reaches whom, seen from inside the cluster.
//!
//! Job: for a run, two pods of this node's own, which are nothing but network namespaces attached as any pod is; one answers,
//! the other asks the pods, Services, ports, names and Ingresses of all nodes, and what leaves the node meanwhile is looked at.
//! Inputs: the row of the run, from the API; what the agent lends ([`Node`]). Outputs: the row of the answer.
//! Owns: attachments whose container ID begins with [`CONTAINER_PREFIX`]; they end with the run, the agent, or after
//! [`runner::LIFE`]. Sockets are opened in the pods' namespaces alone, but for packet sockets that listen for a moment.
//! Ordering: a run is joined at its first step only, so that what is left of a run whose command died attaches nothing.
//! Failure: what cannot be tried is answered as not checked, with the reason.

pub mod ask;
mod clear;
pub mod echo;
mod names;
mod round;
pub mod runner;

pub use runner::{CONTAINER_PREFIX, ConnectivityError, Deps, Facts, Node, PodRequest, run};

use std::future::Future;
use std::pin::Pin;

/// What a lender's method returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
