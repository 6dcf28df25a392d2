//! The resolver of the C library, with a resolv.conf as kubelet writes it.

use super::{KUBERNETES, KUBERNETES_IP, Names, OUTSIDE};
use crate::battery::Battery;
use crate::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// The namespace of a lab's pods.
const NAMESPACE: &str = "default";
const SETTLED: Duration = Duration::from_secs(5);

/// Objects of the namespace of a lab's pods, which end with this.
struct Made<'a>(&'a Battery, Vec<(&'static str, &'static str)>);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for (kind, name) in &self.1 {
            if let Err(error) = self.0.objects().delete(kind, NAMESPACE, name, None) {
                eprintln!("battery: {kind} {name}: {error:#}");
            }
        }
    }
}

impl<'a> Made<'a> {
    /// A Service, one without address and with pods that have names, and a name for a name outside.
    fn new(b: &'a Battery) -> Result<Self> {
        let mut made = Self(b, Vec::new());
        let service = |name: &str, spec: serde_json::Value| {
            json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
        };
        let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
        for (name, spec) in [
            ("web", json!({"ports": ports, "ipFamilyPolicy": "RequireDualStack"})),
            ("db", json!({"ports": ports, "clusterIP": "None"})),
            ("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
            ("into", json!({"type": "ExternalName", "externalName": "db-0.db.default.svc.cluster.local"})),
        ] {
            b.objects().apply(&service(name, spec))?;
            made.1.push(("Service", name));
        }
        for (name, v6) in [("db-v4", false), ("db-v6", true)] {
            let endpoints = ["n2a", "n3a"].iter().zip(["db-0", "db-1"]).map(|(pod, hostname)| {
                Ok(json!({"addresses": [b.address(pod, v6)?], "hostname": hostname, "conditions": {"ready": true}}))
            });
            let endpoints: Vec<_> = endpoints.collect::<Result<_>>()?;
            let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "db",
                    "endpointslice.kubernetes.io/managed-by": "battery"}},
                "addressType": crate::battery::family(v6), "ports": ports_of_slice(), "endpoints": endpoints});
            b.objects().apply(&slice)?;
            made.1.push(("EndpointSlice", name));
        }
        Ok(made)
    }
}

fn ports_of_slice() -> serde_json::Value {
    json!([{"name": "sql", "port": 5432, "protocol": "TCP"}])
}

