//! Who asks, and what they may do. Pure functions.

use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;

use crate::error::{ApiError, ApiResult};
use crate::gateway::said_by_others;
use crate::query::Target;
use crate::registry::{CONFIG_MAP, EVENT, INGRESS, KindId, NODE, POD, SERVICE};
use crate::serve::Standing;
use crate::table::{list, text};
use warren_types::cluster::CONFIG_MAP_NAMESPACE;
use warren_types::connectivity::CONFIG_MAP_NAME;
use warren_types::gateway::GATEWAY_GROUP;

/// Group of administrators.
pub(crate) const MASTERS: &str = "system:masters";
/// Group of nodes.
pub(crate) const NODES: &str = "system:nodes";
/// Group of those who may read all but Secrets.
pub(crate) const VIEWERS: &str = "warren:viewers";
/// Group of everybody who showed a good credential.
const AUTHENTICATED: &str = "system:authenticated";
/// What a node's user name begins with.
pub(crate) const NODE_PREFIX: &str = "system:node:";
/// What a service account's user name begins with; namespace and name follow.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// No credential.
    Anonymous,
    /// An administrator, by name.
    Admin(String),
    /// Who may read all but Secrets, by name.
    Viewer(String),
    /// The agent of this node.
    Node(String),
    /// Somebody known who stands for nothing here by itself: only roles give it rights.
    Other(String),
}

impl User {
    /// From a verified client certificate's common name and organisations.
    pub(crate) fn from_certificate(name: &str, groups: &[&str]) -> Self {
        match name.strip_prefix(NODE_PREFIX) {
            _ if groups.contains(&MASTERS) => Self::Admin(name.to_owned()),
            None if groups.contains(&VIEWERS) => Self::Viewer(name.to_owned()),
            Some(node) if groups.contains(&NODES) && crate::meta::is_dns_subdomain(node) => {
                Self::Node(node.to_owned())
            }
            _ => Self::Other(name.to_owned()),
        }
    }
    /// The name as Kubernetes shows it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Anonymous => "system:anonymous".into(),
            Self::Admin(name) | Self::Viewer(name) | Self::Other(name) => name.clone(),
            Self::Node(node) => format!("{NODE_PREFIX}{node}"),
        }
    }
    /// The groups as Kubernetes shows them.
    pub(crate) fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = match self {
            Self::Anonymous => return vec!["system:unauthenticated".into()],
            Self::Admin(_) => vec![MASTERS.into()],
            Self::Viewer(_) => vec![VIEWERS.into()],
            Self::Node(_) => vec![NODES.into()],
            Self::Other(name) => match name.strip_prefix(ACCOUNT_PREFIX).and_then(|a| a.split_once(':')) {
                Some((namespace, _)) => {
                    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
                }
                None => Vec::new(),
            },
        };
        groups.push(AUTHENTICATED.into());
        groups
    }
}

/// The other side of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) user: User,
    pub(crate) address: IpAddr,
    pub(crate) standing: Arc<Standing>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
    /// From the name that [`Verb::name`] gives.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
        [Get, List, Watch, Create, Update, Patch, Delete, DeleteCollection]
            .into_iter()
            .find(|v| v.name() == name)
    }
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// What agents call themselves as the source of Events.
const AGENT: &str = "warren";
/// Namespace of node leases.
const NODE_LEASES: &str = "kube-node-lease";

