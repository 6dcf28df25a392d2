//! Reads `specification.txt`: states of a zone, questions, and the answers that they have.
//!
//! It needs nothing but the vocabulary, so a test over real sockets can include this file too.
//!
//! ```text
//! file     = *( zone | comment | empty )
//! zone     = "zone" TITLE 1*state 1*question
//! state    = "domain" NAME | "pods" MODE | "knowledge" ( "nothing" | "last" | "current" ) | "server" ADDRESS
//!          | "range" PREFIX
//!          | "service" NS/NAME *( "ip=" ADDRESS | "port=" PORT | "external=" NAME | "publish" | "foreign" )
//!          | "slice" NS/NAME "of=" SERVICE *( "port=" PORT | "endpoint=" ADDRESS *( "," HOSTNAME | ",!ready" ) )
//!          | "pod" NS/NAME *( "ip=" ADDRESS | "finished" )
//!          | "node" NAME *( "ip=" ADDRESS )
//! question = "ask" NAME TYPE "->" result *record
//! result   = "FORWARD" | "THEN" NAME | RCODE [ "aa" ]
//! record   = ( "answer" | "authority" | "additional" ) OWNER TYPE DATA
//! PORT     = name ":" protocol ":" number          name may be empty
//! ```
//!
//! A state holds for all questions after it, up to the next `zone`. Records are compared as sets. `*` in the data of a
//! record stands for anything up to the next blank: weights and serials are not promised. `FORWARD` is a question for
//! the upstream servers, `THEN` one of which the last CNAME's target is; a test with a resolver of its own behind the
//! server may leave both out. `negative` for a record is the zone's SOA in the authority section.

use warren_types::{
    Endpoint, EndpointPort, EndpointSlice, Family, Node, Pod, PodCidrs, PodKey, Protocol, Service,
    ServiceKey, ServiceKind, ServicePort, SliceKey,
};

/// A state of the cluster, and what is asked of it.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// For people.
    pub title: String,
    /// The cluster's domain.
    pub domain: String,
    /// `disabled`, `insecure` or `verified`.
    pub pods: String,
    /// `nothing`, `last` or `current`.
    pub knowledge: String,
    /// Addresses of the name server.
    pub servers: Vec<std::net::IpAddr>,
    /// Ranges of pods and Services.
    pub ranges: Vec<String>,
    /// Its Services.
    pub services: Vec<Service>,
    /// Their endpoints.
    pub slices: Vec<EndpointSlice>,
    /// Its pods.
    pub pod_rows: Vec<Pod>,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// What is asked.
    pub questions: Vec<Question>,
}

/// A question and its answer.
#[derive(Debug, Clone)]
pub struct Question {
    /// The line in the file.
    pub line: usize,
    /// The name.
    pub name: String,
    /// The type.
    pub qtype: String,
    /// What becomes of it.
    pub result: String,
    /// Whether the answer is the zone's own.
    pub authoritative: bool,
    /// Section, owner, type and data, as in the file.
    pub records: Vec<String>,
}

/// Whether a record is as the file has it.
pub fn matches(expected: &str, record: &str) -> bool {
    let (expected, record): (Vec<_>, Vec<_>) = (expected.split(' ').collect(), record.split(' ').collect());
    expected.len() == record.len()
        && expected.iter().zip(&record).all(|(e, r)| *e == "*" || e.eq_ignore_ascii_case(r))
}

/// Reads the file.
///
/// # Panics
/// When it is not as it should be.
pub fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((&first, rest)) = words.split_first() else { continue };
        if first == "zone" {
            cases.push(Case {
                title: rest.join(" "),
                domain: "cluster.local".into(),
                pods: "verified".into(),
                knowledge: "current".into(),
                ..Case::default()
            });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("line {}: no zone yet", number + 1));
        read_line(case, number + 1, first, rest);
    }
    cases
}

