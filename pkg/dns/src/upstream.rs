//! Names that are not the cluster's: forwarded to other resolvers, cached, and answered even when those are slow or gone.

pub mod address;
pub mod exchange;
pub mod figures;
mod group;
pub mod health;
pub mod message;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