/// The addresses in what `getent` says.
fn addresses(text: &str) -> BTreeSet<IpAddr> {
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Names as programs in pods ask for them.
///
/// # Errors
/// When one means something else.
pub fn libc_resolver(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let _made = Made::new(b)?;
    let from = "n1a";
    let web = |v6: bool| -> Result<BTreeSet<IpAddr>> {
        let object = b.objects().get("Service", NAMESPACE, "web")?;
        let all =
            object.pointer("/spec/clusterIPs").and_then(|ips| ips.as_array()).context("no addresses")?;
        let all = all.iter().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        Ok(all.filter(|ip| ip.is_ipv6() == v6).collect())
    };
    let pods = |all: &[&str], v6| all.iter().map(|pod| b.address(pod, v6)).collect::<Result<BTreeSet<_>>>();
    let one = |text: &str| -> Result<BTreeSet<IpAddr>> { Ok([text.parse()?].into()) };
    let mut asked = 0;
    for (database, name, expected) in [
        ("ahostsv4", "web", web(false)?),
        ("ahostsv6", "web", web(true)?),
        ("ahostsv4", "web.default", web(false)?),
        ("ahostsv4", "web.default.svc", web(false)?),
        ("ahostsv4", "web.default.svc.cluster.local", web(false)?),
        ("ahostsv4", "web.default.svc.cluster.local.", web(false)?),
        ("ahosts", "web", &web(false)? | &web(true)?),
        ("ahostsv4", "db", pods(&["n2a", "n3a"], false)?),
        ("ahostsv6", "db", pods(&["n2a", "n3a"], true)?),
        ("ahostsv4", "db-0.db", pods(&["n2a"], false)?),
        ("ahostsv4", "db-1.db.default", pods(&["n3a"], false)?),
        ("ahostsv6", "db-1.db.default.svc.cluster.local", pods(&["n3a"], true)?),
        ("ahostsv4", "into", pods(&["n2a"], false)?),
        ("ahostsv4", "out", one(OUTSIDE)?),
        ("ahostsv4", "kubernetes.default", one(KUBERNETES_IP)?),
        ("ahostsv4", "www.example.com", one(OUTSIDE)?),
        ("ahostsv6", "www.example.com", one("2001:db8::53")?),
        ("ahostsv4", "alias.example.com", one(OUTSIDE)?),
        ("ahostsv4", "tc.example.com", one(OUTSIDE)?),
        ("ahostsv4", "late.example.com", one(OUTSIDE)?),
    ] {
        let check = || {
            let (_, said) = names.libc(from, NAMESPACE, &format!("getent {database} {name}"))?;
            ensure!(
                addresses(&said) == expected,
                "getent {database} {name}: {said:?} instead of {expected:?}"
            );
            Ok(())
        };
        eventually(SETTLED, check)?;
        asked += 1;
    }
    // By the search path all of these come to the end of it, or to the upstream.
    for name in [
        "db-7.db.default.svc.cluster.local",
        "web.elsewhere.svc.cluster.local",
        "nothing.default.svc.cluster.local.",
        "nothing.nx.example.com",
    ] {
        let (found, said) = names.libc(from, NAMESPACE, &format!("getent ahostsv4 {name}"))?;
        ensure!(!found && said.is_empty(), "getent says of {name}: {said}");
        asked += 1;
    }
    let (_, said) = names.libc(from, NAMESPACE, &format!("getent hosts {KUBERNETES_IP}"))?;
    ensure!(said.split_whitespace().nth(1) == Some(KUBERNETES), "the name of {KUBERNETES_IP}: {said}");
    let (_, said) = names.libc(from, NAMESPACE, "dig +search +short _sql._tcp.db SRV | sort")?;
    let targets: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    let expected = ["db-0.db.default.svc.cluster.local.", "db-1.db.default.svc.cluster.local."];
    ensure!(targets == expected, "the SRV records of db: {said}");
    // A resolver of its own.
    let (_, said) = names.libc(from, NAMESPACE, "busybox nslookup -type=a web.default.svc.cluster.local")?;
    let [ip] = web(false)?.into_iter().collect::<Vec<_>>()[..] else {
        anyhow::bail!("web has not one address")
    };
    ensure!(said.lines().any(|line| line.ends_with(&format!(": {ip}"))), "busybox nslookup: {said}");
    let (found, said) = names.libc(from, NAMESPACE, "ping -c 1 -W 2 db-0.db")?;
    ensure!(
        found && said.contains(&b.address("n2a", false)?.to_string()) || said.contains("bytes from"),
        "{said}"
    );
    println!("dns: {asked} names as getent knows them, and those of nslookup, ping, PTR and SRV");
    Ok(())
}

/// Counts the questions that leave a pod; the counter is the kernel's.
struct Counter<'a>(&'a Battery, &'static str);

impl<'a> Counter<'a> {
    fn new(b: &'a Battery, pod: &'static str) -> Result<Self> {
        let chain = "type filter hook output priority 0\nudp dport 53 counter\n";
        let table = format!("table inet asked {{\nchain out {{\n{chain}}}\n}}\n");
        b.exec(pod, &["sh", "-c", &format!("nft -f - <<'END'\n{table}END\n")])?;
        Ok(Self(b, pod))
    }

    fn questions(&self) -> Result<u64> {
        let text = self.0.exec(self.1, &["nft", "list", "table", "inet", "asked"])?;
        let number = text.split("packets ").nth(1).and_then(|t| t.split_whitespace().next());
        Ok(number.with_context(|| text.clone())?.parse()?)
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.exec(self.1, &["nft", "delete", "table", "inet", "asked"]) {
            eprintln!("battery: {error:#}");
        }
    }
}

/// An outside name costs a pod with `ndots:5` one question, and none that exists becomes one that does not; switched off, it is
/// the walk that the C library does.
///
/// # Errors
/// When it costs more, or means something else.
pub fn search_paths(names: &Names<'_>) -> Result<()> {
    let b = names.battery;
    let counter = Counter::new(b, "n3b")?;
    let ask = |name: &str| -> Result<(u64, BTreeSet<IpAddr>, Vec<String>)> {
        let (before, heard) = (counter.questions()?, names.upstream_heard()?.len());
        let (_, said) = names.libc("n3b", NAMESPACE, &format!("getent ahostsv4 {name}"))?;
        let upstream = names.upstream_heard()?.split_off(heard);
        Ok((counter.questions()? - before, addresses(&said), upstream))
    };
    let outside: BTreeSet<IpAddr> = [OUTSIDE.parse()?].into();
    let (questions, said, upstream) = ask("one.example.org")?;
    println!(
        "dns: search path: {questions} question for an outside name, {} at the upstream",
        upstream.len()
    );
    ensure!(
        said == outside && questions == 1 && upstream == ["udp 1 one.example.org."],
        "{said:?}, {upstream:?}"
    );
    // What exists in the cluster further down the path is found first; what exists nowhere is denied.
    let kubernetes: BTreeSet<IpAddr> = [KUBERNETES_IP.parse()?].into();
    let (questions, said, upstream) = ask("kubernetes.default")?;
    ensure!(said == kubernetes && upstream.is_empty(), "kubernetes.default: {said:?}, {upstream:?}");
    println!("dns: search path: {questions} question for kubernetes.default");
    let (questions, said, _) = ask("none.nx.example.org")?;
    ensure!(said.is_empty(), "none.nx.example.org: {said:?}");
    println!("dns: search path: {questions} questions for an outside name that is not there");
    // Of a name that the upstream does not speak of, nothing is said.
    let (_, said, _) = ask("none.servfail.example.org")?;
    ensure!(said.is_empty(), "none.servfail.example.org: {said:?}");
    let reply = names.ask("n3b", "none.servfail.example.org.default.svc.cluster.local", "A")?;
    ensure!(reply.rcode == "NXDOMAIN" || reply.rcode == "SERVFAIL", "{reply:?}");
    names.configure("node-3", "dns-search: \"off\"\n")?;
    let walked = ask("two.example.org");
    names.configure("node-3", "")?;
    let (questions, said, _) = walked?;
    println!("dns: search path: {questions} questions for an outside name with --dns-search=off");
    ensure!(said == outside && questions == 4, "{questions} questions, {said:?}");
    Ok(())
}
