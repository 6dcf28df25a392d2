//! One round of questions, from the pod that asks: a plan, which is pure, and its execution.

use crate::ask::{self, Answer, unspecified};
use crate::echo::{HTTP_PORT, PORT};
use crate::names;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use warren_types::NodeName;
use warren_types::connectivity::{
    Check, CheckKind, ConnectivityRun, NAMESPACE, Outcome, RunPhase, answerer, ingress_host,
};

/// How long one try may take; there are several in the time that a question has.
const TRY: Duration = Duration::from_millis(1500);
/// The wait between two tries.
const AGAIN: Duration = Duration::from_millis(100);
/// Round trips of which the latency is the median.
const ROUNDS: usize = 11;
/// Tries in a row that must fail before a port counts as closed.
const CLOSED: usize = 2;
/// Sizes of IP packets by which a path that is too narrow is measured; the link's own MTU is added.
const SIZES: [u32; 12] = [576, 1000, 1200, 1240, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420];
/// How long answers to packets of these sizes are waited for, in a try.
const SIZES_WAIT: Duration = Duration::from_millis(500);
/// The API's own name, below the cluster's domain.
const API: &str = "kubernetes.default.svc";

/// Who asks, and of whom.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) run: ConnectivityRun,
    /// Addresses of the pod that asks.
    pub(crate) own: Vec<IpAddr>,
    /// MTU of its link.
    pub(crate) mtu: u32,
    /// Where cluster DNS answers; empty where it is off.
    pub(crate) dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub(crate) domain: String,
    /// Whether outside names are denied by configuration.
    pub(crate) offline: bool,
}

/// What is asked, and which answer is right.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    /// `seen`: the address of the one who asks must arrive as it is.
    Tcp {
        to: SocketAddr,
        name: String,
        seen: bool,
    },
    Udp {
        to: SocketAddr,
        name: String,
    },
    Http {
        to: SocketAddr,
        host: String,
        name: String,
    },
    /// Nobody must answer.
    Closed {
        to: SocketAddr,
    },
    Mtu {
        to: SocketAddr,
        mtu: u32,
    },
    /// `right`: what the name must lead to; none: anything.
    Name {
        server: IpAddr,
        name: String,
        right: Option<BTreeSet<IpAddr>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    to: Option<NodeName>,
    kind: CheckKind,
    address: Option<IpAddr>,
    /// Or why it cannot be asked.
    question: Result<Question, String>,
}

/// Why an answer is not the right one.
#[derive(Debug, Default)]
struct Fault {
    why: String,
    bytes: Option<u32>,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self { why: error.to_string(), bytes: None }
    }
}

impl Round {
    /// Everything that is asked in this phase.
    fn plan(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for (number, (node, target)) in self.run.targets.iter().enumerate() {
            let name = answerer(number);
            let mut put = |kind, address: Option<IpAddr>, question| {
                items.push(Item { to: Some(node.clone()), kind, address, question });
            };
            let ours = |addresses: &[IpAddr]| -> Vec<IpAddr> {
                let has = |ip: &IpAddr| self.own.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
                addresses.iter().copied().filter(has).collect()
            };
            for ip in ours(&target.pod) {
                let (echo, http) = (SocketAddr::new(ip, PORT), SocketAddr::new(ip, HTTP_PORT));
                let tcp = || Question::Tcp { to: echo, name: name.clone(), seen: true };
                let over_http = Question::Http { to: http, host: http.to_string(), name: name.clone() };
                if self.run.phase == RunPhase::Policy {
                    put(CheckKind::Allowed, Some(ip), Ok(tcp()));
                    put(CheckKind::Denied, Some(ip), Ok(Question::Closed { to: http }));
                } else {
                    put(CheckKind::Tcp, Some(ip), Ok(tcp()));
                    put(CheckKind::Udp, Some(ip), Ok(Question::Udp { to: echo, name: name.clone() }));
                    put(CheckKind::Open, Some(ip), Ok(over_http));
                    put(CheckKind::Mtu, Some(ip), Ok(Question::Mtu { to: echo, mtu: self.mtu }));
                }
            }
            if self.run.phase == RunPhase::Policy {
                continue;
            }
            for ip in ours(&target.service) {
                let to = SocketAddr::new(ip, PORT);
                let question = Question::Tcp { to, name: name.clone(), seen: false };
                put(CheckKind::Service, Some(ip), Ok(question));
            }
            if target.node.is_empty() {
                // A node that came a moment ago. What is not asked is told, not left out.
                for kind in [CheckKind::NodePort, CheckKind::Ingress] {
                    put(kind, None, Err("its Node object has no InternalIP".into()));
                }
            }
            for ip in ours(&target.node) {
                let question = target.node_port.map(|port| Question::Tcp {
                    to: SocketAddr::new(ip, port),
                    name: name.clone(),
                    seen: false,
                });
                put(
                    CheckKind::NodePort,
                    Some(ip),
                    question.ok_or_else(|| "the Service has no node port".into()),
                );
                let question = target.ingress_port.map(|port| Question::Http {
                    to: SocketAddr::new(ip, port),
                    host: ingress_host(number),
                    name: name.clone(),
                });
                put(CheckKind::Ingress, Some(ip), question.ok_or_else(|| "ingress is off there".into()));
            }
            if !target.service.is_empty() {
                let right: BTreeSet<IpAddr> = target.service.iter().copied().collect();
                self.put_name(
                    &mut put,
                    CheckKind::Dns,
                    &format!("{name}.{NAMESPACE}.svc.{}", self.domain),
                    Some(&right),
                );
            }
        }
        if self.run.phase == RunPhase::Ask {
            let mut put = |kind, address, question| items.push(Item { to: None, kind, address, question });
            self.put_name(&mut put, CheckKind::Dns, &format!("{API}.{}", self.domain), None);
            match &self.run.outside {
                None => put(CheckKind::DnsOutside, None, Err("no outside name was given".into())),
                Some(_) if self.offline => {
                    put(CheckKind::DnsOutside, None, Err("outside names are denied by configuration".into()));
                }
                Some(name) => self.put_name(&mut put, CheckKind::DnsOutside, name, None),
            }
        }
        items
    }

