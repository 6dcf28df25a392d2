//! source

pub mod join;
