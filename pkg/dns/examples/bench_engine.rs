//! What an answer and a zone cost: `cargo run --release -p warren-dns --example bench_engine`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;
use warren_dns::answer::{Client, Context, Outcome, Settings, answer};
use warren_dns::wire::{Name, Query, Transport, Type};
use warren_dns::zone::{Knowledge, Zone};
use warren_types::{
    Endpoint, EndpointPort, EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey,
};

/// Questions asked for one figure.
const ROUNDS: u32 = 100_000;
/// Endpoints of each Service.
const ENDPOINTS: u32 = 2;

/// What this process holds in memory, in KiB.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.trim().strip_suffix(" kB")?.parse().ok())
}

fn address(net: u8, n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes([10, net, 0, 0]) + n + 1))
}

/// A Service as clusters have them, and its endpoints; each tenth is headless.
fn rows(n: u32) -> Option<(Service, EndpointSlice)> {
    let key = ServiceKey::parse(&format!("namespace-{}/service-{n}", n % 50))?;
    let mut service = Service::new(key.clone());
    if !n.is_multiple_of(10) {
        service.cluster_ips.push(address(43, n));
    }
    service.ports = vec![ServicePort { name: "http".into(), ..ServicePort::new(Protocol::Tcp, 80) }];
    let slice = EndpointSlice {
        key: SliceKey::parse(&format!("{key}-x7k2p"))?,
        service: key,
        family: Family::V4,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..ENDPOINTS).map(|e| Endpoint::ready(address(42, n * ENDPOINTS + e))).collect(),
        foreign_proxy: false,
    };
    Some((service, slice))
}

fn packet(name: &str, qtype: Type) -> Vec<u8> {
    let name: Name = name.parse().unwrap_or_else(|_| Name::root());
    let edns = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    let head = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    [&head[..], name.wire(), &qtype.0.to_be_bytes(), &[0, 1], &edns].concat()
}

fn measure(what: &str, zone: &Zone, client: Client<'_>, question: impl Fn(u32) -> (String, Type)) {
    let packets: Vec<Vec<u8>> = (0..997).map(|n| question(n * 7919)).map(|(n, t)| packet(&n, t)).collect();
    let settings = Settings::default();
    let mut out = Vec::with_capacity(1500);
    let (mut bytes, mut answered) = (0, 0);
    let started = Instant::now();
    for round in 0..ROUNDS {
        let packet = black_box(&packets[round as usize % packets.len()]);
        let context =
            Context { zone, settings: &settings, transport: Transport::Udp, random: u64::from(round) };
        let Ok(query) = Query::read(packet) else { continue };
        if let Outcome::Answered = answer(context, client, &query, &mut out) {
            answered += 1;
            bytes += black_box(&out).len();
        }
    }
    let each = started.elapsed().as_nanos() / u128::from(ROUNDS);
    println!("  {what:<44} {each:>5} ns   {:>4} bytes", bytes / answered.max(1));
}

/// A headless Service with many endpoints, all with hostnames.
fn large(domain: &Name) -> Option<Zone> {
    let mut zone = Zone::new(domain).ok()?;
    let key = ServiceKey::parse("a/large")?;
    zone.set_service(&key, Some(&Service::new(key.clone())));
    for part in 0..10 {
        let (_, mut slice) = rows(part)?;
        slice.key = SliceKey::parse(&format!("a/large-{part}"))?;
        slice.service = key.clone();
        slice.endpoints = (0..100)
            .map(|e| Endpoint {
                hostname: Some(format!("large-{}", part * 100 + e)),
                ..Endpoint::ready(address(42, part * 100 + e))
            })
            .collect();
        zone.set_slice(&slice.key, Some(&slice));
    }
    zone.set_knowledge(Knowledge::Current);
    Some(zone)
}

fn main() {
    let domain: Name = "cluster.local".parse().unwrap_or_else(|_| Name::root());
    for count in [1_000u32, 10_000] {
        let before = resident().unwrap_or(0);
        let Ok(mut zone) = Zone::new(&domain) else { return };
        zone.set_cluster(["10.42.0.0/15".parse().unwrap_or_default()]);
        let started = Instant::now();
        for (service, slice) in (0..count).filter_map(rows) {
            zone.set_service(&service.key, Some(&service));
            zone.set_slice(&slice.key, Some(&slice));
        }
        zone.set_knowledge(Knowledge::Current);
        let each = started.elapsed().as_nanos() / u128::from(count);
        let memory = resident().unwrap_or(0).saturating_sub(before);
        println!("{count} Services, {} endpoints: {memory} KiB, {each} ns a Service", count * ENDPOINTS);
        let plain = |n: u32| (n % count) / 10 * 10 + 1;
        let headless = |n: u32| (n % count) / 10 * 10;
        let name = |n: u32| format!("service-{n}.namespace-{}.svc.cluster.local", n % 50);
        let path: Vec<Name> = ["namespace-0.svc.cluster.local", "svc.cluster.local", "cluster.local"]
            .iter()
            .filter_map(|d| d.parse().ok())
            .collect();
        let other = Client::Other;
        measure("ClusterIP A", &zone, other, |n| (name(plain(n)), Type::A));
        measure("ClusterIP AAAA (NODATA)", &zone, other, |n| (name(plain(n)), Type::AAAA));
        measure("no such Service (NXDOMAIN)", &zone, other, |n| (format!("x{}", name(n)), Type::A));
        measure("headless A, 2 endpoints", &zone, other, |n| (name(headless(n)), Type::A));
        measure("ClusterIP SRV", &zone, other, |n| (format!("_http._tcp.{}", name(plain(n))), Type::SRV));
        measure("headless SRV", &zone, other, |n| (format!("_http._tcp.{}", name(headless(n))), Type::SRV));
        measure("PTR of a ClusterIP", &zone, other, |n| {
            let mut octets: Vec<String> =
                address(43, plain(n)).to_string().split('.').map(Into::into).collect();
            octets.reverse();
            (format!("{}.in-addr.arpa", octets.join(".")), Type::PTR)
        });
        measure("a pod's search path, second step", &zone, Client::Pod(&path), |n| {
            let n = plain(n);
            (format!("service-{n}.namespace-{}.namespace-0.svc.cluster.local", n % 50), Type::A)
        });
        measure("an outside name (to be forwarded)", &zone, other, |n| {
            (format!("h{n}.example.com"), Type::A)
        });
    }
    let Some(zone) = large(&domain) else { return };
    println!("a headless Service of 1000 endpoints");
    measure("A, cut to what fits", &zone, Client::Other, |_| ("large.a.svc.cluster.local".into(), Type::A));
    measure("SRV, cut to what fits", &zone, Client::Other, |_| {
        ("_http._tcp.large.a.svc.cluster.local".into(), Type::SRV)
    });
    measure("A of one hostname", &zone, Client::Other, |n| {
        (format!("large-{}.large.a.svc.cluster.local", n % 1000), Type::A)
    });
}
