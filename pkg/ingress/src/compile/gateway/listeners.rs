//! Listeners: which of them can be served, and what is said of each.

use super::{Parts, Rows, condition, hosts, may_refer, own_kind};
use crate::compile::Settings;
use crate::route::Scheme;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use warren_types::{
    AllowedNamespaces, Condition, Gateway, GatewayClass, GatewayObject, GatewayStatus, GatewayTold,
    GroupKind, Listener, ListenerTold, Namespace, RouteKind, SecretName, SecretRef,
};

/// A listener.
pub(super) struct Hearing<'r> {
    pub(super) gateway: &'r Gateway,
    pub(super) row: &'r Listener,
    /// The scheme of its port.
    pub(super) scheme: Scheme,
    /// Whether requests come by it.
    pub(super) usable: bool,
    /// The routes that it takes.
    kinds: Vec<RouteKind>,
    pub(super) attached: u32,
    conditions: Vec<Condition>,
}

/// All listeners of all Gateways.
#[derive(Default)]
pub(super) struct Heard<'r> {
    pub(super) gateways: Vec<(&'r Gateway, Vec<Condition>)>,
    pub(super) listeners: Vec<Hearing<'r>>,
}

/// Why something is not as it should be: reason and message.
type Why = (&'static str, String);

impl<'r> Heard<'r> {
    /// Takes the listeners of a Gateway.
    pub(super) fn gateway(
        &mut self,
        rows: &Rows,
        class: &GatewayClass,
        gateway: &'r Gateway,
        settings: &Settings,
        parts: &mut Parts<'_, '_>,
    ) {
        let generation = gateway.generation;
        let refused = match &gateway.refused {
            Some(fault) => Some((fault.reason.clone(), fault.message.clone())),
            None if class.has_parameters => {
                Some(("Invalid".into(), format!("GatewayClass {} is not accepted", class.name)))
            }
            None => None,
        };
        let begin = self.listeners.len();
        let mut accepted = 0;
        for row in &gateway.listeners {
            let judged = judge(rows, gateway, row, settings, parts);
            accepted += usize::from(judged.accepted.is_none());
            let mut hearing = Hearing {
                gateway,
                row,
                scheme: judged.scheme,
                usable: judged.is_usable() && refused.is_none(),
                kinds: judged.kinds.clone(),
                attached: 0,
                conditions: judged.conditions(refused.is_some(), generation),
            };
            if hearing.usable && hearing.scheme == Scheme::Https {
                match judged.certificate {
                    Some((from, certificate)) => serve_certificate(row, from, certificate, parts),
                    None => hearing.usable = false,
                }
            }
            self.listeners.push(hearing);
        }
        let own = self.listeners.get(begin..).unwrap_or_default();
        let usable = own.iter().filter(|listener| listener.usable).count();
        let all = own.len();
        let told = match &refused {
            Some((reason, message)) => condition("Accepted", false, reason, message.clone(), generation),
            None if accepted == all && all > 0 => {
                condition("Accepted", true, "Accepted", String::new(), generation)
            }
            None => {
                let message = format!("{accepted} of {all} listeners can be served");
                condition("Accepted", accepted > 0, "ListenersNotValid", message, generation)
            }
        };
        let programmed = match usable {
            0 => condition("Programmed", false, "Invalid", "no listener is served".into(), generation),
            _ => condition("Programmed", true, "Programmed", String::new(), generation),
        };
        self.gateways.push((gateway, vec![told, programmed]));
    }

    /// What is said of all Gateways.
    pub(super) fn statuses(&self) -> Vec<GatewayStatus> {
        let listeners = |gateway: &Gateway| {
            let own = self.listeners.iter().filter(|listener| std::ptr::eq(listener.gateway, gateway));
            own.map(|listener| ListenerTold {
                name: listener.row.name.clone(),
                kinds: listener.kinds.clone(),
                attached: listener.attached,
                conditions: listener.conditions.clone(),
            })
            .collect()
        };
        let status = |(gateway, conditions): &(&Gateway, Vec<Condition>)| GatewayStatus {
            kind: GatewayObject::Gateway,
            object: gateway.key.to_string(),
            uid: gateway.uid.clone(),
            told: GatewayTold::Gateway {
                addresses: Vec::new(),
                conditions: conditions.clone(),
                listeners: listeners(gateway),
            },
        };
        self.gateways.iter().map(status).collect()
    }
}

impl Hearing<'_> {
    /// Whether routes of this kind and namespace may attach.
    pub(super) fn admits(&self, rows: &Rows, kind: RouteKind, namespace: &Namespace) -> bool {
        self.kinds.contains(&kind)
            && match &self.row.from {
                AllowedNamespaces::All => true,
                AllowedNamespaces::Same => *namespace == self.gateway.key.namespace,
                AllowedNamespaces::None => false,
                AllowedNamespaces::Selector(selector) => {
                    let space = rows.namespaces.get(namespace.as_str());
                    space.is_some_and(|space| selector.matches(&space.labels))
                }
            }
    }
}

/// What is made of a listener.
struct Judged {
    scheme: Scheme,
    kinds: Vec<RouteKind>,
    /// Why it is not accepted.
    accepted: Option<Why>,
    /// With what other listener it is in conflict.
    conflict: Option<Why>,
    /// What of its references cannot be used.
    resolved: Option<Why>,
    certificate: Option<(SecretRef, Arc<CertifiedKey>)>,
}

impl Judged {
    fn is_usable(&self) -> bool {
        self.accepted.is_none() && (self.scheme == Scheme::Http || self.certificate.is_some())
    }

