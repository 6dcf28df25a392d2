//! Two machines with a wire between them: `cargo xtask vm` boots both and runs this test in each, at the same time.

use anyhow::{Context as _, Result, ensure};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use warren_e2e::capture::{CONTROLS, Capture, send_control};
use warren_e2e::eventually;
use warren_e2e::scenario::{TUNNEL_PORT, pod_ranges};
use warren_e2e::station::{Call, EchoPod, LINK, Line, Role, Service, agent_ready, configure, mend, worsen};

const OWN_NS: &str = "/proc/self/ns/net";
const TOKEN: &str = "/tmp/token";

fn server() -> Result<Service> {
    let address = Role::First.address().to_string();
    let args =
        ["server", "--advertise-address", &address, "--cluster-cidr", "10.42.0.0/16,fd57:4e00:42::/56"];
    Service::start(
        "server",
        &[&args, ["--service-cidr", "10.43.0.0/16,fd57:4e00:43::/112"].as_slice()].concat(),
    )
}

fn agent(role: Role) -> Result<Service> {
    let url = format!("https://{}:6443", Role::First.address());
    Service::start("agent", &["agent", "--server", &url, "--token-file", TOKEN, "--node-name", role.name()])
}

/// The token that the server made, or what the other machine says that it is.
fn token(role: Role, line: &mut Line, server: Option<&Service>) -> Result<()> {
    let own = match server {
        Some(server) => {
            let read = || Ok(std::fs::read_to_string("/var/lib/warren/server/agent-token")?);
            eventually(Duration::from_secs(10), read).with_context(|| server.log())?.0
        }
        None => String::new(),
    };
    let theirs = line.exchange(&own)?;
    std::fs::write(TOKEN, if role == Role::First { own } else { theirs })?;
    Ok(())
}

/// Asks on an open connection until the other machine's agent was killed and is back; returns the longest wait for an
/// answer.
fn hold(calls: &mut [Call], line: &mut Line) -> Result<Duration> {
    std::thread::scope(|scope| {
        let back = scope.spawn(|| line.meet("agent back"));
        let (mut longest, mut rounds) = (Duration::ZERO, 0);
        while !back.is_finished() || rounds < 20 {
            for call in &mut *calls {
                let start = Instant::now();
                call.ask().context("a connection did not outlive the agent")?;
                longest = longest.max(start.elapsed());
            }
            rounds += 1;
        }
        back.join().map_err(|_| anyhow::anyhow!("a thread of the test panicked"))??;
        Ok(longest)
    })
}

#[test]
#[ignore = "needs two machines of its own: cargo xtask vm"]
fn two_machines_connect_and_leak_nothing() -> Result<()> {
    let role = Role::of_this_machine()?;
    configure(role)?;
    let capture = match role {
        Role::First => Some(Capture::start(Path::new(OWN_NS), Some(LINK), pod_ranges(), TUNNEL_PORT)?),
        Role::Second => None,
    };
    let mut line = Line::open(role)?;
    let server = if role == Role::First { Some(server()?) } else { None };
    token(role, &mut line, server.as_ref())?;
    let node = agent(role)?;
    println!("{}: ready {} ms after the agent's start", role.name(), agent_ready(&node)?.as_millis());

    let pod = EchoPod::add(role)?;
    let theirs: Vec<IpAddr> = line.exchange(&pod.ips)?;
    ensure!(theirs.len() == 2 && pod.ips.len() == 2, "not two families: {:?} and {theirs:?}", pod.ips);
    let start = Instant::now();
    theirs.iter().try_for_each(|ip| pod.reach(*ip)).with_context(|| node.log())?;
    println!("{}: TCP, UDP, ICMP in both families after {} ms", role.name(), start.elapsed().as_millis());
    line.meet("reached")?;

    // The second machine's agent dies under open connections of both families.
    let node = match role {
        Role::First => {
            let mut calls: Vec<Call> = theirs.iter().map(|ip| pod.call(*ip)).collect::<Result<_>>()?;
            line.meet("connected")?;
            let longest = hold(&mut calls, &mut line)?;
            println!("kill -9 of the other agent: longest wait for an answer {} ms", longest.as_millis());
            node
        }
        Role::Second => {
            line.meet("connected")?;
            drop(node);
            let node = agent(role)?;
            agent_ready(&node)?;
            line.meet("agent back")?;
            node
        }
    };
    theirs.iter().try_for_each(|ip| pod.reach(*ip)).with_context(|| node.log())?;
    line.meet("reached again")?;

    worsen()?;
    let start = Instant::now();
    theirs.iter().try_for_each(|ip| pod.reach(*ip)).with_context(|| node.log())?;
    println!("{}: all again on a bad line after {} ms", role.name(), start.elapsed().as_millis());
    line.meet("reached on a bad line")?;

    // A control that the bad line loses would make the capture look blind.
    mend()?;
    line.meet("line mended")?;
    let [_, theirs] = CONTROLS;
    match capture {
        Some(capture) => {
            line.meet("capture ends")?;
            let seen = capture.finish(LINK, &[theirs])?;
            println!(
                "wire: {} packets, {} of the tunnel, {} clear",
                seen.packets, seen.tunnel, seen.clear_count
            );
            ensure!(seen.tunnel > 50, "the capture saw only {} tunnel packets", seen.tunnel);
            ensure!(seen.clear_count == 0, "clear packets, the first: {:#?}", seen.clear);
        }
        None => {
            send_control(Path::new(OWN_NS), LINK, theirs)?;
            line.meet("capture ends")?;
        }
    }
    line.meet("end")
}
