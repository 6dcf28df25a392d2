//! The names that every server is given, and that are asked for.

use std::net::{IpAddr, Ipv4Addr};
use warren_types::{
    Endpoint, EndpointPort, EndpointSlice, Family, Protocol, Service, ServiceKey, ServicePort, SliceKey,
};

/// The cluster's domain.
pub(crate) const DOMAIN: &str = "cluster.local";
/// Where every server is reached.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);
/// Who asks: a pod of the namespace `namespace-0`.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 250);
/// Where the upstream is, that knows every outside name.
pub(crate) const UPSTREAM: &str = "127.0.0.1:5300";

/// Endpoints of each Service.
const ENDPOINTS: u32 = 2;
const NAMESPACES: usize = 50;
/// Different questions of a kind.
const QUESTIONS: usize = 10_000;

fn key(number: usize) -> String {
    format!("namespace-{}/service-{number}", number % NAMESPACES)
}

pub(crate) fn name(number: usize) -> String {
    format!("service-{number}.namespace-{}.svc.{DOMAIN}", number % NAMESPACES)
}

pub(crate) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([10, 43, 1, 0]) + u32::try_from(number).unwrap_or(0))
}

/// A Service with a ClusterIP, and its endpoints.
pub(crate) fn rows(number: usize) -> Option<(Service, EndpointSlice)> {
    let key = ServiceKey::parse(&key(number))?;
    let service = Service {
        cluster_ips: vec![address(number).into()],
        families: vec![Family::V4],
        ports: vec![ServicePort { name: "http".into(), ..ServicePort::new(Protocol::Tcp, 80) }],
        ..Service::new(key.clone())
    };
    let first = u32::from_be_bytes([10, 44, 0, 0]) + u32::try_from(number).ok()? * ENDPOINTS;
    let slice = EndpointSlice {
        key: SliceKey::parse(&format!("{key}-x7k2p"))?,
        service: key,
        family: Family::V4,
        ports: vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: (0..ENDPOINTS)
            .map(|n| Endpoint::ready(IpAddr::V4(Ipv4Addr::from_bits(first + n))))
            .collect(),
        foreign_proxy: false,
    };
    Some((service, slice))
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A of ClusterIPs.
    Cluster,
    /// Names without a Service.
    Missing,
    /// Names of the internet that were asked for before.
    Outside,
    /// The first step of a pod's search path for them.
    Search,
}

impl Kind {
    /// The lines that dnsperf reads.
    pub(crate) fn questions(self, services: usize) -> String {
        let question = |n: usize| {
            // In no order that memory likes.
            let number = n * 7_919 % services;
            match self {
                Self::Cluster => format!("{} A\n", name(number)),
                Self::Missing => format!("no{number}.namespace-0.svc.{DOMAIN} A\n"),
                Self::Outside => format!("host-{}.example.com A\n", n % 1_000),
                Self::Search => format!("host-{}.example.com.namespace-0.svc.{DOMAIN} A\n", n % 1_000),
            }
        };
        (0..QUESTIONS).map(question).collect()
    }

    /// The code that right answers have; where there is no walk, the search path's first step is denied.
    pub(crate) fn code(self, walks: bool) -> &'static str {
        match self {
            Self::Cluster | Self::Outside => "NOERROR",
            Self::Search if walks => "NOERROR",
            Self::Missing | Self::Search => "NXDOMAIN",
        }
    }
}
