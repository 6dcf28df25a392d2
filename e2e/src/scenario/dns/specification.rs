//! The specification as data: the states of `pkg/dns/testdata/specification.txt` as objects of a lab's API, its questions by
//! `dig` over both protocols and both families.
//!
//! What differs from the file: its nodes are called `spec-N`, since a lab has nodes of the names there; and the zone whose
//! range is none of a lab's has its addresses in one of them.

use super::{Names, OUTSIDE, SERVERS};
use crate::battery::Battery;
use crate::dig::{Dig, Reply};
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use table::{Case, Question};
use warren_types::{EndpointSlice, Node, Pod, Service, ServiceKind};

#[path = "../../../../pkg/dns/testdata/table.rs"]
#[expect(clippy::unwrap_used, unreachable_pub, reason = "a fault of the file ends the test")]
mod table;

const FILE: &str = include_str!("../../../../pkg/dns/testdata/specification.txt");
/// Zones that are played, and where: the pods of a node whose agent has these settings.
const PLAYED: [(&str, &str, &str); 4] = [
    ("a cluster with everything", "n1a", ""),
    ("an endpoint that moves between slices, and one outside the cluster", "n1a", ""),
    ("pods have no names", "n2a", "dns-pod-names: disabled\n"),
    ("every address is a pod", "n3a", "dns-pod-names: insecure\n"),
];
/// Zones that are not, and why.
const LEFT_OUT: [(&str, &str); 3] = [
    (
        "a domain of one's own, and ranges that end within a label",
        "the API gives no Service two IPv4 addresses; a domain of one's own is a scenario of its own",
    ),
    ("nothing is known yet", "asked in the scenario of an agent that knows nothing"),
    ("what was known last is served", "asked in the scenario of a boot without the API"),
];
/// Questions that only Warren answers like this, by what is in their names.
const ONLY_WARREN: [&str; 9] = [
    ".node.cluster.local",
    "spec-",
    "SPEC-",
    "n2.example.org",
    "_tcp.",
    "192.in-addr.arpa",
    "168.192",
    "dns.cluster.local",
    "in-addr.arpa",
];
/// How long the API and all agents may take to know a state.
const SETTLED: Duration = Duration::from_secs(5);

/// The file, with the differences that the module names.
#[must_use]
fn cases() -> Vec<Case> {
    let text = FILE
        .replace("node-", "spec-")
        .replace("NODE-", "SPEC-")
        .replace("range 10.0.0.0/16", "range 10.42.0.0/16")
        .replace("10.0.0.5", "10.42.9.5")
        .replace("5.0.0.10.in-addr", "5.9.42.10.in-addr");
    table::read(&text)
}

/// The questions of a zone of the file.
///
/// # Errors
/// When there is no such zone.
fn case(title: &str) -> Result<Case> {
    cases().into_iter().find(|case| case.title == title).with_context(|| format!("no zone {title:?}"))
}

