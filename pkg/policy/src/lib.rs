//! NetworkPolicies, compiled into elements of constant sets and maps.
//!
//! Job: say for every packet from or to a pod of this node whether the cluster's policies let it pass, and tell the kernel so
//! that it does not forget. What a change costs depends on what it concerns, not on how much there is.
//! Inputs: rows of pods, namespaces and policies; the pods that are attached to this node. Outputs: [`Item`]s, as a difference
//! or as a whole; judgements with the names of policies and rules.
//! Owns: nothing outside of itself. No I/O, no tokio, no clock.
//! Failure modes: what is not known is denied: a pod whose row is not there yet (unless configured otherwise), a namespace
//! without a row as a peer, an address that two pods claim. A policy that goes before its namespace's pods do stays. When the
//! kernel refuses elements, the policies to blame are found by halves: their pods are denied what they allow, until they change.
//! A reviewer asks: can an address be free of a rule for a moment? Are the boxes of a map disjoint? Does a change of one pod
//! cost more than that pod?
//!
//! [`rules`] is the form of policies of all tiers, [`boxes`] cuts what they say into disjoint boxes, [`engine`] keeps all of it
//! and finds differences, [`decide`] tells people what the rows say. Private: `late` keeps ended flows ended, `keep` says what
//! has to outlive the agent.

pub mod boxes;
mod classes;
mod commit;
pub mod config;
pub mod decide;
pub mod denials;
pub mod engine;
mod error;
pub mod gate;
pub mod held;
mod index;
pub mod items;
mod keep;
mod known;
mod late;
mod locals;
mod peers;
mod quarantine;
pub mod rules;
pub mod ruleset;
mod runner;
mod status;
mod view;

pub use config::{Deps, PolicyConfig, Tables};
pub use decide::{Flow, Judgement, RuleId, Side};
pub use engine::{Committed, Engine, Settings, Subject, Unknown};
pub use error::PolicyError;
pub use gate::{Gate, GateError};
pub use items::{Item, Verdict};
pub use keep::{Held, Kept};
pub use rules::{Action, Direction, Policy, PolicyId, Tier};
pub use runner::run;
pub use status::{Figures, PolicyStatus};
pub use view::{Cost, Counts, Place};

#[cfg(test)]
mod tests;
