//! Certificates for ingress by Warren's own authority, which has nothing to do with the one that vouches for nodes and
//! administrators.
//!
//! Job: make the authority and its certificates; say from Ingresses, Secrets, nodes and the time which Secrets are to be
//! written, and what their owners are to be told.
//! Inputs: objects as the API gives them. Outputs: bodies of Secrets and Events. Owns: nothing; whoever calls reads and writes,
//! so that a server and an agent of a foreign API can do so by the same rules.
//! A reviewer asks: can a Secret that somebody else made ever be overwritten? is anything issued when nothing has changed?
//! can a certificate of this authority be taken for one of the cluster's?

mod authority;
mod event;
mod plan;
mod secret;

pub use authority::{Authority, CaError, LIFE, Leaf, Name, Root};
pub use event::Told;
pub use plan::{Plan, Wish, Write, default_rests, node_names, of_default, of_namespace, rests};
pub use secret::{Found, Owner, authority_body, authority_of, body, set};
