//! Services and their endpoints, and the backends that they make.

use super::options::Options;
use super::{Faults, Made, fault};
use crate::external::{MOST_NAMES, Resolved};
use crate::route::{Backend, Endpoint, Protocol, ProxyHeader, Readiness, Sticky};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use warren_types::{
    BackendPort, EndpointSlice, Fault, IngressBackend, IngressKey, Protocol as Transport, Service,
    ServiceKey, ServiceKind, ServiceName, ServicePort, SliceByKey, SliceKey,
};

/// `appProtocol` of ports that speak HTTP/2 in clear text (Kubernetes, "Application protocol").
const H2C: [&str; 2] = ["kubernetes.io/h2c", "grpc"];
/// The same for TLS, which is not spoken to endpoints.
const TLS: [&str; 2] = ["https", "kubernetes.io/wss"];

/// A Service, and its slices in the order of their keys. Either may be there alone.
#[derive(Debug, Default)]
struct Held {
    row: Option<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

/// Services, and their slices.
#[derive(Debug, Default)]
pub(super) struct Services {
    held: HashMap<ServiceKey, Held>,
    slices: BTreeSet<SliceByKey>,
}

impl Services {
    pub(super) fn set(&mut self, key: &ServiceKey, row: Option<Arc<Service>>) {
        self.change(key, |held| held.row = row);
    }

    /// Returns the Services of the slice before and now.
    pub(super) fn set_slice(
        &mut self,
        key: &SliceKey,
        row: Option<Arc<EndpointSlice>>,
    ) -> [Option<ServiceKey>; 2] {
        let before = self.slices.take(key).map(|SliceByKey(slice)| slice.service.clone());
        if let Some(service) = &before {
            self.change(service, |held| held.slices.retain(|slice| slice.key != *key));
        }
        let now = row.as_ref().map(|row| row.service.clone());
        if let Some(row) = row {
            self.change(&row.service, |held| {
                let at = held.slices.partition_point(|slice| slice.key < *key);
                // Most Services have one for each family.
                held.slices.reserve_exact(1);
                held.slices.insert(at, row.clone());
            });
            self.slices.insert(SliceByKey(row));
        }
        [before, now]
    }

    fn change(&mut self, key: &ServiceKey, change: impl FnOnce(&mut Held)) {
        let held = match self.held.get_mut(key) {
            Some(held) => held,
            None => self.held.entry(key.clone()).or_default(),
        };
        change(held);
        if held.row.is_none() && held.slices.is_empty() {
            self.held.remove(key);
        }
    }

    fn row(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.held.get(key)?.row.as_ref()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.held.iter().filter(|(_, held)| held.row.is_some()).map(|(key, _)| key)
    }

    pub(super) fn slices(&self) -> impl Iterator<Item = &SliceKey> {
        self.slices.iter().map(|SliceByKey(slice)| &slice.key)
    }

    /// The endpoints behind a port, in the order of their addresses, each once.
    fn endpoints(&self, service: &ServiceKey, port: &str) -> Vec<Endpoint> {
        let mut found: BTreeMap<SocketAddr, Readiness> = BTreeMap::new();
        for slice in self.held.get(service).into_iter().flat_map(|held| &held.slices) {
            let ports = slice.ports.iter();
            let ports = ports.filter(|p| p.name == port && p.protocol == Transport::Tcp).map(|p| p.port);
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
    /// Whose backend it is.
    owner: String,
    protocol: Option<bool>,
}

/// What a backend is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    service: ServiceKey,
    port: u16,
    special: Option<Special>,
}

/// A backend of a table, and of what port of a Service its endpoints are.
#[derive(Debug)]
pub(super) struct Fed {
    backend: Arc<Backend>,
    service: ServiceKey,
    port: String,
}

impl Fed {
    pub(super) fn service(&self) -> &ServiceKey {
        &self.service
    }

    /// Gives it the endpoints that there are now; the backend when these are others.
    pub(super) fn renew(&self, services: &Services) -> Option<Arc<Backend>> {
        let endpoints = services.endpoints(&self.service, &self.port);
        let differs = *self.backend.endpoints.get() != *endpoints;
        differs.then(|| {
            self.backend.endpoints.set(endpoints);
            self.backend.clone()
        })
    }
}

/// Makes backends, each once.
pub(super) struct Backends<'a> {
    services: &'a Services,
    /// What names of ExternalName Services lead to; none when these are not served.
    names: Option<&'a BTreeMap<String, Resolved>>,
    wanted_names: BTreeSet<String>,
    made: Made<Wanted, Backend>,
    fed: Vec<Fed>,
}

/// A port of a Service.
#[derive(Clone, Copy)]
struct Place<'a> {
    number: u16,
    app_protocol: &'a str,
    behind: Behind<'a>,
}

