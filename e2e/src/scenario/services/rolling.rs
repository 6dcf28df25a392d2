//! A Deployment is rolled under load. There is no kubelet and no Deployment controller in a lab: this drives the pods as
//! they would, in the order that graceful termination means. A new pod serves and is ready; when its endpoint is in a slice,
//! an old one is deleted, serves on until its grace is over, and ends.

use crate::battery::{Ask, Battery, Member, NODES, PORT, Running, Scope};
use crate::eventually;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pods of the Deployment.
const PODS: usize = 10;
/// How many are replaced at a time.
const SURGE: usize = 5;
const APP: &str = "rolled";

/// How to roll.
#[derive(Debug, Clone, Copy)]
pub struct Rolling {
    /// How often all pods are replaced.
    pub rolls: usize,
    /// How long a pod serves after its deletion.
    pub grace: Duration,
    /// Whether an agent is killed with SIGKILL every second, each node's in turn.
    pub kill_agents: bool,
}

/// The last line of a client.
#[derive(Debug, Deserialize)]
struct Summary {
    asked: u64,
    answered: u64,
    slowest: u64,
}

/// Rolls a Deployment of ten pods under load from pods and hosts of every node: no connection fails.
///
/// # Errors
/// When one failed.
pub fn rolling(b: &Battery, how: Rolling) -> Result<()> {
    let scope = b.scope("rolling")?;
    let service = scope.service(APP, json!({}))?;
    let mut pods: Vec<String> = (0..PODS).map(|slot| format!("roll-0-{slot}")).collect();
    for (slot, pod) in pods.iter().enumerate() {
        begin(b, &scope, pod, slot)?;
    }
    let places = ["n1a", "n2a", "n3a", "node-1", "node-2", "node-3"];
    let ask = |n: usize, from: &str| -> Result<Ask> {
        Ok(Ask {
            count: 0,
            threads: 2,
            gap: 10,
            timeout: 5000,
            summary: true,
            ..Ask::tcp(from, service.at(n % 2 == 1, 80)?)
        })
    };
    for (n, from) in places.iter().enumerate() {
        b.expect(Ask { count: 1, threads: 1, gap: 0, summary: false, ..ask(n, from)? })
            .reaches(&pods.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let clients: Vec<(&str, Running)> = places
        .iter()
        .enumerate()
        .map(|(n, from)| Ok((*from, b.asking(&ask(n, from)?)?)))
        .collect::<Result<_>>()?;
    let (start, done) = (Instant::now(), AtomicBool::new(false));
    let kills = std::thread::scope(|scope_of_threads| {
        let killer = how.kill_agents.then(|| scope_of_threads.spawn(|| kill_agents(b, &done)));
        let rolled = roll_all(b, &scope, &how, &mut pods);
        done.store(true, Ordering::Relaxed);
        let kills = killer.map_or(Ok(0), |k| k.join().unwrap_or_else(|_| bail!("the killer panicked")));
        rolled.and(kills)
    });
    let took = start.elapsed();
    let mut failed = 0;
    for (from, client) in clients {
        let text = client.finish()?;
        let lines: Vec<&str> = text.lines().collect();
        let (last, failures) = lines.split_last().with_context(|| format!("{from} says nothing"))?;
        let sum: Summary = serde_json::from_str(last).with_context(|| (*last).to_owned())?;
        println!(
            "rolling: {from}: {} of {} connections answered, the slowest after {} ms",
            sum.answered, sum.asked, sum.slowest
        );
        failures.iter().take(5).for_each(|f| println!("rolling: {from}: {f}"));
        ensure!(sum.asked > 100, "{from} asked only {} times", sum.asked);
        failed += sum.asked - sum.answered;
    }
    let kills = kills?;
    println!(
        "rolling: {} pods replaced in {:.0} s, {kills} agents killed, {failed} connections failed",
        how.rolls * PODS,
        took.as_secs_f64()
    );
    for pod in &pods {
        end(b, &scope, pod)?;
    }
    ensure!(failed == 0, "{failed} connections failed");
    Ok(())
}

/// Old pods that serve on, and until when.
type Ending = VecDeque<(String, Instant)>;

fn roll_all(b: &Battery, scope: &Scope<'_>, how: &Rolling, pods: &mut [String]) -> Result<()> {
    let mut ending = Ending::new();
    for roll in 1..=how.rolls {
        let begun = Instant::now();
        // The pods of the roll before this one may serve on while the next are started.
        let due = ending.iter().take_while(|(_, at)| *at <= begun).count();
        let over: Vec<String> = ending.drain(..due).map(|(pod, _)| pod).collect();
        let ended = std::thread::scope(|threads| {
            let ender = threads.spawn(|| over.iter().try_for_each(|pod| end(b, scope, pod)));
            let groups = pods.chunks_mut(PODS.div_ceil(SURGE)).enumerate();
            let workers: Vec<_> = groups
                .map(|(n, group)| {
                    threads.spawn(move || replace(b, scope, how, roll, n * PODS.div_ceil(SURGE), group))
                })
                .collect();
            let mut ended = Vec::new();
            for worker in workers {
                ended.extend(worker.join().unwrap_or_else(|_| bail!("a worker panicked"))?);
            }
            ender.join().unwrap_or_else(|_| bail!("a worker panicked"))?;
            Ok::<_, anyhow::Error>(ended)
        })
        .with_context(|| format!("roll {roll}"))?;
        ending.extend(ended);
        ending.make_contiguous().sort_by_key(|(_, at)| *at);
        if roll % 10 == 0 || roll == 1 {
            println!("rolling: roll {roll} took {} ms", begun.elapsed().as_millis());
        }
    }
    for (pod, at) in ending {
        while let Some(rest) = at.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
        end(b, scope, &pod)?;
    }
    Ok(())
}

/// Replaces the pods of some slots, one after the other; returns the old ones.
fn replace(
    b: &Battery,
    scope: &Scope<'_>,
    how: &Rolling,
    roll: usize,
    first: usize,
    group: &mut [String],
) -> Result<Vec<(String, Instant)>> {
    let one = |(n, pod): (usize, &mut String)| {
        let slot = first + n;
        let next = format!("roll-{roll}-{slot}");
        begin(b, scope, &next, slot + roll)?;
        scope.terminate(&format!("{APP}-{pod}"))?;
        Ok((std::mem::replace(pod, next), Instant::now() + how.grace))
    };
    group.iter_mut().enumerate().map(one).collect()
}

/// Starts a pod, waits until it serves, says so, and waits until it is an endpoint.
fn begin(b: &Battery, scope: &Scope<'_>, name: &str, slot: usize) -> Result<()> {
    let node = NODES[slot % NODES.len()];
    let pod = b.start_pod(name, node, &[])?;
    let ip = *pod.ips.first().with_context(|| format!("{name} has no address"))?;
    eventually(Duration::from_secs(10), || {
        let got = b.ask(&Ask { timeout: 500, ..Ask::tcp(node, SocketAddr::new(ip, PORT)) })?;
        ensure!(got.iter().all(|g| g.result == "answer"), "{name} does not serve yet: {got:?}");
        Ok(())
    })?;
    scope.member_at(&Member { app: APP, place: name, ready: true, ports: &[] }, node, &pod.ips, false)?;
    eventually(Duration::from_secs(10), || {
        let found = scope.endpoints(APP)?;
        ensure!(found.contains(&(ip.to_string(), true)), "{name} is no endpoint yet");
        Ok(())
    })
    .map(drop)
}

fn end(b: &Battery, scope: &Scope<'_>, name: &str) -> Result<()> {
    b.lab().lab(&["rm", name])?;
    scope.remove(&format!("{APP}-{name}"))
}

/// Kills one agent every second, each node's in turn, which is started again at once.
fn kill_agents(b: &Battery, done: &AtomicBool) -> Result<u32> {
    let mut kills = 0;
    for node in NODES.iter().cycle() {
        let next = Instant::now() + Duration::from_secs(1);
        if done.load(Ordering::Relaxed) {
            return Ok(kills);
        }
        b.lab().lab(&["kill", node, "--process", "agent"])?;
        kills += 1;
        // A service manager waits ever longer before it starts again what dies so often; one that is told to does not.
        b.lab().lab(&["service", node, "stop", "agent"])?;
        b.lab().lab(&["service", node, "start", "agent"])?;
        while let Some(rest) = next.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
    }
    Ok(kills)
}
