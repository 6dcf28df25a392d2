//! Who asks, and what they may do. Pure functions.

use serde_json::Value;
use std::net::IpAddr;

use crate::error::{ApiError, ApiResult};
use crate::query::Target;
use crate::registry::{KindId, NODE, POD};
use crate::table::{list, text};

/// Group of administrators.
pub(crate) const MASTERS: &str = "system:masters";
/// Group of nodes.
pub(crate) const NODES: &str = "system:nodes";
/// What a node's user name begins with.
pub(crate) const NODE_PREFIX: &str = "system:node:";

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// No certificate.
    Anonymous,
    /// An administrator, by name.
    Admin(String),
    /// The agent of this node.
    Node(String),
    /// A valid certificate that stands for nothing here.
    Other(String),
}

impl User {
    /// From a verified client certificate's common name and organisations.
    pub(crate) fn from_certificate(name: &str, groups: &[&str]) -> Self {
        match name.strip_prefix(NODE_PREFIX) {
            _ if groups.contains(&MASTERS) => Self::Admin(name.to_owned()),
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
            Self::Admin(name) | Self::Other(name) => name.clone(),
            Self::Node(node) => format!("{NODE_PREFIX}{node}"),
        }
    }
}

/// The other side of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) user: User,
    pub(crate) address: IpAddr,
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
    fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// Namespace of node leases.
const NODE_LEASES: &str = "kube-node-lease";

/// Decides by the request alone. Writes of nodes are looked at again with the objects: [`authorize_write`].
pub(crate) fn authorize(user: &User, verb: Verb, target: &Target) -> ApiResult<()> {
    let allowed = match user {
        User::Admin(_) => true,
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

fn node_may(node: &str, verb: Verb, target: &Target) -> bool {
    let own = target.name.as_deref() == Some(node);
    let namespace = target.namespace.as_deref();
    match (target.kind.get().plural, verb) {
        ("nodes" | "pods" | "namespaces" | "leases", v) if v.reads() => true,
        ("configmaps", v) if v.reads() => namespace == Some("kube-system"),
        (_, Verb::DeleteCollection) => false,
        // The name of a new object is in its body: authorize_write.
        ("nodes" | "pods", Verb::Create) => true,
        ("leases", Verb::Create) => namespace == Some(NODE_LEASES),
        ("nodes", _) => own,
        ("pods", _) => true,
        ("leases", _) => own && namespace == Some(NODE_LEASES),
        _ => false,
    }
}

/// Decides with the objects: `old` before the write, `new` after it.
pub(crate) fn authorize_write(
    user: &User,
    kind: KindId,
    old: Option<&Value>,
    new: Option<&Value>,
) -> ApiResult<()> {
    let User::Node(node) = user else { return Ok(()) };
    let refuse = |name: &str, why: &str| {
        Err(ApiError::forbidden_object(kind.get(), name, &format!("node {node:?} {why}")))
    };
    for object in [old, new].into_iter().flatten() {
        let name = text(object, "/metadata/name");
        if kind == POD {
            if text(object, "/spec/nodeName") != node {
                return refuse(name, "may only write pods with spec.nodeName set to itself");
            }
        } else if name != node {
            return refuse(name, "may only write its own");
        }
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

#[cfg(test)]
mod tests;