fn foreign() -> Result<Option<Vec<IpAddr>>> {
    let text = std::env::var("WARREN_BATTERY_DNS").unwrap_or_default();
    let all: Vec<IpAddr> =
        text.split(',').filter(|a| !a.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
    Ok(Some(all).filter(|all| !all.is_empty()))
}

/// The specification holds over real sockets.
///
/// # Errors
/// When an answer is another.
pub fn specification(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let other = foreign()?;
    let ours = other.is_none();
    let all = cases();
    let known: BTreeSet<&str> = PLAYED.iter().map(|p| p.0).chain(LEFT_OUT.iter().map(|l| l.0)).collect();
    for case in &all {
        ensure!(known.contains(&*case.title), "nobody says how zone {:?} is played", case.title);
    }
    let servers =
        other.map_or_else(|| SERVERS.iter().map(|s| Ok(s.parse()?)).collect::<Result<Vec<_>>>(), Ok)?;
    let mut made = Made { battery: b, objects: Vec::new() };
    let (mut asked, mut left) = (0, 0);
    for (title, from, settings) in PLAYED {
        let case = case(title)?;
        if !ours && !settings.is_empty() {
            println!("specification: {title:?}: left out, settings of another server are not changed");
            left += case.questions.len();
            continue;
        }
        made.state(&case)?;
        let node = Battery::node_of(from);
        if !settings.is_empty() {
            names.configure(&node, settings)?;
        }
        let mut questions = case.questions.clone();
        questions.retain(|q| ours || !ONLY_WARREN.iter().any(|part| q.name.contains(part)));
        questions.retain(|q| ours || !(q.result == "FORWARD" || q.result.starts_with("THEN")));
        left += case.questions.len() - questions.len();
        for (server, tcp) in servers.iter().flat_map(|s| [(*s, false), (*s, true)]) {
            let dig = Dig { tcp, ..Dig::new(from, server) };
            let ((), took) = eventually(SETTLED, || play(b, dig, &questions, ours))?;
            println!(
                "specification: {title:?}: {} questions to {server} by {}: as specified, {} ms",
                questions.len(),
                if tcp { "TCP" } else { "UDP" },
                took.as_millis()
            );
            asked += questions.len();
        }
        if !settings.is_empty() {
            names.configure(&node, "")?;
        }
    }
    for (title, why) in LEFT_OUT {
        let many = case(title)?.questions.len();
        println!("specification: {title:?}: {many} questions left out here: {why}");
        left += many;
    }
    println!("specification: {asked} questions asked, {left} of the file not");
    Ok(())
}

/// A cluster's domain of one's own: its names are there, and those of the usual domain are somebody else's.
///
/// # Errors
/// When they are not.
pub fn domain_of_ones_own(names: &Names<'_>) -> Result<()> {
    names.configure("node-3", "cluster-domain: k8s.home.example\n")?;
    let asked = (|| {
        let own = names.ask("n3a", "kubernetes.default.svc.k8s.home.example", "A")?;
        ensure!(own.authoritative() && own.data("A") == [super::KUBERNETES_IP], "{own:?}");
        let gone = names.ask("n3a", "nothing.default.svc.k8s.home.example", "A")?;
        let soa = "authority k8s.home.example. SOA ns.dns.k8s.home.example. hostmaster.k8s.home.example. *";
        let soa = format!("{soa} 7200 1800 86400 5");
        let denied = gone.rcode == "NXDOMAIN" && gone.records.iter().any(|r| table::matches(&soa, r));
        ensure!(denied, "{gone:?}");
        let reverse = names.ask("n3a", "1.0.43.10.in-addr.arpa", "PTR")?;
        ensure!(reverse.data("PTR") == ["kubernetes.default.svc.k8s.home.example."], "{reverse:?}");
        let usual = names.ask("n3a", super::KUBERNETES, "A")?;
        ensure!(!usual.authoritative() && usual.data("A") == [OUTSIDE], "{usual:?}");
        Ok(())
    })();
    names.configure("node-3", "")?;
    asked
}

/// Asks the questions of a zone of the file whose state there is, as it is; without those for `except`. Returns how many.
///
/// # Errors
/// When an answer is another.
pub(super) fn play_zone(b: &Battery, dig: Dig<'_>, title: &str, except: &str) -> Result<usize> {
    let mut questions = case(title)?.questions;
    questions.retain(|question| question.name != except);
    play(b, dig, &questions, true)?;
    Ok(questions.len())
}

fn play(b: &Battery, dig: Dig<'_>, questions: &[Question], ours: bool) -> Result<()> {
    let asked: Vec<(&str, &str)> = questions.iter().map(|q| (&*q.name, &*q.qtype)).collect();
    let replies = dig.ask_all(b, &asked)?;
    let wrong: Vec<String> = questions
        .iter()
        .zip(&replies)
        .filter_map(|(question, reply)| {
            let why = judge(question, reply, ours).err()?;
            Some(format!("line {}: {} {}: {why}", question.line, question.name, question.qtype))
        })
        .collect();
    ensure!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), questions.len(), wrong.join("\n"));
    Ok(())
}

fn judge(question: &Question, reply: &Reply, ours: bool) -> Result<()> {
    let target = question.result.strip_prefix("THEN ");
    if question.result == "FORWARD" || target.is_some() {
        ensure!(reply.rcode == "NOERROR", "{reply:?} is not what the upstream says");
        let owner = target.map_or_else(|| format!("{}.", question.name.trim_end_matches('.')), str::to_owned);
        let last =
            reply.records.iter().rfind(|r| r.starts_with("answer ")).context("no answer of the upstream")?;
        let [_, of, kind, data] = last.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("{last:?}")
        };
        let said = [OUTSIDE, "2001:db8::53", "forwarded.example.", "\"forwarded\""];
        ensure!(
            of == owner && kind == question.qtype && said.contains(&data),
            "{last:?} is not the upstream's"
        );
        let alias = format!("answer {}. CNAME {owner}", question.name);
        ensure!(target.is_none() || reply.records.contains(&alias), "{alias} is not in {reply:?}");
        ensure!(target.is_some() || !reply.authoritative(), "it is said to be the zone's own");
        return Ok(());
    }
    let refused = question.qtype == "AXFR" && reply.rcode == "NO TRANSFER";
    ensure!(reply.rcode == question.result || refused, "{} instead of {}", reply.rcode, question.result);
    ensure!(refused || reply.authoritative() == question.authoritative, "flags {:?}", reply.flags);
    let (mut left, mut missing) = (reply.records.clone(), Vec::new());
    // Others add what they like beside the answer, and have an SOA of their own.
    let matters = |record: &str| ours || record.starts_with("answer ");
    for expected in question.records.iter().filter(|r| matters(r)) {
        match left.iter().position(|record| table::matches(expected, record)) {
            Some(at) => drop(left.remove(at)),
            None => missing.push(expected),
        }
    }
    left.retain(|record| matters(record));
    ensure!(missing.is_empty() && left.is_empty(), "{missing:?} is missing, {left:?} is too much");
    let lived = !ours || reply.ttls.iter().all(|ttl| *ttl == 5);
    ensure!(lived, "TTLs {:?}", reply.ttls);
    Ok(())
}

