//! CNI: the plugin that a container runtime starts, and the engine in the agent that does its work.
//!
//! Job: attach containers to the node's network and detach them (CNI specification 1.1, results in the formats from
//! 0.3.1 on): routed veth pair, addresses, routes, the source filter; a journal that survives the agent.
//! Inputs: environment and standard input of the plugin; leases from an [`AddressPool`]; the word of a [`PodGate`]; the pods' MTU.
//! Outputs: links, routes, neighbours and filter entries; rows of the journal; the result on standard output.
//! Owns: links `wrnp*` and what hangs on them; the sets of pod sources in `inet warren`; the socket and the queue of
//! deletions.
//! Ordering: the source filter, and what network policy wants, are in the kernel before a pod's link is up; the journal has an attachment on disk before
//! the runtime hears of it, and forgets it after the kernel has.
//! Failure: the plugin never waits longer than a minute; without an agent ADD says "try again" and DEL is queued. An ADD
//! that died anywhere is rolled back at the next start.
//! A reviewer asks: does a name from outside reach a path or the kernel unchecked? Can a DEL fail for something that is
//! missing? Can a call end with kernel objects that neither the journal nor a mark leads to?

pub mod engine;
pub mod gate;
mod loopback;
pub mod plugin;
pub mod pool;
mod queue;
pub mod server;
pub mod spec;
pub mod stats;
mod wire;

pub use engine::{Added, Engine, EngineConfig, Recovered};
pub use gate::PodGate;
pub use pool::{AddressPool, BoxFuture, PoolError};
pub use server::{CniConfig, CniError, serve};
pub use stats::CallStats;

/// The configuration list for container runtimes, as the agent writes it.
#[must_use]
pub fn conflist(network: &str, socket: &std::path::Path, queue_dir: &std::path::Path) -> String {
    let list = serde_json::json!({
        // Runtimes that know `cniVersions` (specification 1.1) take the newest of it; older ones, such as containerd 1.6,
        // refuse a result of 1.1.0 and take this.
        "cniVersion": spec::SpecVersion::V1_0_0.as_str(),
        "cniVersions": [spec::SpecVersion::V1_0_0.as_str(), spec::SpecVersion::NEWEST.as_str()],
        "name": network,
        "plugins": [{
            "type": warren_types::defaults::CNI_PLUGIN,
            "socket": socket,
            "queueDir": queue_dir,
            "capabilities": { "portMappings": true },
        }],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests;