    fn conditions(&self, refused: bool, generation: i64) -> Vec<Condition> {
        let say = |kind: &str, good: &str, why: Option<&Why>| match why {
            None => condition(kind, true, good, String::new(), generation),
            Some((reason, message)) => condition(kind, false, reason, message.clone(), generation),
        };
        let programmed = ("Invalid", "it is not served".to_owned());
        let (reason, message) = self.conflict.clone().unwrap_or(("NoConflicts", String::new()));
        let served = self.is_usable() && !refused;
        vec![
            say("Accepted", "Accepted", self.accepted.as_ref()),
            say("Programmed", "Programmed", (!served).then_some(&programmed)),
            say("ResolvedRefs", "ResolvedRefs", self.resolved.as_ref()),
            condition("Conflicted", self.conflict.is_some(), reason, message, generation),
        ]
    }
}

fn judge(
    rows: &Rows,
    gateway: &Gateway,
    row: &Listener,
    settings: &Settings,
    parts: &mut Parts<'_, '_>,
) -> Judged {
    let (kinds, mut resolved) = kinds(row);
    let conflict = conflict(gateway, row);
    let scheme = if row.protocol == "HTTPS" { Scheme::Https } else { Scheme::Http };
    let port = match scheme {
        Scheme::Http => settings.http_port,
        Scheme::Https => settings.https_port,
    };
    let accepted = if let Some(why) = &row.refused {
        Some(("UnsupportedValue", why.clone()))
    } else if !matches!(row.protocol.as_str(), "HTTP" | "HTTPS") {
        Some(("UnsupportedProtocol", format!("protocol {} is not served; use HTTP or HTTPS", row.protocol)))
    } else if row.port != port {
        let served = format!("{} for HTTP and {} for HTTPS", settings.http_port, settings.https_port);
        Some(("PortUnavailable", format!("port {} is not served; nodes listen on {served}", row.port)))
    } else {
        conflict.clone()
    };
    let mut certificate = None;
    if scheme == Scheme::Https && accepted.is_none() {
        match find_certificate(rows, gateway, row, parts) {
            Ok(found) => certificate = Some(found),
            Err(why) => resolved = Some(why),
        }
    }
    Judged { scheme, kinds, accepted, conflict, resolved, certificate }
}

/// The kinds that a listener takes, and what of `allowedRoutes.kinds` is none.
fn kinds(row: &Listener) -> (Vec<RouteKind>, Option<Why>) {
    let all = [RouteKind::Http, RouteKind::Grpc];
    if !matches!(row.protocol.as_str(), "HTTP" | "HTTPS") {
        return (Vec::new(), None);
    }
    if row.kinds.is_empty() {
        return (all.to_vec(), None);
    }
    let is = |of: &GroupKind, kind: RouteKind| *of == own_kind(kind.as_str());
    let taken = all.into_iter().filter(|kind| row.kinds.iter().any(|of| is(of, *kind))).collect();
    let foreign = row.kinds.iter().find(|of| all.iter().all(|kind| !is(of, *kind)));
    let why = foreign.map(|of| {
        (
            "InvalidRouteKinds",
            format!("{} of group {:?} is no kind of route that is served", of.kind, of.group),
        )
    });
    (taken, why)
}

/// Whether another listener of the Gateway has the same port, and cannot be told apart from this.
fn conflict(gateway: &Gateway, row: &Listener) -> Option<Why> {
    let others = || gateway.listeners.iter().filter(|o| !std::ptr::eq(*o, row) && o.port == row.port);
    if let Some(other) = others().find(|other| other.protocol != row.protocol) {
        let why = format!("listener {} has port {} for {}", other.name, other.port, other.protocol);
        return Some(("ProtocolConflict", why));
    }
    let other = others().find(|other| other.host == row.host)?;
    Some(("HostnameConflict", format!("listener {} has the same port and hostname", other.name)))
}

/// The certificate of a listener.
fn find_certificate(
    rows: &Rows,
    gateway: &Gateway,
    row: &Listener,
    parts: &mut Parts<'_, '_>,
) -> Result<(SecretRef, Arc<CertifiedKey>), Why> {
    let invalid = |why: String| ("InvalidCertificateRef", why);
    let [reference] = row.certificates.as_slice() else {
        let many = row.certificates.len();
        return Err(invalid(format!("tls.certificateRefs names {many} Secrets; one is served")));
    };
    if !reference.of.group.is_empty() || reference.of.kind != "Secret" {
        return Err(invalid(format!("a {} is no certificate; name a Secret", reference.of.kind)));
    }
    if !may_refer(rows, "Gateway", &gateway.key.namespace, reference) {
        let (namespace, name) = (&reference.namespace, &reference.name);
        let why =
            format!("no ReferenceGrant in namespace {namespace} lets this Gateway refer to Secret {name}");
        return Err(("RefNotPermitted", why));
    }
    let name = SecretName::new(reference.name.clone()).map_err(|e| invalid(e.to_string()))?;
    let key = SecretRef { namespace: reference.namespace.clone(), name };
    parts.wanted.insert(key.clone());
    match parts.secrets.certificate(&key) {
        None => Err(invalid(format!("Secret {key} has not been read yet"))),
        Some(Err(fault)) => Err(invalid(fault.message)),
        Some(Ok(certificate)) => Ok((key, certificate)),
    }
}

fn serve_certificate(
    row: &Listener,
    from: SecretRef,
    certificate: Arc<CertifiedKey>,
    parts: &mut Parts<'_, '_>,
) {
    let Some(host) = &row.host else {
        // Whatever other names there are, this listener is for them.
        parts.certificates.set_default(certificate);
        *parts.default = Some(from);
        return;
    };
    match hosts::host_match(Some(host)) {
        crate::route::HostMatch::Below(parent) => parts.certificates.add_below(&parent, certificate),
        _ => parts.certificates.add(host.as_str(), certificate),
    };
    parts.sources.entry(host.to_string()).or_insert(from);
}
