//! Routes and their parents: to which listeners a route is attached, for which hosts, and what is said of it.

use super::listeners::{Heard, Hearing};
use super::rules::Rules;
use super::{Gateways, Parts, Rows, ServedRoute, condition, hosts, names, own_kind};
use crate::route::{HostMatch, Scheme};
use std::collections::BTreeSet;
use warren_types::{
    Condition, Gateway, GatewayObject, GatewayRoute, GatewayStatus, GatewayTold, HostPattern, ParentRef,
};

/// A place where a route is asked: which port, which host.
type Place = (Scheme, HostMatch);

/// Puts a route into the table wherever it is attached, and says what has become of it.
pub(super) fn route(
    rows: &Rows,
    heard: &mut Heard<'_>,
    route: &GatewayRoute,
    parts: &mut Parts<'_, '_>,
    out: &mut Gateways,
) {
    let parents: Vec<(&ParentRef, &Gateway)> = route
        .parents
        .iter()
        .filter(|parent| parent.of == own_kind("Gateway"))
        .filter_map(|parent| Some((parent, gateway_of(heard, route, parent)?)))
        .collect();
    if parents.is_empty() {
        return;
    }
    let rules = Rules::of(rows, route, parts);
    out.services.extend(rules.services.iter().cloned());
    let mut told = Vec::new();
    let mut attached: BTreeSet<usize> = BTreeSet::new();
    for (parent, gateway) in parents {
        let found = find(rows, heard, route, parent, gateway);
        if let Ok(found) = &found {
            attached.extend(found.iter().copied());
        }
        told.push((parent.clone(), conditions(route, &rules, found.err())));
    }
    let mut places: Vec<Place> = Vec::new();
    for at in &attached {
        let listener = &heard.listeners[*at];
        if !listener.usable {
            continue;
        }
        for host in hosts::common(listener.row.host.as_ref(), &route.hosts).into_iter().flatten() {
            let place = (listener.scheme, hosts::host_match(host.as_ref()));
            if !is_anothers(heard, listener, host.as_ref()) && !places.contains(&place) {
                places.push(place);
            }
        }
    }
    rules.put(&places, parts.table);
    if rules.is_accepted() {
        for at in &attached {
            heard.listeners[*at].attached += 1;
        }
    }
    if !attached.is_empty() {
        out.routes.push(served(route, &places, &told));
    }
    out.statuses.push(GatewayStatus {
        kind: GatewayObject::Route(route.kind),
        object: route.key.to_string(),
        uid: route.uid.clone(),
        told: GatewayTold::Route { parents: told },
    });
}

/// The Gateway of Warren's that a reference means.
fn gateway_of<'r>(heard: &Heard<'r>, route: &GatewayRoute, parent: &ParentRef) -> Option<&'r Gateway> {
    let namespace = parent.namespace.as_ref().unwrap_or(&route.key.namespace);
    let is =
        |gateway: &Gateway| gateway.key.namespace == *namespace && gateway.key.name.as_str() == parent.name;
    heard.gateways.iter().map(|(gateway, _)| *gateway).find(|gateway| is(gateway))
}

/// Why a route is attached to no listener: reason and message.
type Why = (&'static str, String);

/// The listeners that a parent reference attaches a route to.
fn find(
    rows: &Rows,
    heard: &Heard<'_>,
    route: &GatewayRoute,
    parent: &ParentRef,
    gateway: &Gateway,
) -> Result<Vec<usize>, Why> {
    let named = |listener: &Hearing<'_>| {
        std::ptr::eq(listener.gateway, gateway)
            && parent.section.as_ref().is_none_or(|section| *section == listener.row.name)
            && parent.port.is_none_or(|port| port == listener.row.port)
    };
    let mut found: Vec<usize> =
        (0..heard.listeners.len()).filter(|at| named(&heard.listeners[*at])).collect();
    if found.is_empty() {
        return Err(("NoMatchingParent", format!("Gateway {} has no such listener", gateway.key)));
    }
    found.retain(|at| heard.listeners[*at].admits(rows, route.kind, &route.key.namespace));
    if found.is_empty() {
        let why = format!("allowedRoutes of Gateway {} do not take this {}", gateway.key, route.kind);
        return Err(("NotAllowedByListeners", why));
    }
    if let Some(why) = &route.hosts_refused {
        return Err(("UnsupportedValue", why.clone()));
    }
    found.retain(|at| hosts::common(heard.listeners[*at].row.host.as_ref(), &route.hosts).is_some());
    if found.is_empty() {
        let why = format!("no listener of Gateway {} has a host of spec.hostnames", gateway.key);
        return Err(("NoMatchingListenerHostname", why));
    }
    Ok(found)
}

/// Whether requests for a host are for a listener with a more exact host than `own` has.
fn is_anothers(heard: &Heard<'_>, own: &Hearing<'_>, host: Option<&HostPattern>) -> bool {
    heard.listeners.iter().any(|other| {
        other.usable
            && other.scheme == own.scheme
            && hosts::is_narrower(other.row.host.as_ref(), own.row.host.as_ref())
            && hosts::contains(other.row.host.as_ref(), host)
    })
}

fn conditions(route: &GatewayRoute, rules: &Rules, refused: Option<Why>) -> Vec<Condition> {
    let generation = route.generation;
    let say = |kind: &str, why: Option<(&str, String)>| match why {
        None => condition(kind, true, kind, String::new(), generation),
        Some((reason, message)) => condition(kind, false, reason, message, generation),
    };
    let unsupported = rules.unsupported.join("; ");
    let invalid = (!rules.is_accepted()).then(|| ("UnsupportedValue", unsupported.clone()));
    let mut out = vec![say("Accepted", refused.or(invalid)), say("ResolvedRefs", rules.unresolved.clone())];
    if rules.is_accepted() && !rules.unsupported.is_empty() {
        out.push(condition(
            "PartiallyInvalid",
            true,
            "UnsupportedValue",
            format!("Dropped Rule: {unsupported}"),
            generation,
        ));
    }
    out
}

fn served(route: &GatewayRoute, places: &[Place], told: &[(ParentRef, Vec<Condition>)]) -> ServedRoute {
    let hosts: Vec<HostMatch> = places.iter().map(|(_, host)| host.clone()).collect();
    let mut hosts = names(&hosts);
    hosts.sort();
    hosts.dedup();
    let bad = |condition: &&Condition| condition.holds == (condition.kind == "PartiallyInvalid");
    let conditions = told.iter().flat_map(|(_, conditions)| conditions);
    let mut faults: Vec<String> =
        conditions.filter(bad).map(|c| format!("{}: {}", c.reason, c.message)).collect();
    faults.sort();
    faults.dedup();
    ServedRoute {
        kind: route.kind,
        namespace: route.key.namespace.to_string(),
        name: route.key.name.to_string(),
        hosts,
        matches: route.rules.iter().map(|rule| rule.matches.len()).sum(),
        tls: places.iter().any(|(scheme, _)| *scheme == Scheme::Https),
        faults,
    }
}
