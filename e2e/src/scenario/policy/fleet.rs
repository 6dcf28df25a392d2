//! Nine pods of three namespaces on two nodes, which all serve and all ask.

use super::case::{Stage, key};
use super::naive::{Cluster, End, Labels, Pod};
use super::prober::{By, Prober, Seen, Target};
use crate::battery::{FAMILIES, Objects, Running, family};
use crate::lab::{self, Lab, netns_of, warren_bin};
use crate::patient;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use warren_types::{cluster::dns_address, defaults};

/// Pod, namespace and node. The name in the API is that in the lab.
const PODS: [(&str, &str, &str); 9] = [
    ("x-a", "x", "node-1"),
    ("x-b", "x", "node-2"),
    ("x-c", "x", "node-1"),
    ("y-a", "y", "node-1"),
    ("y-b", "y", "node-2"),
    ("y-c", "y", "node-2"),
    ("z-a", "z", "node-2"),
    ("z-b", "z", "node-1"),
    ("z-c", "z", "node-2"),
];
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NODES: [&str; 2] = ["node-1", "node-2"];
/// All serve these, by TCP and UDP.
const PORTS: [u16; 2] = [80, 81];
/// Behind a Service each: its port 80 leads to 81, and 81 to 80.
const BEHIND_SERVICES: [&str; 3] = ["x-a", "y-b", "z-c"];
/// So long may a change take until all questions agree with it.
const SETTLED: Duration = Duration::from_secs(5);

/// A question of the table.
struct Question {
    from: String,
    to: String,
    at: SocketAddr,
    by: By,
    /// Of the backend.
    port: u16,
    service: bool,
}

/// What a table cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// Tables compared.
    pub(super) tables: usize,
    /// Questions asked, again and again ones too.
    pub(super) questions: usize,
}

/// The lab, the pods, who asks in them, and what is expected of them.
pub(super) struct Fleet {
    // Ended before the lab.
    _servers: Vec<Running>,
    probers: BTreeMap<String, Prober>,
    objects: Objects,
    questions: Vec<Question>,
    /// As whom a node's questions to an address are seen.
    sources: BTreeMap<(String, IpAddr), IpAddr>,
    addresses: BTreeMap<String, String>,
    cluster: Cluster,
    /// The cluster as it was before the case.
    plain: Cluster,
    last: Vec<bool>,
    cost: Cost,
    lab: Lab,
}

/// Where a server answers: its name and its addresses.
struct Place {
    name: String,
    ips: Vec<IpAddr>,
}