/// Objects of the API, which end with this.
struct Made<'a> {
    battery: &'a Battery,
    /// Kinds and names.
    objects: Vec<(&'static str, String)>,
}

impl Made<'_> {
    /// Makes what a case has.
    fn state(&mut self, case: &Case) -> Result<()> {
        let mut namespaces: BTreeSet<String> = BTreeSet::new();
        namespaces.extend(case.services.iter().map(|s| s.key.namespace.to_string()));
        namespaces.extend(case.pod_rows.iter().map(|p| p.key.namespace.to_string()));
        for name in namespaces.into_iter().filter(|n| n != "default") {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            self.cluster("Namespace", &name, &object)?;
        }
        let objects = self.battery.objects();
        // The one of the API is there.
        for service in case.services.iter().filter(|s| &*s.key.namespace.to_string() != "default") {
            objects.apply(&service_object(service))?;
        }
        case.slices.iter().try_for_each(|slice| objects.apply(&slice_object(slice)).map(drop))?;
        case.pod_rows.iter().try_for_each(|pod| self.pod(pod))?;
        case.nodes.iter().try_for_each(|node| self.node(node))
    }

    fn cluster(&mut self, kind: &'static str, name: &str, object: &Value) -> Result<()> {
        self.battery.objects().apply(object)?;
        let own = (kind, name.to_owned());
        if !self.objects.contains(&own) {
            self.objects.push(own);
        }
        Ok(())
    }

    fn pod(&self, pod: &Pod) -> Result<()> {
        let (namespace, name) = (pod.key.namespace.to_string(), pod.key.name.to_string());
        let objects = self.battery.objects();
        objects.apply(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "battery"}]}}))?;
        let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        let phase = if pod.finished { "Succeeded" } else { "Running" };
        let status = json!({"phase": phase, "podIP": pod.ips.first(), "podIPs": ips});
        objects.status("Pod", &namespace, &name, &status)
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let name = node.name.to_string();
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.cluster("Node", &name, &object)?;
        let addresses: Vec<Value> =
            node.internal_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        self.battery.objects().status("Node", "", &name, &json!({ "addresses": addresses }))
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for (kind, name) in self.objects.iter().rev() {
            if let Err(error) = self.battery.objects().delete(kind, "", name, None) {
                eprintln!("battery: {kind} {name}: {error:#}");
            }
        }
    }
}

fn service_object(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|p| {
            let mut port = json!({"port": p.port, "protocol": p.protocol.to_string().to_uppercase()});
            if !p.name.is_empty() {
                port["name"] = p.name.clone().into();
            }
            port
        })
        .collect();
    let families: Vec<&str> =
        service.cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let spec = match (&service.kind, service.cluster_ips.first()) {
        (ServiceKind::ExternalName, _) => {
            json!({"type": "ExternalName", "externalName": service.external_name})
        }
        (_, None) => json!({"clusterIP": "None", "ports": ports,
            "publishNotReadyAddresses": service.publish_not_ready}),
        (_, Some(first)) => json!({"clusterIP": first, "clusterIPs": service.cluster_ips, "ports": ports,
            "ipFamilies": families, "ipFamilyPolicy": policy,
            "publishNotReadyAddresses": service.publish_not_ready}),
    };
    let labels = match service.foreign_proxy {
        true => json!({"service.kubernetes.io/service-proxy-name": "somebody"}),
        false => json!({}),
    };
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": service.key.name.to_string(),
        "namespace": service.key.namespace.to_string(), "labels": labels}, "spec": spec})
}

fn slice_object(slice: &EndpointSlice) -> Value {
    let (namespace, name) = (slice.key.namespace.to_string(), slice.key.name.to_string());
    let ports: Vec<Value> = slice
        .ports
        .iter()
        .map(|p| json!({"name": p.name, "port": p.port, "protocol": p.protocol.to_string().to_uppercase()}))
        .collect();
    let endpoints: Vec<Value> = slice
        .endpoints
        .iter()
        .map(|e| {
            let mut endpoint = json!({"addresses": [e.address],
                "conditions": {"ready": e.ready, "serving": e.serving, "terminating": e.terminating}});
            if let Some(hostname) = &e.hostname {
                endpoint["hostname"] = hostname.to_string().into();
            }
            endpoint
        })
        .collect();
    let v6 = slice.endpoints.first().is_some_and(|e| e.address.is_ipv6());
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            "kubernetes.io/service-name": slice.service.name.to_string(),
            "endpointslice.kubernetes.io/managed-by": "battery"}},
        "addressType": crate::battery::family(v6), "ports": ports, "endpoints": endpoints})
}