    /// A name, asked at each address of cluster DNS that this pod can reach.
    fn put_name(
        &self,
        put: &mut impl FnMut(CheckKind, Option<IpAddr>, Result<Question, String>),
        kind: CheckKind,
        name: &str,
        right: Option<&BTreeSet<IpAddr>>,
    ) {
        let reached = |ip: &&IpAddr| self.own.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        let mut none = true;
        for server in self.dns.iter().filter(reached) {
            let question = Question::Name { server: *server, name: name.into(), right: right.cloned() };
            put(kind, Some(*server), Ok(question));
            none = false;
        }
        if none {
            put(kind, None, Err("cluster DNS is off on this node".into()));
        }
    }

    /// Asks everything at once but for the largest packets, then those, then measures latency without anything else under
    /// way: a narrow path, or a busy tunnel, loses what comes in a burst.
    pub(crate) async fn ask(&self) -> Vec<Check> {
        let limit = Duration::from_millis(self.run.timeout_ms);
        let (last, first): (Vec<Item>, Vec<Item>) =
            self.plan().into_iter().partition(|item| item.kind == CheckKind::Mtu);
        let mut checks = Vec::new();
        for wave in [first, last] {
            let mut asked = JoinSet::new();
            for (place, item) in wave.into_iter().enumerate() {
                asked.spawn(async move { (place, judge(item, limit).await) });
            }
            let judged: BTreeMap<usize, Check> = asked.join_all().await.into_iter().collect();
            checks.extend(judged.into_values());
        }
        let timed = |c: &&mut Check| c.kind == CheckKind::Udp && c.outcome == Outcome::Held;
        for check in checks.iter_mut().filter(timed) {
            if let Some(ip) = check.address {
                check.latency_micros = latency(SocketAddr::new(ip, PORT)).await;
            }
        }
        checks
    }
}

async fn judge(item: Item, limit: Duration) -> Check {
    let Item { to, kind, address, question } = item;
    let mut check = Check {
        to,
        kind,
        address,
        outcome: Outcome::Held,
        why: String::new(),
        latency_micros: None,
        bytes: None,
    };
    match question {
        Err(why) => (check.outcome, check.why) = (Outcome::NotChecked, why),
        Ok(Question::Closed { to }) => {
            if !is_closed(to, limit).await {
                check.outcome = Outcome::Failed;
                check.why = "it answers, though the policy denies it".into();
            }
        }
        Ok(question) => match held(&question, limit).await {
            Ok(bytes) => check.bytes = bytes,
            Err(Fault { why, bytes }) => {
                (check.outcome, check.why, check.bytes) = (Outcome::Failed, why, bytes);
            }
        },
    }
    check
}

/// Tries until the answer is right: Services, names and policies take a moment to arrive everywhere.
async fn held(question: &Question, limit: Duration) -> Result<Option<u32>, Fault> {
    let end = Instant::now() + limit;
    let mut fault = Fault { why: "no answer".into(), bytes: None };
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(fault);
        }
        match timeout(left.min(TRY), attempt(question)).await {
            Ok(Ok(bytes)) => return Ok(bytes),
            // What was measured once is more than that something was lost later.
            Ok(Err(found)) if found.bytes >= fault.bytes => fault = found,
            Ok(Err(_)) => {}
            Err(_) if fault.bytes.is_none() => fault.why = "no answer".into(),
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN.min(left)).await;
    }
}