impl Fleet {
    /// Brings all of it up, and sees that without policies everyone reaches everyone. `whoami` is the program of this name.
    ///
    /// # Errors
    /// When something does not come up, or somebody does not reach somebody.
    pub(super) fn up(test: &str, whoami: &str) -> Result<Self> {
        let lab = Lab::up(test, &["--nodes", "2", "--dual-stack", "--pods", "0"])?;
        let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
        let mut cluster = Cluster::default();
        for name in NAMESPACES {
            let made = objects.apply(&json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"ns": name}}}))?;
            cluster.namespaces.insert(name.to_owned(), labels(&made));
        }
        let mut places = Vec::new();
        for (name, namespace, node) in PODS {
            let (running, pod) = start(&lab, whoami, name, namespace, node)?;
            cluster.pods.insert(name.to_owned(), pod);
            places.push(Place { name: name.to_owned(), ips: running.ips });
        }
        let nodes = lab.status()?.nodes;
        places.extend(nodes.iter().map(|n| Place { name: n.name.clone(), ips: n.addresses.clone() }));
        let mut servers = Vec::new();
        for place in NODES.into_iter().chain(["outside"]) {
            servers.push(serve(&lab, whoami, place)?);
        }
        places.push(Place { name: "outside".into(), ips: outside(&lab, whoami)? });

        let mut probers = BTreeMap::new();
        for pod in lab.status()?.pods {
            let pid = pod.pid.with_context(|| format!("{} does not run", pod.name))?;
            probers.insert(pod.name, Prober::start(&netns_of(pid))?);
        }
        for node in NODES {
            probers.insert(node.to_owned(), Prober::start(&lab.node_ns(node)?)?);
        }
        let services = services(&objects, &cluster)?;
        let addresses = addresses(&objects, &places)?;
        let mut fleet = Self {
            _servers: servers,
            probers,
            objects,
            questions: questions(&places, &services)?,
            sources: BTreeMap::new(),
            addresses,
            plain: cluster.clone(),
            cluster,
            last: Vec::new(),
            cost: Cost::default(),
            lab,
        };
        fleet.learn()?;
        Ok(fleet)
    }

    /// Takes the lab down; the test passed.
    ///
    /// # Errors
    /// When it does not go down.
    pub(super) fn done(self) -> Result<()> {
        let Self { _servers: servers, probers, lab, .. } = self;
        drop((servers, probers));
        lab.done()
    }

    /// The addresses of pods and nodes, by what data files call them.
    #[must_use]
    pub(super) fn addresses(&self) -> &BTreeMap<String, String> {
        &self.addresses
    }

    /// The cluster as it should be.
    #[must_use]
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What was done so far.
    #[must_use]
    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    /// Brings a stage to the API and to what is expected.
    ///
    /// # Errors
    /// When the API refuses something.
    pub(super) fn apply(&mut self, stage: &Stage) -> Result<()> {
        let mut next = self.cluster.clone();
        next.take(stage)?;
        self.cluster = next;
        for (name, changes) in &stage.namespaces {
            self.objects.merge("Namespace", "", name, &json!({"metadata": {"labels": changes}}))?;
        }
        for (name, changes) in &stage.pods {
            let namespace = &self.cluster.pods.get(name).context("a pod is gone")?.namespace;
            self.objects.merge("Pod", namespace, name, &json!({"metadata": {"labels": changes}}))?;
        }
        for name in &stage.remove {
            let (namespace, name) = key(name);
            let gone = self.objects.delete("NetworkPolicy", &namespace, &name, None);
            // After a case that failed in the middle, it may never have been there.
            if self.objects.get("NetworkPolicy", &namespace, &name).is_ok() {
                gone?;
            }
        }
        for (name, spec) in &stage.policies {
            let (namespace, name) = key(name);
            self.objects.apply(&json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec}))?;
        }
        Ok(())
    }

    /// Back to where no policy is and all labels are as they were.
    ///
    /// # Errors
    /// When the API refuses something.
    pub(super) fn reset(&mut self) -> Result<()> {
        let back = |now: &Labels, then: &Labels| -> Map<String, Value> {
            let gone = now.keys().filter(|k| !then.contains_key(*k)).map(|k| (k.clone(), Value::Null));
            let changed = then.iter().filter(|(k, v)| now.get(*k) != Some(v));
            gone.chain(changed.map(|(k, v)| (k.clone(), v.as_str().into()))).collect()
        };
        let mut stage = Stage {
            remove: self.cluster.policies.keys().map(|(ns, name)| format!("{ns}/{name}")).collect(),
            ..Stage::default()
        };
        for (name, pod) in &self.cluster.pods {
            let then = self.plain.pods.get(name).map(|p| back(&pod.labels, &p.labels));
            stage.pods.extend(then.filter(|c| !c.is_empty()).map(|c| (name.clone(), c)));
        }
        for (name, now) in &self.cluster.namespaces {
            let then = self.plain.namespaces.get(name).map(|then| back(now, then));
            stage.namespaces.extend(then.filter(|c| !c.is_empty()).map(|c| (name.clone(), c)));
        }
        self.apply(&stage)
    }

    /// Asks everything until it agrees with what is expected, at once and as a whole; returns how long that took, and how
    /// many questions are denied.
    ///
    /// # Errors
    /// The questions that do not agree, when the time for that has passed.
    pub(super) fn compare(&mut self) -> Result<(Duration, usize)> {
        let expected: Vec<bool> = (0..self.questions.len()).map(|n| self.expected(n)).collect();
        let all: Vec<usize> = (0..self.questions.len()).collect();
        let begun = Instant::now();
        self.cost.tables += 1;
        // First what is to change, until it has; then everything must hold as a whole. Where nothing is to change, one look at
        // everything may be too early to see what changed all the same.
        let changed = |n: &usize| self.last.get(*n) != expected.get(*n);
        let mut asked: Vec<usize> = all.iter().copied().filter(changed).collect();
        let mut looks = 1;
        if asked.is_empty() {
            (asked, looks) = (all.clone(), 2);
        }
        while looks > 0 {
            let seen = self.ask(&asked, &expected)?;
            let agrees = |(n, seen): &(usize, Seen)| match seen {
                Seen::Answer(who, _) => {
                    expected.get(*n) == Some(&true)
                        && (who.is_empty() || self.questions.get(*n).is_some_and(|q| q.to == *who))
                }
                Seen::Silence => expected.get(*n) == Some(&false),
                Seen::Other(_) => false,
            };
            let wrong: Vec<(usize, Seen)> = seen.into_iter().filter(|s| !agrees(s)).collect();
            if !wrong.is_empty() && begun.elapsed() > patient(SETTLED) {
                anyhow::bail!("{}", self.told(&expected, &wrong));
            }
            // What disagreed is asked again alone; once it agrees, everything is.
            if !wrong.is_empty() {
                asked = wrong.into_iter().map(|(n, _)| n).collect();
            } else if asked.len() < all.len() {
                asked.clone_from(&all);
            } else {
                looks -= 1;
            }
        }
        let denied = expected.iter().filter(|allowed| !**allowed).count();
        self.last = expected;
        Ok((begun.elapsed(), denied))
    }

    fn told(&self, expected: &[bool], wrong: &[(usize, Seen)]) -> String {
        let mut lines = vec![format!("{} of {} questions disagree", wrong.len(), expected.len())];
        for (n, seen) in wrong.iter().take(24) {
            let Some(q) = self.questions.get(*n) else { continue };
            let want = if expected.get(*n) == Some(&true) { "allowed" } else { "denied" };
            let way = if q.service { format!(" (Service, backend port {})", q.port) } else { String::new() };
            lines.push(format!("  {} -> {} {} {:?}{way}: {want}, seen {seen:?}", q.from, q.to, q.at, q.by));
        }
        for ((namespace, name), spec) in &self.cluster.policies {
            lines.push(format!("  policy {namespace}/{name}: {}", json!(spec)));
        }
        lines.join("\n")
    }

    /// Questions that are asked at once; with what came of each.
    fn ask(&mut self, which: &[usize], expected: &[bool]) -> Result<Vec<(usize, Seen)>> {
        self.cost.questions += which.len();
        let mut by_place: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for n in which {
            let question = self.questions.get(*n).context("no such question")?;
            by_place.entry(&question.from).or_default().push(*n);
        }
        let prober = |place: &str| self.probers.get(place).with_context(|| format!("nobody asks in {place}"));
        for (place, own) in &by_place {
            let target = |n: &usize| {
                let question = self.questions.get(*n)?;
                Some(Target { at: question.at, by: question.by, answered: expected.get(*n) == Some(&true) })
            };
            prober(place)?.order(own.iter().filter_map(target).collect())?;
        }
        let mut seen = Vec::with_capacity(which.len());
        for (place, own) in by_place {
            seen.extend(own.into_iter().zip(prober(place)?.answers()?));
        }
        Ok(seen)
    }

    fn expected(&self, n: usize) -> bool {
        let Some(q) = self.questions.get(n) else { return false };
        // Of cluster DNS, every node's own server answers.
        if q.by == By::Dns {
            return true;
        }
        let of = |name: &str| {
            self.cluster.pods.get(name)?.ips.iter().find(|ip| ip.is_ipv6() == q.at.is_ipv6()).copied()
        };
        let source = of(&q.from)
            .or_else(|| self.sources.get(&(q.from.clone(), q.at.ip())).copied())
            .unwrap_or(q.at.ip());
        let target = of(&q.to).unwrap_or(q.at.ip());
        let protocol = if q.by == By::Tcp { "TCP" } else { "UDP" };
        let (from, to) = (End { name: &q.from, ip: source }, End { name: &q.to, ip: target });
        self.cluster.allows(&from, &to, protocol, q.port)
    }

    /// Without a policy everyone is answered; from which addresses nodes ask is learned by that.
    fn learn(&mut self) -> Result<()> {
        self.compare().context("before there was any policy")?;
        let by_node = |q: &Question| NODES.contains(&q.from.as_str()) && q.by == By::Udp;
        let nodes: Vec<usize> =
            self.questions.iter().enumerate().filter(|(_, q)| by_node(q)).map(|(n, _)| n).collect();
        let all = vec![true; self.questions.len()];
        for (n, seen) in self.ask(&nodes, &all)? {
            let Seen::Answer(_, Some(source)) = seen else {
                anyhow::bail!("a node's question was not answered: {seen:?}")
            };
            let question = self.questions.get(n).context("no such question")?;
            self.sources.insert((question.from.clone(), question.at.ip()), source);
        }
        let seen: BTreeSet<(&str, &IpAddr)> =
            self.sources.iter().map(|((from, _), ip)| (from.as_str(), ip)).collect();
        println!("policy: nodes ask from {seen:?}");
        Ok(())
    }
}

