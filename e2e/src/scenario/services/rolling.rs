//! A Deployment is rolled under load. There is no kubelet and no Deployment controller in a lab: this drives the pods as
//! they would, in the order that graceful termination means. A new pod serves and is ready; when its endpoint is in a slice,
//! an old one is deleted, serves on until its grace is over, and ends.

use crate::battery::{Ask, Battery, Member, NODES, PORT, Running, Scope, Svc};
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

/// The host of the Ingress.
const HOST: &str = "rolled.test";
/// Failures closer together than this belong to one gap, in milliseconds.
const ONE_GAP: u64 = 500;

/// What is done to agents meanwhile, each node's in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agents {
    /// Nothing.
    Left,
    /// One is killed with SIGKILL every second, and started again at once.
    Killed,
    /// One is stopped and started every two seconds, as an upgrade does.
    Restarted,
}

/// How clients come to the Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// By the cluster address: about 1,200 connections a second.
    Service,
    /// By HTTP to the nodes' ingress: 1,200 requests a second, whatever answers take, five of six on kept connections.
    Ingress,
}

/// How to roll.
#[derive(Debug, Clone, Copy)]
pub struct Rolling {
    /// How often all pods are replaced.
    pub rolls: usize,
    /// How long a pod serves after its deletion.
    pub grace: Duration,
    /// What happens to agents.
    pub agents: Agents,
    /// The way of the clients.
    pub through: Through,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rolled {
    /// Attempts.
    pub asked: u64,
    /// Attempts without an answer.
    pub failed: u64,
    /// The longest that an answer took, in milliseconds.
    pub slowest: u64,
    /// The longest time in which attempts of one client failed, in milliseconds.
    pub gap: u64,
    /// Agents that were killed or restarted.
    pub disturbed: u64,
}

/// Requests a second of a client that keeps its connections, and of one that does not.
const RATES: (u64, u64) = (167, 33);
/// How many requests a client of ingress waits for at once. Beyond them it asks no more until one is answered.
pub const WAITED_FOR: u64 = 4;

/// The last line of a client.
#[derive(Debug, Deserialize)]
struct Summary {
    asked: u64,
    answered: u64,
    slowest: u64,
}

/// A line of a client: an attempt that failed.
#[derive(Debug, Deserialize)]
struct Failure {
    at: u64,
    ms: u64,
}

/// Rolls a Deployment of ten pods under load from pods and hosts of every node.
///
/// # Errors
/// When it could not be done; whether attempts failed is in the result.
pub fn rolling(b: &Battery, how: Rolling) -> Result<Rolled> {
    let scope = b.scope("rolling")?;
    let service = scope.service(APP, json!({}))?;
    let mut pods: Vec<String> = (0..PODS).map(|slot| format!("roll-0-{slot}")).collect();
    for (slot, pod) in pods.iter().enumerate() {
        begin(b, &scope, pod, slot)?;
    }
    let asks = match how.through {
        Through::Service => by_service(&service)?,
        Through::Ingress => by_ingress(b, &scope)?,
    };
    for ask in &asks {
        b.expect(Ask { count: 1, threads: 1, gap: 0, rate: 0, summary: false, keep: false, ..ask.clone() })
            .within(Duration::from_secs(10))
            .reaches(&pods.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let clients: Vec<(&str, Running)> =
        asks.iter().map(|ask| Ok((ask.from.as_str(), b.asking(ask)?))).collect::<Result<_>>()?;
    let (start, done) = (Instant::now(), AtomicBool::new(false));
    let disturbed = std::thread::scope(|scope_of_threads| {
        let other = scope_of_threads.spawn(|| disturb(b, how.agents, &done));
        let rolled = roll_all(b, &scope, &how, &mut pods);
        done.store(true, Ordering::Relaxed);
        let disturbed = other.join().unwrap_or_else(|_| bail!("the thread that disturbs panicked"));
        rolled.and(disturbed)
    });
    let took = start.elapsed();
    let mut all = Rolled::default();
    for (from, client) in clients {
        all.add(from, &client.finish()?)?;
    }
    all.disturbed = disturbed?;
    println!("rolling: {how:?}");
    println!(
        "rolling: {} pods replaced in {:.0} s, {} agents disturbed, {:.0} attempts a second, {} of {} failed, the slowest answer took {} ms, the longest gap was {} ms",
        how.rolls * PODS,
        took.as_secs_f64(),
        all.disturbed,
        all.asked as f64 / took.as_secs_f64(),
        all.failed,
        all.asked,
        all.slowest,
        all.gap
    );
    for pod in &pods {
        end(b, &scope, pod)?;
    }
    Ok(all)
}

impl Rolled {
    /// Adds what one client said.
    fn add(&mut self, from: &str, text: &str) -> Result<()> {
        let lines: Vec<&str> = text.lines().collect();
        let (last, failures) = lines.split_last().with_context(|| format!("{from} says nothing"))?;
        let sum: Summary = serde_json::from_str(last).with_context(|| (*last).to_owned())?;
        println!(
            "rolling: {from}: {} of {} attempts answered, the slowest after {} ms",
            sum.answered, sum.asked, sum.slowest
        );
        failures.iter().take(5).for_each(|f| println!("rolling: {from}: {f}"));
        ensure!(sum.asked > 100, "{from} asked only {} times", sum.asked);
        self.asked += sum.asked;
        self.failed += sum.asked - sum.answered;
        self.slowest = self.slowest.max(sum.slowest);
        let mut failures: Vec<Failure> =
            failures.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
        failures.sort_by_key(|failure| failure.at);
        let (mut since, mut until) = (0, 0);
        for Failure { at, ms } in failures {
            if at > until + ONE_GAP {
                since = at;
            }
            until = until.max(at + ms);
            self.gap = self.gap.max(until - since);
        }
        Ok(())
    }
}

/// A client that asks until it is told to finish.
fn client(from: &str, target: SocketAddr) -> Ask {
    Ask { count: 0, gap: 10, timeout: 5000, summary: true, ..Ask::tcp(from, target) }
}

fn by_service(service: &Svc) -> Result<Vec<Ask>> {
    let places = ["n1a", "n2a", "n3a", "node-1", "node-2", "node-3"];
    let ask = |(n, from): (usize, &&str)| Ok(Ask { threads: 2, ..client(from, service.at(n % 2 == 1, 80)?) });
    places.iter().enumerate().map(ask).collect()
}

/// Makes the Ingress. From each place, one client keeps its connections and one opens one for each request.
fn by_ingress(b: &Battery, scope: &Scope<'_>) -> Result<Vec<Ask>> {
    let backend = json!({"service": {"name": APP, "port": {"number": 80}}});
    let rule =
        json!({"host": HOST, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    b.objects().apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": APP, "namespace": scope.namespace()},
        "spec": {"ingressClassName": "warren", "rules": [rule]},
    }))?;
    let places = ["n1a", "n2a", "n3a", "outside", "node-2", "node-3"];
    let mut asks = Vec::new();
    for (n, from) in places.iter().enumerate() {
        let at = SocketAddr::new(b.address(NODES[n % NODES.len()], n % 2 == 1)?, 80);
        let ask = |keep, rate| Ask {
            http: Some(HOST.to_owned()),
            keep,
            rate,
            gap: 0,
            threads: WAITED_FOR,
            ..client(from, at)
        };
        asks.extend([ask(true, RATES.0), ask(false, RATES.1)]);
    }
    Ok(asks)
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

/// Disturbs agents until it is done; returns how many.
fn disturb(b: &Battery, how: Agents, done: &AtomicBool) -> Result<u64> {
    let pace = match how {
        Agents::Left => return Ok(0),
        Agents::Killed => Duration::from_secs(1),
        Agents::Restarted => Duration::from_secs(2),
    };
    let mut disturbed = 0;
    for node in NODES.iter().cycle() {
        let next = Instant::now() + pace;
        if done.load(Ordering::Relaxed) {
            return Ok(disturbed);
        }
        if how == Agents::Killed {
            b.lab().lab(&["kill", node, "--process", "agent"])?;
        }
        disturbed += 1;
        // A service manager waits ever longer before it starts again what dies so often; one that is told to does not.
        b.lab().lab(&["service", node, "stop", "agent"])?;
        b.lab().lab(&["service", node, "start", "agent"])?;
        while let Some(rest) = next.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(rest);
        }
    }
    Ok(disturbed)
}