fn read_line(case: &mut Case, line: usize, first: &str, rest: &[&str]) {
    let negative = format!("authority {0}. SOA ns.dns.{0}. hostmaster.{0}. * 7200 1800 86400 5", case.domain);
    match (first, rest) {
        ("domain", [domain]) => case.domain = (*domain).into(),
        ("pods", [mode]) => case.pods = (*mode).into(),
        ("knowledge", [knowledge]) => case.knowledge = (*knowledge).into(),
        ("server", [address]) => case.servers.push(address.parse().unwrap()),
        ("range", [prefix]) => case.ranges.push((*prefix).into()),
        ("service", [key, words @ ..]) => case.services.push(service(key, words)),
        ("slice", [key, words @ ..]) => case.slices.push(slice(key, words)),
        ("pod", [key, words @ ..]) => case.pod_rows.push(pod(key, words)),
        ("node", [name, words @ ..]) => case.nodes.push(node(name, words)),
        ("ask", [name, qtype, "->", result @ ..]) => {
            let (authoritative, result) = match result {
                [result @ .., "aa"] => (true, result),
                _ => (false, result),
            };
            let (name, qtype, result) = ((*name).into(), (*qtype).into(), result.join(" "));
            case.questions.push(Question { line, name, qtype, result, authoritative, records: Vec::new() });
        }
        ("negative", []) => case.questions.last_mut().unwrap().records.push(negative),
        ("answer" | "authority" | "additional", [_, _, ..]) => {
            let question = case.questions.last_mut().unwrap();
            question.records.push(format!("{first} {}", rest.join(" ")));
        }
        _ => panic!("line {line} cannot be read"),
    }
}

fn pair(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or_else(|| panic!("{key} is not NAMESPACE/NAME"))
}

fn port(text: &str) -> (String, Protocol, u16) {
    let parts: Vec<&str> = text.split(':').collect();
    (parts[0].into(), Protocol::from_name(parts[1]).unwrap(), parts[2].parse().unwrap())
}

fn service(key: &str, words: &[&str]) -> Service {
    let mut service = Service::new(ServiceKey::parse(key).unwrap());
    for word in words {
        match word.split_once('=') {
            Some(("ip", address)) => service.cluster_ips.push(address.parse().unwrap()),
            Some(("port", text)) => {
                let (name, protocol, number) = port(text);
                service.ports.push(ServicePort { name, ..ServicePort::new(protocol, number) });
            }
            Some(("external", name)) => {
                service.kind = ServiceKind::ExternalName;
                service.external_name = Some(name.into());
            }
            None if *word == "publish" => service.publish_not_ready = true,
            None if *word == "foreign" => service.foreign_proxy = true,
            _ => panic!("{word} is nothing of a Service"),
        }
    }
    service
}

fn slice(key: &str, words: &[&str]) -> EndpointSlice {
    let (namespace, _) = pair(key);
    let mut slice = EndpointSlice {
        key: SliceKey::parse(key).unwrap(),
        service: ServiceKey::parse(key).unwrap_or_else(|| ServiceKey::parse("x/x").unwrap()),
        family: Family::V4,
        ports: Vec::new(),
        endpoints: Vec::new(),
        foreign_proxy: false,
    };
    for word in words {
        match word.split_once('=') {
            Some(("of", name)) => slice.service = ServiceKey::parse(&format!("{namespace}/{name}")).unwrap(),
            Some(("port", text)) => {
                let (name, protocol, port) = port(text);
                slice.ports.push(EndpointPort { name, protocol, port });
            }
            Some(("endpoint", text)) => {
                let mut parts = text.split(',');
                let mut endpoint = Endpoint::ready(parts.next().unwrap().parse().unwrap());
                slice.family = if endpoint.address.is_ipv4() { Family::V4 } else { Family::V6 };
                for part in parts {
                    if part == "!ready" {
                        (endpoint.ready, endpoint.serving) = (false, false);
                    } else {
                        endpoint.hostname = Some(part.into());
                    }
                }
                slice.endpoints.push(endpoint);
            }
            _ => panic!("{word} is nothing of a slice"),
        }
    }
    slice
}

fn pod(key: &str, words: &[&str]) -> Pod {
    let (namespace, name) = pair(key);
    Pod {
        key: PodKey { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() },
        uid: key.into(),
        node: None,
        ips: words.iter().filter_map(|w| w.strip_prefix("ip=")).map(|a| a.parse().unwrap()).collect(),
        host_network: false,
        labels: std::collections::BTreeMap::new(),
        finished: words.contains(&"finished"),
        named_ports: Vec::new(),
    }
}

fn node(name: &str, words: &[&str]) -> Node {
    Node {
        name: name.parse().unwrap(),
        uid: name.into(),
        node_id: None,
        public_key: None,
        endpoints: Vec::new(),
        observed: std::collections::BTreeMap::new(),
        held_ports: Vec::new(),
        ingress: Vec::new(),
        internal_ips: words
            .iter()
            .filter_map(|w| w.strip_prefix("ip="))
            .map(|a| a.parse().unwrap())
            .collect(),
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::default(),
        labels: std::collections::BTreeMap::new(),
        ready: true,
    }
}