fn labels(object: &Value) -> Labels {
    let all = object.pointer("/metadata/labels").and_then(Value::as_object);
    all.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn start(lab: &Lab, whoami: &str, name: &str, namespace: &str, node: &str) -> Result<(lab::Pod, Pod)> {
    let app = name.trim_start_matches(namespace).trim_start_matches('-');
    // A name is another port on the pods `c`.
    let (web, alt) = if app == "c" { (81, 80) } else { (80, 81) };
    let ports = [("web", "TCP", web), ("alt", "TCP", alt), ("dgram", "UDP", web)];
    let named: Vec<String> =
        ports.iter().map(|(name, protocol, port)| format!("--port={name}={port}/{protocol}")).collect();
    let label = format!("pod={app}");
    let mut all = vec!["run", name, "--node", node, "--namespace", namespace, "--label", &label];
    all.extend(named.iter().map(String::as_str));
    all.extend(["--output", "json", "--", whoami, "serve", "--name", name]);
    all.extend(["--tcp", "80,81", "--udp", "80,81"]);
    let text = lab.lab(&all)?;
    let running: lab::Pod = serde_json::from_str(&text).with_context(|| format!("warren lab run: {text}"))?;
    let pod = Pod {
        namespace: namespace.to_owned(),
        node: node.to_owned(),
        labels: Labels::from([("pod".to_owned(), app.to_owned())]),
        ips: running.ips.clone(),
        ports: ports.map(|(name, protocol, port)| (name.to_owned(), protocol.to_owned(), port)).into(),
    };
    Ok((running, pod))
}

fn command(lab: &Lab, place: &str, words: &[&str]) -> Command {
    let mut command = Command::new(warren_bin());
    command.args(["lab", "exec", "--name", lab.name(), place, "--"]).args(words);
    command
}

/// Starts a server in a node, or outside, that is called as its place.
fn serve(lab: &Lab, whoami: &str, place: &str) -> Result<Running> {
    let words = [whoami, "serve", "--name", place, "--tcp", "80,81", "--udp", "80,81"];
    let mut child = command(lab, place, &words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("the server has no stdout")?;
    let running = Running::of(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line.trim() == "ready", "the server in {place} says {line:?}");
    Ok(running)
}

fn outside(lab: &Lab, whoami: &str) -> Result<Vec<IpAddr>> {
    let all: Vec<IpAddr> = serde_json::from_str(&lab.exec("outside", &[whoami, "addresses"])?)?;
    Ok(all.into_iter().filter(|ip| !ip.is_loopback()).collect())
}

/// The cluster addresses of the Services, by the pod behind each.
fn services(objects: &Objects, cluster: &Cluster) -> Result<Vec<(&'static str, Vec<IpAddr>)>> {
    let mut made = Vec::new();
    for name in BEHIND_SERVICES {
        let pod = cluster.pods.get(name).with_context(|| format!("there is no pod {name}"))?;
        let port = |protocol: &str, port: u16| {
            let name = format!("{}-{port}", protocol.to_lowercase());
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": 161 - port})
        };
        let ports: Vec<Value> = ["TCP", "UDP"].iter().flat_map(|p| PORTS.map(|n| port(p, n))).collect();
        let service = objects.apply(&json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": pod.namespace},
            "spec": {"selector": pod.labels, "ipFamilyPolicy": "RequireDualStack", "ports": ports}}))?;
        let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
        let ips = ips.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        made.push((name, ips));
    }
    Ok(made)
}