/// Decides by the request; `shown` says whether an Ingress of a namespace (first) that agents serve names a Secret (second).
/// A list or watch of one object has its name too.
/// Writes of nodes are looked at again with the objects: [`authorize_write`].
pub(crate) fn authorize(
    user: &User,
    verb: Verb,
    target: &Target,
    shown: impl Fn(&str, &str) -> bool,
) -> ApiResult<()> {
    let allowed = match user {
        User::Admin(_) => true,
        User::Viewer(_) => verb.reads() && !is_secret(target),
        User::Node(_) if is_secret(target) => match (verb, &target.namespace, &target.name) {
            (v, Some(namespace), Some(name)) if v.reads() => shown(namespace, name),
            _ => false,
        },
        User::Node(node) => node_may(node, verb, target),
        User::Anonymous | User::Other(_) => false,
    };
    if allowed {
        return Ok(());
    }
    let kind = target.kind.get();
    let place = match &target.namespace {
        Some(ns) => format!("in the namespace {ns:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let sub = if target.status { "/status" } else { "" };
    let why = format!(
        "User {:?} cannot {} resource \"{}{sub}\" in API group {:?} {place}",
        user.name(),
        verb.name(),
        kind.plural,
        kind.group
    );
    Err(ApiError::forbidden_object(kind, target.name.as_deref().unwrap_or_default(), &why))
}

fn is_secret(target: &Target) -> bool {
    let kind = target.kind.get();
    kind.group.is_empty() && kind.plural == "secrets"
}

/// What nodes follow, and may read in every namespace.
const NODE_READS: [&str; 14] = [
    "nodes",
    "pods",
    "namespaces",
    "leases",
    "services",
    "endpointslices",
    "networkpolicies",
    "ingresses",
    "ingressclasses",
    "gatewayclasses",
    "gateways",
    "httproutes",
    "grpcroutes",
    "referencegrants",
];

fn node_may(node: &str, verb: Verb, target: &Target) -> bool {
    let own = target.name.as_deref() == Some(node);
    let namespace = target.namespace.as_deref();
    match (target.kind.get().plural, verb) {
        (plural, v) if v.reads() && NODE_READS.contains(&plural) => true,
        ("configmaps", v) if v.reads() => namespace == Some(CONFIG_MAP_NAMESPACE),
        // What it found in a run of `warren connectivity`.
        ("configmaps", Verb::Patch) => {
            (namespace, target.name.as_deref()) == (Some(CONFIG_MAP_NAMESPACE), Some(CONFIG_MAP_NAME))
        }
        (_, Verb::DeleteCollection) => false,
        // The name of a new object is in its body: authorize_write.
        ("nodes" | "pods", Verb::Create) => true,
        ("leases", Verb::Create) => namespace == Some(NODE_LEASES),
        ("nodes", _) => own,
        ("pods", _) => true,
        ("leases", _) => own && namespace == Some(NODE_LEASES),
        // Addresses of load balancers and Ingresses, and what is wrong with them.
        ("services" | "ingresses", Verb::Patch) => target.status,
        // What is made of Gateways and routes.
        ("gatewayclasses" | "gateways" | "httproutes" | "grpcroutes", Verb::Patch) => target.status,
        ("events", Verb::Create | Verb::Patch) => !target.status,
        _ => false,
    }
}

/// Decides with the objects: `old` before the write, `new` after it; `served` says whether agents serve an Ingress,
/// or have something to say of an object of the Gateway API.
pub(crate) fn authorize_write(
    user: &User,
    kind: KindId,
    old: Option<&Value>,
    new: Option<&Value>,
    served: impl Fn(&Value) -> bool,
) -> ApiResult<()> {
    let User::Node(node) = user else { return Ok(()) };
    let refuse = |name: &str, why: &str| {
        Err(ApiError::forbidden_object(kind.get(), name, &format!("node {node:?} {why}")))
    };
    for object in [old, new].into_iter().flatten() {
        let name = text(object, "/metadata/name");
        let about = text(object, "/involvedObject/kind");
        if kind == POD {
            if text(object, "/spec/nodeName") != node {
                return refuse(name, "may only write pods with spec.nodeName set to itself");
            }
        } else if kind == EVENT {
            let source = (text(object, "/source/component"), text(object, "/source/host"));
            if source != (AGENT, node) || !matches!(about, "Service" | "Ingress") {
                let why =
                    "may only write Events about Services and Ingresses, with source.host set to itself";
                return refuse(name, why);
            }
        } else if kind == CONFIG_MAP {
            let others = |object: &Value| {
                let mut data = object["data"].clone();
                data.as_object_mut().map(|d| d.remove(&format!("node.{node}")));
                data
            };
            // Before the patch is made only the old one is known.
            if new.is_some() && old.map(others) != new.map(others) {
                return refuse(name, "may only write its own answer");
            }
        } else if kind == INGRESS {
            if !served(object) {
                return refuse(name, "may only write the status of Ingresses whose class is Warren's");
            }
        } else if kind.get().group == GATEWAY_GROUP {
            // By what is stored: the status that it writes must not make it its own.
            if !old.is_some_and(&served) {
                return refuse(
                    name,
                    "may only write the status of Gateways of Warren's, their classes and routes",
                );
            }
        } else if kind == SERVICE {
            if !gives_addresses(object) {
                return refuse(name, "may only write the status of Services that Warren gives addresses to");
            }
        } else if name != node {
            return refuse(name, "may only write its own");
        }
    }
    if kind.get().group == GATEWAY_GROUP
        && let (Some(old), Some(new)) = (old, new)
        && said_by_others(old) != said_by_others(new)
    {
        return refuse(text(new, "/metadata/name"), "may not change what other controllers say of a route");
    }
    if kind == NODE
        && let Some(new) = new
    {
        let cidrs = |o: &Value| (text(o, "/spec/podCIDR").to_owned(), list(o, "/spec/podCIDRs").to_vec());
        if old.map(cidrs).unwrap_or_default() != cidrs(new) {
            return refuse(node, "may not choose its spec.podCIDRs; the server gives them");
        }
    }
    Ok(())
}

/// Whether agents give load-balancer addresses to a Service.
fn gives_addresses(service: &Value) -> bool {
    let class = text(service, "/spec/loadBalancerClass");
    let ours = class.is_empty() || class == warren_types::service::LOAD_BALANCER_CLASS;
    text(service, "/spec/type") == "LoadBalancer" && ours
}

#[cfg(test)]
mod tests;
