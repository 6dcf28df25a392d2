//! Services, as clients meet them. Each scenario has a namespace of its own in a lab with a fleet, and says what must hold
//! by connections, by the server that answered and by the address that it saw.

mod absent;
mod affinity;
mod choice;
mod cluster_ip;
mod external_ips;
mod fleet;
mod host_port;
mod hostile;
mod lifecycle;
mod load_balancer;
mod local;
mod node_port;
mod pool;
mod repair;
mod rolling;
mod slices;
mod stray;
mod topology;
mod udp;

pub use absent::{no_endpoints_reject, unallocated_addresses_drop, unknown_ports_reject};
pub use affinity::{affinity_ends_with_its_time, affinity_keeps_and_moves};
pub use choice::choice_is_even;
pub use cluster_ip::{cluster_ip, hairpin, host_network_endpoints, named_ports, no_default_route};
pub use external_ips::{EXTERNAL_RANGE, external_ips, one_external_ip_two_services};
pub use fleet::fleet_answers;
pub use host_port::host_ports;
pub use hostile::{hostile_slices, limits};
pub use lifecycle::{foreign_labels, not_ready_addresses, readiness, terminating_endpoints};
pub use load_balancer::{load_balancer_addresses, load_balancer_on_nodes, source_ranges};
pub use local::{external_local, health_check_port, internal_local};
pub use node_port::{
    NAMED_RANGES, node_port, node_port_on_loopback, node_port_on_named_addresses,
    node_port_on_primary_addresses,
};
pub use pool::{POOL, held_ports_are_refused, pool_addresses_move};
pub use repair::{foreign_changes_are_repaired, foreign_tables_are_left_alone};
pub use rolling::{Agents, Rolled, Rolling, Through, WAITED_FOR, rolling};
pub use slices::{several_slices, slices_by_hand};
pub use stray::strays_end_no_connection;
pub use topology::{node_hints, traffic_distribution, zone_hints};
pub use udp::{udp_flow_survives_the_agent, udp_follows_its_endpoints};

use crate::battery::{Ask, Battery, Expect};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The same of connections and of datagrams.
fn both<'a>(b: &'a Battery, from: &str, target: SocketAddr) -> [Expect<'a>; 2] {
    [b.expect(Ask::tcp(from, target)), b.expect(Ask::udp(from, target))]
}

/// Time that only clients use.
fn let_pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(rest);
    }
}