async fn attempt(question: &Question) -> Result<Option<u32>, Fault> {
    match question {
        Question::Tcp { to, name, seen } => right(&ask::tcp(*to).await?, name, *seen)?,
        Question::Udp { to, name } => right(&ask::udp(*to).await?, name, true)?,
        Question::Http { to, host, name } => right(&ask::http(*to, host).await?, name, false)?,
        Question::Closed { .. } => {}
        Question::Mtu { to, mtu } => return largest(*to, *mtu).await.map(Some),
        Question::Name { server, name, right } => {
            let found: BTreeSet<IpAddr> = names::resolve(*server, name).await?.into_iter().collect();
            let why = match right {
                Some(right) if *right != found => format!("{name} leads to {found:?} instead of {right:?}"),
                None if found.is_empty() => format!("{name} has no address"),
                _ => return Ok(None),
            };
            return Err(Fault { why, bytes: None });
        }
    }
    Ok(None)
}

fn right(answer: &Answer, name: &str, as_itself: bool) -> Result<(), Fault> {
    let Answer { name: found, seen, own } = answer;
    let why = if found != name {
        format!("{found} answered instead of {name}")
    } else if as_itself && seen != own {
        format!("seen as {seen} instead of {own}")
    } else {
        return Ok(());
    };
    Err(Fault { why, bytes: None })
}

/// Whether nobody answers at `to` any more.
async fn is_closed(to: SocketAddr, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut silent = 0;
    while silent < CLOSED {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match timeout(left.min(TRY), ask::http(to, "closed")).await {
            Ok(Ok(_)) => silent = 0,
            _ => silent += 1,
        }
        tokio::time::sleep(AGAIN).await;
    }
    true
}

/// The largest packet that passes in one piece. It may be smaller than the link's MTU where the node says so, as it does of
/// tunnels that are narrower than others: senders heed that. What is lost without a word is a fault.
async fn largest(to: SocketAddr, mtu: u32) -> Result<u32, Fault> {
    let socket = UdpSocket::bind((unspecified(to.ip()), 0)).await?;
    socket.connect(to).await?;
    warren_netlink::sockopt::forbid_fragments(&socket, to.is_ipv4())?;
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let smaller: Vec<u32> = SIZES.into_iter().filter(|s| *s < mtu).collect();
    let (mut found, mut told, mut buffer) = (0, false, vec![0; 2048]);
    // The smaller ones only when it has to be measured.
    for sizes in [&[mtu][..], &smaller] {
        for size in sizes {
            let mut payload = format!("{size} ").into_bytes();
            payload.resize(size.saturating_sub(headers) as usize, b'.');
            // A refusal may be that of the packet before, whose word has just come: then this one was not sent.
            for _ in 0..2 {
                match socket.send(&payload).await {
                    Ok(_) => break,
                    Err(e) => told |= is_too_large(&e),
                }
            }
        }
        let end = Instant::now() + SIZES_WAIT;
        let most = sizes.iter().max().copied().unwrap_or_default();
        while found < most {
            let length = match tokio::time::timeout_at(end, socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => length,
                Ok(Err(e)) if is_too_large(&e) && most == mtu => {
                    told = true;
                    break;
                }
                Ok(Err(e)) if is_too_large(&e) => continue,
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => break,
            };
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            // NAME ADDRESS SIZE ...
            let size = text.split_whitespace().nth(2).and_then(|word| word.parse::<u32>().ok());
            found = size.filter(|s| sizes.contains(s)).unwrap_or(0).max(found);
        }
        if found >= mtu {
            break;
        }
    }
    match found {
        0 => Err(Fault { why: "no answer".into(), bytes: None }),
        _ if told || found >= mtu => Ok(found),
        _ => {
            let why = format!(
                "packets of more than {found} bytes are lost without a word; the link's MTU is {mtu}"
            );
            Err(Fault { why, bytes: Some(found) })
        }
    }
}

/// Whether a router, or this host, has said that a packet is too large for the way.
fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EMSGSIZE)
}

/// Shortest and median time of a round trip, in microseconds.
async fn latency(to: SocketAddr) -> Option<(u64, u64)> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        if let Ok(Ok(_)) = timeout(TRY, ask::udp(to)).await {
            times.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    times.sort_unstable();
    Some((*times.first()?, *times.get(times.len() / 2)?))
}

#[cfg(test)]
mod tests;
