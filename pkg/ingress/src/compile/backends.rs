//! Services and their endpoints, and the backends that they make.

use super::options::Options;
use super::{Made, fault};
use crate::route::{Backend, Endpoint, Protocol, ProxyHeader, Readiness, Sticky};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use warren_types::{
    BackendPort, EndpointSlice, Fault, IngressBackend, IngressKey, Protocol as Transport, Service,
    ServiceKey, ServiceKind, ServiceName, ServicePort, SliceKey,
};

/// `appProtocol` of ports that speak HTTP/2 in clear text (Kubernetes, "Application protocol").
const H2C: [&str; 2] = ["kubernetes.io/h2c", "grpc"];
/// The same for TLS, which is not spoken to endpoints.
const TLS: [&str; 2] = ["https", "kubernetes.io/wss"];

/// Services, and their slices.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: HashMap<ServiceKey, Arc<Service>>,
    slices: HashMap<SliceKey, Arc<EndpointSlice>>,
    of: HashMap<ServiceKey, BTreeMap<SliceKey, Arc<EndpointSlice>>>,
}

impl Services {
    pub(super) fn set(&mut self, key: &ServiceKey, row: Option<Arc<Service>>) {
        match row {
            None => drop(self.services.remove(key)),
            Some(row) => drop(self.services.insert(key.clone(), row)),
        }
    }

    /// Returns the Services of the slice before and now.
    pub(super) fn set_slice(
        &mut self,
        key: &SliceKey,
        row: Option<Arc<EndpointSlice>>,
    ) -> [Option<ServiceKey>; 2] {
        let before = self.slices.remove(key).map(|slice| slice.service.clone());
        if let Some(service) = &before
            && let Some(slices) = self.of.get_mut(service)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.of.remove(service);
            }
        }
        let now = row.as_ref().map(|row| row.service.clone());
        if let Some(row) = row {
            self.of.entry(row.service.clone()).or_default().insert(key.clone(), row.clone());
            self.slices.insert(key.clone(), row);
        }
        [before, now]
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &SliceKey> {
        self.slices.keys()
    }

    /// The endpoints behind a port, in the order of their addresses, each once.
    fn endpoints(&self, service: &ServiceKey, port: &ServicePort) -> Vec<Endpoint> {
        let mut found: BTreeMap<SocketAddr, Readiness> = BTreeMap::new();
        for slice in self.of.get(service).into_iter().flat_map(BTreeMap::values) {
            let ports = slice.ports.iter();
            let ports = ports.filter(|p| p.name == port.name && p.protocol == Transport::Tcp).map(|p| p.port);
            for number in ports {
                for endpoint in &slice.endpoints {
                    let readiness = if endpoint.ready {
                        Readiness::Ready
                    } else if endpoint.serving && endpoint.terminating {
                        Readiness::Terminating
                    } else {
                        continue;
                    };
                    let address = SocketAddr::new(endpoint.address, number);
                    let known = found.entry(address).or_insert(readiness);
                    if readiness == Readiness::Ready {
                        *known = readiness;
                    }
                }
            }
        }
        found.into_iter().map(|(address, readiness)| Endpoint { address, readiness }).collect()
    }
}

/// What makes two backends of one port differ.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Special {
    ingress: IngressKey,
    protocol: Option<bool>,
}

/// What a backend is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    service: ServiceKey,
    port: u16,
    special: Option<Special>,
}

/// Makes backends, each once.
pub(super) struct Backends<'a> {
    services: &'a Services,
    made: Made<Wanted, Backend>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(services: &'a Services) -> Self {
        Self { services, made: Made::new() }
    }

    /// The backend that an Ingress names; why there is none.
    pub(super) fn find(
        &mut self,
        ingress: &IngressKey,
        backend: &IngressBackend,
        options: &Options,
    ) -> Result<Arc<Backend>, Fault> {
        let (name, port) = match backend {
            IngressBackend::Service { name, port } => (name, port),
            IngressBackend::Resource(kind) => {
                return Err(fault("BackendNotServed", format!("a {kind} cannot be served; name a Service")));
            }
            IngressBackend::Unreadable => {
                return Err(fault(
                    "BackendNotServed",
                    "a backend could not be read; name a Service and its port",
                ));
            }
        };
        let service = ServiceKey { namespace: ingress.namespace.clone(), name: name.clone() };
        let port = self.port(&service, name, port)?;
        let app = port.app_protocol.as_deref().unwrap_or_default();
        if options.protocol.is_none() && TLS.contains(&app) {
            let message =
                format!("Service {name}, port {}: TLS ({app}) towards endpoints is not served", port.port);
            return Err(fault("BackendNotServed", message));
        }
        let protocol =
            options.protocol.unwrap_or(if H2C.contains(&app) { Protocol::H2c } else { Protocol::Http1 });
        let (sticky, proxy_header) = (options.sticky.clone(), options.proxy_header);
        let plain = options.protocol.is_none() && sticky.is_none() && proxy_header.is_none();
        let special = (!plain).then(|| Special {
            ingress: ingress.clone(),
            protocol: options.protocol.map(|protocol| protocol == Protocol::H2c),
        });
        let wanted = Wanted { service: service.clone(), port: port.port, special };
        if let Some(made) = self.made.get(&wanted) {
            return Ok(made.clone());
        }
        let endpoints = self.services.endpoints(&service, port);
        let name = match &wanted.special {
            None => format!("{service}:{}", port.port),
            Some(_) => format!("{service}:{} for {ingress}", port.port),
        };
        let made = Arc::new(make(name, protocol, endpoints, sticky, proxy_header));
        self.made.insert(wanted, made.clone());
        Ok(made)
    }

    fn port(
        &self,
        key: &ServiceKey,
        name: &ServiceName,
        wanted: &BackendPort,
    ) -> Result<&'a ServicePort, Fault> {
        let service = self.services.services.get(key);
        let service = service.ok_or_else(|| {
            fault("BackendMissing", format!("there is no Service {name} in namespace {}", key.namespace))
        })?;
        if service.kind == ServiceKind::ExternalName {
            let message = format!("Service {name} is of type ExternalName, which is not allowed here");
            return Err(fault("BackendNotServed", message));
        }
        let mut ports = service.ports.iter().filter(|port| port.protocol == Transport::Tcp);
        let found = ports.find(|port| match wanted {
            BackendPort::Number(number) => port.port == *number,
            BackendPort::Name(name) => port.name == *name,
        });
        found.ok_or_else(|| {
            let there: Vec<String> = service
                .ports
                .iter()
                .map(|port| match port.name.as_str() {
                    "" => port.port.to_string(),
                    name => format!("{} ({name})", port.port),
                })
                .collect();
            let message = format!("Service {name} has no TCP port {wanted}; it has {}", there.join(", "));
            fault("BackendMissing", message)
        })
    }
}

fn make(
    name: String,
    protocol: Protocol,
    endpoints: Vec<Endpoint>,
    sticky: Option<Sticky>,
    proxy_header: Option<ProxyHeader>,
) -> Backend {
    Backend { name: name.into(), protocol, endpoints, sticky, proxy_header, ..Backend::default() }
}
