//! Cluster DNS, as clients meet it. `WARREN_BATTERY_DNS=ADDRESS[,ADDRESS]` has the specification asked of another server; see
//! `warren_e2e::scenario::dns`.

use anyhow::Result;
use warren_e2e::Battery;
use warren_e2e::scenario::dns::{self, Names, UPSTREAM};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");

type Scenario = fn(&mut Names<'_>) -> Result<()>;

/// Scenarios in one lab: each is run, whatever became of those before it, so that one failure hides no other.
fn run(test: &str, args: &[&str], scenarios: &[(Scenario, &str)]) -> Result<()> {
    let upstream = format!("--agent-arg=--dns-upstream={UPSTREAM}");
    let battery = Battery::up(test, WHOAMI, &[&[&*upstream], args].concat())?;
    let mut names = Names::of(&battery)?;
    let mut failed = Vec::new();
    for (scenario, name) in scenarios {
        let start = std::time::Instant::now();
        let outcome = scenario(&mut names);
        let shown = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("dns: {name}: {shown} in {:.1} s", start.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            eprintln!("dns: {name}: {error:#}");
            failed.push(*name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    drop(names);
    battery.done()
}

macro_rules! battery {
    ($test:ident, $lab:literal, $args:expr, [$($scenario:ident),* $(,)?]) => {
        #[test]
        fn $test() -> Result<()> {
            run($lab, $args, &[$((|names| dns::$scenario(names), stringify!($scenario))),*])
        }
    };
}

battery!(
    names_and_resolvers,
    "dns-names",
    &[],
    [specification, domain_of_ones_own, libc_resolver, search_paths, strangers_are_refused]
);
battery!(trouble, "dns-trouble", &[], [upstream_trouble, bad_clients, foreign_changes, off_leaves_nothing]);
battery!(restarts, "dns-restarts", &[], [agent_restarts_in_order, agent_is_killed, api_away]);
