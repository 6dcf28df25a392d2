//! From the rows of the store to a route table: what Ingresses, classes, Gateways, routes, Services,
//! EndpointSlices and Secrets mean.
//!
//! Pure: rows in, a table, faults and wanted Secrets out. Two Ingresses that want the same path of the same host are settled
//! for the older one, and the other is told.

mod backends;
mod gateway;
mod nginx;
mod options;
mod rewrite;
mod routes;
mod secrets;
#[cfg(test)]
mod tests;
mod values;

use crate::external::Resolved;
use crate::route::{Backend, RouteTable};
use backends::{Backends, Fed, Services};
pub use gateway::{GatewayRow, Gateways, Rows as GatewayRows, ServedRoute};
use options::Options;
use rustls::sign::CertifiedKey;
use secrets::Secrets;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use warren_types::ingress::INGRESS_CONTROLLER;
use warren_types::{
    EndpointSlice, Fault, Ingress, IngressBackend, IngressClass, IngressClassName, IngressKey, SecretObject,
    SecretRef, Service, ServiceKey, SliceKey,
};

/// What the user says of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of Warren's class, for Ingresses that name it by the annotation of old without an object of that name.
    pub class: IngressClassName,
    /// The port on which clients reach HTTP.
    pub http_port: u16,
    /// The port on which clients reach HTTPS.
    pub https_port: u16,
    /// Whether Services of type ExternalName are served.
    pub external_names: bool,
    /// The certificate of hosts that have none of their own, while Secret [`DEFAULT_CERTIFICATE`] gives none.
    ///
    /// [`DEFAULT_CERTIFICATE`]: warren_types::ingress::DEFAULT_CERTIFICATE
    pub certificate: Option<Arc<CertifiedKey>>,
}

/// What the rows mean.
#[derive(Debug, Default)]
pub struct Compiled {
    /// The routes.
    pub table: Arc<RouteTable>,
    /// The Ingresses that are served here, with their uid, and what is wrong with them. The same allocation as before while
    /// nothing of it changed.
    pub served: Arc<BTreeMap<IngressKey, Served>>,
    /// What there is to say of Gateways and their routes. The same allocation as before while nothing of it changed.
    pub gateways: Arc<Gateways>,
    /// The Secrets that are needed.
    pub wanted: BTreeSet<SecretRef>,
    /// From which Secret the certificate of a host (`example.org`, `*.example.org`) is.
    pub certificates: BTreeMap<String, SecretRef>,
    /// From which Secret the certificate of hosts is that have none of their own; none: it was made here.
    pub default: Option<SecretRef>,
    /// Why that Secret cannot be used, when it is there.
    pub default_fault: Option<Fault>,
    /// The names of ExternalName Services that are to be resolved.
    pub names: BTreeSet<String>,
}

/// What there is to say of an Ingress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its `metadata.uid`.
    pub uid: String,
    /// The hosts of its rules.
    pub hosts: Vec<String>,
    /// How many paths it has.
    pub paths: usize,
    /// Whether it has TLS.
    pub tls: bool,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// An Ingress and what its annotations say.
#[derive(Debug)]
struct Read {
    row: Arc<Ingress>,
    options: Options,
    faults: Vec<Fault>,
}

