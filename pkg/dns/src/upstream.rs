//! Names that are not the cluster's: forwarded to other resolvers, cached, and answered even when those are slow or gone.
//!
//! [`message`], [`address`] and [`health`] are pure; [`exchange`] and [`tls`] ask one upstream, a group asks several by the
//! plan of [`health`], and [`forwarder`] puts them behind the cache.

pub mod address;
pub mod exchange;
pub mod figures;
pub mod forwarder;
mod group;
pub mod health;
pub mod message;
pub mod tls;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod testing;

pub use address::Address;
pub use forwarder::{Config, Failure, ForwardState, Forwarder, Origin, Resolved};