/// Where its endpoints are.
#[derive(Clone, Copy)]
enum Behind<'a> {
    Slices(&'a ServicePort),
    Name(&'a str),
}

impl<'a> Backends<'a> {
    pub(super) fn new(services: &'a Services, names: Option<&'a BTreeMap<String, Resolved>>) -> Self {
        Self { services, names, wanted_names: BTreeSet::new(), made: Made::new(), fed: Vec::new() }
    }

    /// The names that are to be resolved for the backends that were made, and those of them that EndpointSlices feed.
    pub(super) fn into_sources(self) -> (BTreeSet<String>, Vec<Fed>) {
        (self.wanted_names, self.fed)
    }

    /// The backend that an Ingress names; why there is none. What is wrong with one that there is, is put to `faults`.
    pub(super) fn find(
        &mut self,
        ingress: &IngressKey,
        backend: &IngressBackend,
        options: &Options,
        faults: &mut Faults,
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
        self.service(&ingress.to_string(), service, port, options, faults)
    }

    /// The backend of a port of a Service, which is `owner`'s own when it is anything but plain.
    pub(super) fn service(
        &mut self,
        owner: &str,
        service: ServiceKey,
        port: &BackendPort,
        options: &Options,
        faults: &mut Faults,
    ) -> Result<Arc<Backend>, Fault> {
        let name = &service.name;
        let place = self.place(&service, name, port)?;
        let app = place.app_protocol;
        if options.protocol.is_none() && TLS.contains(&app) {
            let message =
                format!("Service {name}, port {}: TLS ({app}) towards endpoints is not served", place.number);
            return Err(fault("BackendNotServed", message));
        }
        let endpoints_of_name = match place.behind {
            Behind::Slices(_) => None,
            Behind::Name(external) => Some(self.resolved(name, external, place.number, faults)?),
        };
        let protocol =
            options.protocol.unwrap_or(if H2C.contains(&app) { Protocol::H2c } else { Protocol::Http1 });
        let (sticky, proxy_header) = (options.sticky.clone(), options.proxy_header);
        let plain = options.protocol.is_none() && sticky.is_none() && proxy_header.is_none();
        let special = (!plain).then(|| Special {
            owner: owner.to_owned(),
            protocol: options.protocol.map(|protocol| protocol == Protocol::H2c),
        });
        let wanted = Wanted { service: service.clone(), port: place.number, special };
        if let Some(made) = self.made.get(&wanted) {
            return Ok(made.clone());
        }
        let endpoints = match (place.behind, endpoints_of_name) {
            (Behind::Slices(port), _) => self.services.endpoints(&service, &port.name),
            (Behind::Name(_), endpoints) => endpoints.unwrap_or_default(),
        };
        let name = match &wanted.special {
            None => format!("{service}:{}", place.number),
            Some(_) => format!("{service}:{} for {owner}", place.number),
        };
        let made = Arc::new(make(name, protocol, endpoints, sticky, proxy_header));
        if let Behind::Slices(port) = place.behind {
            self.fed.push(Fed { backend: made.clone(), service, port: port.name.clone() });
        }
        self.made.insert(wanted, made.clone());
        Ok(made)
    }

    /// The endpoints behind a name, none before it was resolved.
    fn resolved(
        &mut self,
        service: &ServiceName,
        external: &str,
        port: u16,
        faults: &mut Faults,
    ) -> Result<Vec<Endpoint>, Fault> {
        if !self.wanted_names.contains(external) {
            if self.wanted_names.len() >= MOST_NAMES {
                let message = format!(
                    "Service {service}: more than {MOST_NAMES} names of ExternalName Services are not served; remove some"
                );
                return Err(fault("BackendNotServed", message));
            }
            self.wanted_names.insert(external.to_owned());
        }
        let Some(resolved) = self.names.and_then(|names| names.get(external)) else { return Ok(Vec::new()) };
        if let Some(why) = &resolved.fault {
            faults.push(fault("BackendUnresolved", format!("Service {service}: {why}")));
        }
        let endpoint = |address: &IpAddr| Endpoint {
            address: SocketAddr::new(*address, port),
            readiness: Readiness::Ready,
        };
        Ok(resolved.addresses.iter().map(endpoint).collect())
    }

    fn place(&self, key: &ServiceKey, name: &ServiceName, wanted: &BackendPort) -> Result<Place<'a>, Fault> {
        let service = self.services.row(key);
        let service = service.ok_or_else(|| {
            fault("BackendMissing", format!("there is no Service {name} in namespace {}", key.namespace))
        })?;
        let external = match service.kind {
            ServiceKind::ExternalName => Some(self.external(service, name)?),
            _ => None,
        };
        let mut ports = service.ports.iter().filter(|port| port.protocol == Transport::Tcp);
        let found = ports.find(|port| match wanted {
            BackendPort::Number(number) => port.port == *number,
            BackendPort::Name(name) => port.name == *name,
        });
        if let Some(external) = external {
            // Whatever ports are declared there, DNS knows of none: a number is meant as such.
            let number = match (wanted, found) {
                (_, Some(port)) => Some(port.port),
                (BackendPort::Number(number), None) => Some(*number),
                (BackendPort::Name(_), None) => None,
            };
            if let Some(number) = number {
                let app_protocol = found.and_then(|port| port.app_protocol.as_deref()).unwrap_or_default();
                return Ok(Place { number, app_protocol, behind: Behind::Name(external) });
            }
        }
        let place = |port: &'a ServicePort| Place {
            number: port.port,
            app_protocol: port.app_protocol.as_deref().unwrap_or_default(),
            behind: Behind::Slices(port),
        };
        found.map(place).ok_or_else(|| {
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

    /// The name that a Service of type ExternalName stands for, if such are served.
    fn external(&self, service: &'a Service, name: &ServiceName) -> Result<&'a str, Fault> {
        let refused = |why: &str| {
            Err(fault("BackendNotServed", format!("Service {name} is of type ExternalName, {why}")))
        };
        if self.names.is_none() {
            return refused("which is served where the agents have --ingress-external-names on");
        }
        match service.external_name.as_deref() {
            // An address is no name, for DNS neither.
            Some(external) if external.parse::<IpAddr>().is_err() => Ok(external),
            Some(_) => refused("but names an address; make a Service without selector and an EndpointSlice"),
            None => refused("but its name cannot be read; write a DNS name into spec.externalName"),
        }
    }
}

fn make(
    name: String,
    protocol: Protocol,
    endpoints: Vec<Endpoint>,
    sticky: Option<Sticky>,
    proxy_header: Option<ProxyHeader>,
) -> Backend {
    Backend {
        name: name.into(),
        protocol,
        endpoints: endpoints.into(),
        sticky,
        proxy_header,
        ..Backend::default()
    }
}