/// The rows, and what is remembered of them from one compilation to the next.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    ingresses: BTreeMap<IngressKey, Read>,
    classes: BTreeMap<IngressClassName, Arc<IngressClass>>,
    services: Services,
    secrets: Secrets,
    gateways: gateway::Rows,
    /// What names of ExternalName Services lead to.
    names: BTreeMap<String, Resolved>,
    /// The Services that the last table was made of.
    used: BTreeSet<ServiceKey>,
    /// The backends of the last table that EndpointSlices feed.
    fed: Vec<Fed>,
    /// Services of that table whose endpoints may be others now.
    moved: BTreeSet<ServiceKey>,
    /// The Ingresses of the last table.
    served: Arc<BTreeMap<IngressKey, Served>>,
    /// The same of Gateways.
    told: Arc<Gateways>,
    changed: bool,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ingresses: BTreeMap::new(),
            classes: BTreeMap::new(),
            services: Services::default(),
            secrets: Secrets::default(),
            gateways: gateway::Rows::default(),
            names: BTreeMap::new(),
            used: BTreeSet::new(),
            fed: Vec::new(),
            moved: BTreeSet::new(),
            served: Arc::default(),
            told: Arc::default(),
            changed: true,
        }
    }

    /// Whether something changed that the last table was made of.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Whether there is a certificate for hosts that have none of their own, whatever Secrets say.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.settings.certificate.is_some()
    }

    /// The certificate of hosts that have none of their own is this now, while no Secret gives one.
    pub fn set_certificate(&mut self, certificate: Arc<CertifiedKey>) {
        self.settings.certificate = Some(certificate);
        self.changed = true;
    }

    /// An Ingress is like this now, or gone.
    pub fn set_ingress(&mut self, key: &IngressKey, row: Option<Arc<Ingress>>) {
        self.changed = true;
        match row {
            None => drop(self.ingresses.remove(key)),
            Some(row) => {
                let (options, faults) = options::read(&row);
                self.ingresses.insert(key.clone(), Read { row, options, faults });
            }
        }
    }

    /// An IngressClass is like this now, or gone.
    pub fn set_class(&mut self, name: &IngressClassName, row: Option<Arc<IngressClass>>) {
        self.changed = true;
        match row {
            None => drop(self.classes.remove(name)),
            Some(row) => drop(self.classes.insert(name.clone(), row)),
        }
    }

    /// A Service is like this now, or gone.
    pub fn set_service(&mut self, key: &ServiceKey, row: Option<Arc<Service>>) {
        self.changed |= self.used.contains(key);
        self.services.set(key, row);
    }

    /// An EndpointSlice is like this now, or gone. No route changes by it.
    pub fn set_slice(&mut self, key: &SliceKey, row: Option<Arc<EndpointSlice>>) {
        let services = self.services.set_slice(key, row).into_iter().flatten();
        self.moved.extend(services.filter(|service| self.used.contains(service)));
    }

    /// Gives the backends of the last table the endpoints that there are now; those that have others than before. The same
    /// comes of it as of another table, for less.
    pub fn move_endpoints(&mut self) -> Vec<Arc<Backend>> {
        let moved = std::mem::take(&mut self.moved);
        let fed = self.fed.iter().filter(|fed| moved.contains(fed.service()));
        fed.filter_map(|fed| fed.renew(&self.services)).collect()
    }

    /// A Secret is like this now, or nobody asks for it any more.
    pub fn set_secret(&mut self, key: &SecretRef, row: Option<Arc<SecretObject>>) {
        self.changed |= self.secrets.set(key, row);
    }

    /// The names that the last table asked for lead to this now.
    pub fn set_names(&mut self, names: BTreeMap<String, Resolved>) {
        if self.names != names {
            self.names = names;
            self.changed = true;
        }
    }

    /// The keys of all rows of one kind: what a whole list replaces.
    pub fn known_ingresses(&self) -> impl Iterator<Item = &IngressKey> {
        self.ingresses.keys()
    }

    /// The same for classes.
    pub fn known_classes(&self) -> impl Iterator<Item = &IngressClassName> {
        self.classes.keys()
    }

    /// The same for Services.
    pub fn known_services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// The same for slices.
    pub fn known_slices(&self) -> impl Iterator<Item = &SliceKey> {
        self.services.slices()
    }

    /// The same for Secrets.
    pub fn known_secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.secrets.keys()
    }

    /// What the rows mean now.
    pub fn compile(&mut self) -> Compiled {
        self.changed = false;
        self.moved.clear();
        let mut ours: Vec<&Read> = self.ingresses.values().filter(|read| self.is_ours(&read.row)).collect();
        ours.sort_by_key(|read| (read.row.created, &read.row.key));
        let names = self.settings.external_names.then_some(&self.names);
        let backends = Backends::new(&self.services, names);
        let (mut compiled, fed) =
            routes::compile(&ours, &self.gateways, backends, &self.secrets, &self.settings);
        if self.served == compiled.served {
            compiled.served = self.served.clone();
        }
        if self.told == compiled.gateways {
            compiled.gateways = self.told.clone();
        }
        self.used = ours.iter().flat_map(|read| services_of(&read.row)).collect();
        self.used.extend(compiled.gateways.services.iter().cloned());
        self.told = compiled.gateways.clone();
        self.served = compiled.served.clone();
        self.fed = fed;
        compiled
    }

    /// Whether an Ingress is for Warren to serve: its class is one of Warren's, or it has none and the default is.
    fn is_ours(&self, row: &Ingress) -> bool {
        let is_ours = |class: &IngressClass| class.controller == INGRESS_CONTROLLER;
        match &row.class {
            Some(name) => {
                match IngressClassName::new(name.clone()).ok().and_then(|name| self.classes.get(&name)) {
                    Some(class) => is_ours(class),
                    // The annotation of old is a word, not a reference.
                    None => *name == self.settings.class.as_ref(),
                }
            }
            // The newest of several defaults counts, as when Ingresses are made.
            None => {
                let defaults = self.classes.values().filter(|class| class.is_default);
                let newest = defaults.max_by_key(|class| (class.created, std::cmp::Reverse(&class.name)));
                newest.is_some_and(|class| is_ours(class))
            }
        }
    }
}

/// The Services that an Ingress names.
fn services_of(row: &Ingress) -> impl Iterator<Item = ServiceKey> {
    let paths = row.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
    paths.chain(&row.default_backend).filter_map(|backend| match backend {
        IngressBackend::Service { name, .. } => {
            Some(ServiceKey { namespace: row.key.namespace.clone(), name: name.clone() })
        }
        IngressBackend::Resource(_) | IngressBackend::Unreadable => None,
    })
}

type Faults = Vec<Fault>;

fn fault(reason: &str, message: impl Into<String>) -> Fault {
    Fault { reason: reason.into(), message: message.into() }
}

/// What is made once for a table, and shared.
type Made<K, V> = HashMap<K, Arc<V>>;
