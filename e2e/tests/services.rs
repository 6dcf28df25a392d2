//! The battery of service tests, one lab after the other. `WARREN_BATTERY_DATA_PLANE` chooses who programs the Services; see
//! `warren_e2e::battery`.

use anyhow::Result;
use warren_e2e::Battery;
use warren_e2e::scenario::services;

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");

/// Scenarios in one lab: each is run, whatever became of those before it, so that one failure hides no other.
fn run(test: &str, args: &[&str], scenarios: &[fn(&Battery) -> Result<()>], names: &[&str]) -> Result<()> {
    let battery = Battery::up(test, WHOAMI, args)?;
    let mut failed = Vec::new();
    for (scenario, name) in scenarios.iter().zip(names) {
        let start = std::time::Instant::now();
        let outcome = scenario(&battery);
        let shown = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("battery: {name}: {shown} in {:.1} s", start.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            eprintln!("battery: {name}: {error:#}");
            failed.push(*name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    battery.done()
}

macro_rules! battery {
    ($(#[$meta:meta])* $test:ident, $lab:literal, $args:expr, [$($scenario:ident),* $(,)?]) => {
        $(#[$meta])*
        #[test]
        fn $test() -> Result<()> {
            run($lab, $args, &[$(services::$scenario),*], &[$(stringify!($scenario)),*])
        }
    };
}

battery!(the_fleet_answers, "svc-fleet", &[], [fleet_answers]);
battery!(
    cluster_addresses,
    "svc-cluster",
    &[],
    [
        cluster_ip,
        hairpin,
        named_ports,
        host_network_endpoints,
        several_slices,
        slices_by_hand,
        strays_end_no_connection,
        no_default_route
    ]
);
battery!(
    choice_of_endpoints,
    "svc-choice",
    &[],
    [
        choice_is_even,
        affinity_keeps_and_moves,
        affinity_ends_with_its_time,
        internal_local,
        zone_hints,
        node_hints,
        traffic_distribution
    ]
);
battery!(
    node_ports,
    "svc-node-port",
    &[],
    [
        node_port,
        node_port_on_loopback,
        node_port_on_primary_addresses,
        external_local,
        health_check_port,
        host_ports
    ]
);
battery!(
    load_balancers,
    "svc-lb",
    &[],
    [load_balancer_on_nodes, load_balancer_addresses, source_ranges, held_ports_are_refused]
);
battery!(
    lives_of_endpoints,
    "svc-life",
    &[],
    [readiness, terminating_endpoints, not_ready_addresses, foreign_labels]
);
battery!(
    nobody_there,
    "svc-absent",
    &[],
    [no_endpoints_reject, unknown_ports_reject, unallocated_addresses_drop]
);
battery!(udp_flows, "svc-udp", &[], [udp_follows_its_endpoints, udp_flow_survives_the_agent]);
battery!(
    repairs,
    "svc-repair",
    &[],
    [foreign_changes_are_repaired, foreign_tables_are_left_alone, hostile_slices, limits]
);

#[test]
fn external_addresses() -> Result<()> {
    let allow = format!("--agent-arg=--service-external-ips={}", services::EXTERNAL_RANGE);
    let scenarios: &[fn(&Battery) -> Result<()>] =
        &[services::external_ips, services::one_external_ip_two_services];
    run("svc-external", &[&allow], scenarios, &["external_ips", "one_external_ip_two_services"])
}

#[test]
fn node_ports_on_named_addresses() -> Result<()> {
    let named = format!("--agent-arg=--nodeport-addresses={}", services::NAMED_RANGES);
    let scenarios: &[fn(&Battery) -> Result<()>] = &[services::node_port_on_named_addresses];
    run("svc-named", &[&named], scenarios, &["node_port_on_named_addresses"])
}

#[test]
fn addresses_of_a_pool() -> Result<()> {
    let pool = format!("--agent-arg=--loadbalancer-pool={}", services::POOL);
    run("svc-pool", &[&pool], &[services::pool_addresses_move], &["pool_addresses_move"])
}