/// `@POD.v4` and `@POD.v6` are its addresses, `@NODE.pods.v4` the range of a node's pods.
fn addresses(objects: &Objects, places: &[Place]) -> Result<BTreeMap<String, String>> {
    let word = |v6: bool| if v6 { "v6" } else { "v4" };
    let mut all = BTreeMap::new();
    for place in places {
        for ip in &place.ips {
            // Questions go to the first of a family.
            all.entry(format!("@{}.{}", place.name, word(ip.is_ipv6()))).or_insert_with(|| ip.to_string());
        }
    }
    for node in objects.list("Node", "")? {
        let name = node.pointer("/metadata/name").and_then(Value::as_str).context("a node has no name")?;
        let ranges = node.pointer("/spec/podCIDRs").and_then(Value::as_array);
        for range in ranges.into_iter().flatten().filter_map(Value::as_str) {
            all.insert(format!("@{name}.pods.{}", word(range.contains(':'))), range.to_owned());
        }
    }
    Ok(all)
}

/// Every pod asks every pod, node, Service and the outside; every node every pod; each by each protocol, port and family.
fn questions(places: &[Place], services: &[(&'static str, Vec<IpAddr>)]) -> Result<Vec<Question>> {
    let is_pod = |name: &str| PODS.iter().any(|(pod, ..)| *pod == name);
    let mut all = Vec::new();
    for from in PODS.iter().map(|(name, ..)| *name).chain(NODES) {
        let targets = places.iter().filter(|to| is_pod(from) || is_pod(&to.name));
        let direct = targets.map(|to| (to.name.as_str(), &to.ips, false));
        let through = services.iter().filter(|_| is_pod(from)).map(|(to, ips)| (*to, ips, true));
        for (to, ips, service) in direct.chain(through) {
            for v6 in FAMILIES {
                let ip = ips.iter().find(|ip| ip.is_ipv6() == v6);
                let ip = *ip.with_context(|| format!("{to} has no address of {}", family(v6)))?;
                for (by, port) in [By::Tcp, By::Udp].iter().flat_map(|by| PORTS.map(|port| (*by, port))) {
                    let (at, from, to) = (SocketAddr::new(ip, port), from.to_owned(), to.to_owned());
                    let port = if service { 161 - port } else { port };
                    all.push(Question { from, to, at, by, port, service });
                }
            }
        }
        for range in [defaults::SERVICE_CIDR_V4, defaults::SERVICE_CIDR_V6].iter().filter(|_| is_pod(from)) {
            let ip = dns_address(&range.parse()?).context("cluster DNS has no address")?;
            let at = SocketAddr::new(ip, 53);
            let (from, to) = (from.to_owned(), "dns".to_owned());
            all.push(Question { from, to, at, by: By::Dns, port: 53, service: true });
        }
    }
    Ok(all)
}
