//! The CNI specification, as types: versions, error objects, the environment, network configurations, results.

mod args;
mod call;
mod config;
mod refusal;
mod result;
mod version;

pub use call::{AddRequest, Call, CheckRequest, GcRequest, Parsed, Request};
pub use config::{DEFAULT_QUEUE_DIR, DEFAULT_SOCKET, MAX_CONFIG, Settings};
pub use refusal::{Code, Refusal};
pub use result::{AddResult, Interface, IpEntry, RouteEntry};
pub use version::SpecVersion;

#[cfg(test)]
mod tests;
