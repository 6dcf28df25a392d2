//! The checks, by group. Each is a pure function of the facts.

mod agent;
mod clock;
mod dns;
mod firewall;
pub(crate) mod kernel;
mod node;
mod pods;
mod ports;
mod rivals;
mod state;
mod sysctls;
mod tunnels;

use crate::engine::Group;

pub(crate) const ALL: &[Group] = &[
    Group { name: "Agent and API", checks: agent::CHECKS },
    Group { name: "Kernel", checks: kernel::CHECKS },
    Group { name: "Sysctls", checks: sysctls::CHECKS },
    Group { name: "Firewalls", checks: firewall::CHECKS },
    Group { name: "Other networks of pods", checks: rivals::CHECKS },
    Group { name: "Node and addresses", checks: node::CHECKS },
    Group { name: "Clock and certificates", checks: clock::CHECKS },
    Group { name: "Ports", checks: ports::CHECKS },
    Group { name: "Names", checks: dns::CHECKS },
    Group { name: "Tunnels", checks: tunnels::CHECKS },
    Group { name: "Pods", checks: pods::CHECKS },
    Group { name: "Disk and memory", checks: state::CHECKS },
];

/// A list for people.
fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}
