//! Objects of the Gateway API.
//!
//! What an object says beyond what Warren understands is kept as a word about it, which becomes a condition in its status,
//! and what it was said of serves nothing: a condition on requests or clients that is not understood must not be taken
//! for none. Only what leaves nobody to tell is refused here: an object without usable names.

mod read;
mod routes;
#[cfg(test)]
mod tests;

pub use routes::{grpc_route, http_route, route_key_of};

use super::policy::whole_selector;
use super::{Converted, Door};
use kube::core::ObjectMeta;
use read::{Read, fields, given, group_kind, items, number, only, string, word};
use serde_json::{Map, Value};
use warren_types::gateway::GATEWAY_GROUP;
use warren_types::{
    AllowedNamespaces, Fault, Gateway, GatewayClass, GatewayClassName, GatewayKey, GatewayName, GrantKey,
    GrantName, GroupKind, HostPattern, Listener, Namespace, ObjectRef, ReferenceGrant,
};

/// At most this many entries of any list are kept: as many listeners as the API allows, and more than it does of others.
const MOST: usize = 64;

fn namespace(door: &mut Door, meta: &ObjectMeta) -> Option<Namespace> {
    door.keep("metadata.namespace", Namespace::new(meta.namespace.clone().unwrap_or_default()))
}

fn generation(meta: &ObjectMeta) -> i64 {
    meta.generation.unwrap_or_default()
}

fn uid(meta: &ObjectMeta) -> String {
    meta.uid.clone().unwrap_or_default()
}

/// The `spec` of an object; refused when it is none.
fn spec<'a>(door: &mut Door, data: &'a Value) -> Option<&'a Map<String, Value>> {
    door.keep("spec", data.get("spec").ok_or_else(|| "missing".to_owned()).and_then(fields))
}

/// The name of a GatewayClass object, when it is usable.
#[must_use]
pub fn gateway_class_of(meta: &ObjectMeta) -> Option<GatewayClassName> {
    GatewayClassName::new(meta.name.clone().unwrap_or_default()).ok()
}

/// A GatewayClass object into a row of table `gateway_classes`.
#[must_use]
pub fn gateway_class(meta: &ObjectMeta, data: &Value) -> Converted<GatewayClass> {
    let mut door = Door::new("GatewayClass", meta);
    let name = door.keep("metadata.name", GatewayClassName::new(meta.name.clone().unwrap_or_default()));
    let row = name.and_then(|name| {
        let spec = spec(&mut door, data)?;
        let controller = door.keep("spec.controllerName", word(spec, "controllerName"));
        Some(GatewayClass {
            name,
            uid: uid(meta),
            generation: generation(meta),
            controller: controller.flatten().unwrap_or_default(),
            has_parameters: given(spec, "parametersRef").is_some(),
        })
    });
    Converted { row, refused: door.refused }
}

fn gateway_key(door: &mut Door, meta: &ObjectMeta) -> Option<GatewayKey> {
    let namespace = namespace(door, meta)?;
    let name = door.keep("metadata.name", GatewayName::new(meta.name.clone().unwrap_or_default()))?;
    Some(GatewayKey { namespace, name })
}

/// The key of a Gateway object, when its names are usable.
#[must_use]
pub fn gateway_key_of(meta: &ObjectMeta) -> Option<GatewayKey> {
    gateway_key(&mut Door::new("Gateway", meta), meta)
}

/// A Gateway object into a row of table `gateways`.
#[must_use]
pub fn gateway(meta: &ObjectMeta, data: &Value) -> Converted<Gateway> {
    let mut door = Door::new("Gateway", meta);
    let row = whole_gateway(&mut door, meta, data);
    Converted { row, refused: door.refused }
}

fn whole_gateway(door: &mut Door, meta: &ObjectMeta, data: &Value) -> Option<Gateway> {
    let key = gateway_key(door, meta)?;
    let spec = spec(door, data)?;
    let class = string(spec, "gatewayClassName").map(Option::unwrap_or_default);
    let class = class.and_then(|name| GatewayClassName::new(name).map_err(|e| e.to_string()));
    let class = door.keep("spec.gatewayClassName", class)?;
    let mut refused = refused(spec).err();
    let listeners = items(spec, "listeners", MOST).unwrap_or_else(|why| {
        refused.get_or_insert(invalid(why));
        &[]
    });
    let listeners = listeners.iter().filter_map(|value| {
        // Without a name there is nobody to tell of it.
        let map = door.keep("spec.listeners", fields(value))?;
        let name = door.keep("spec.listeners.name", word(map, "name"))??;
        Some(listener(door, &key, name, map))
    });
    let listeners = listeners.collect();
    Some(Gateway { key, uid: uid(meta), generation: generation(meta), class, listeners, refused })
}

fn invalid(message: String) -> Fault {
    Fault { reason: "Invalid".into(), message }
}

/// What of the spec forbids to serve any of it.
fn refused(spec: &Map<String, Value>) -> Result<(), Fault> {
    if given(spec, "addresses").is_some_and(|a| a.as_array().is_none_or(|a| !a.is_empty())) {
        let message = "Gateways are at the addresses of the nodes; leave spec.addresses out".into();
        return Err(Fault { reason: "UnsupportedAddress".into(), message });
    }
    let parameters = given(spec, "infrastructure").and_then(|i| i.get("parametersRef"));
    if parameters.is_some_and(|p| !p.is_null()) {
        let message = "no parameters are known; leave spec.infrastructure.parametersRef out".into();
        return Err(Fault { reason: "InvalidParameters".into(), message });
    }
    let known = ["gatewayClassName", "listeners", "addresses", "infrastructure", "allowedListeners"];
    only(spec, &known).map_err(|why| invalid(format!("spec: {why}")))
}

fn listener(door: &mut Door, of: &GatewayKey, name: String, map: &Map<String, Value>) -> Listener {
    let mut listener = Listener {
        name,
        host: None,
        port: 0,
        protocol: String::new(),
        certificates: Vec::new(),
        from: AllowedNamespaces::None,
        kinds: Vec::new(),
        refused: None,
    };
    listener.refused = fill(door, of, &mut listener, map).err();
    listener
}

/// Reads the rest of a listener, as far as it can be read.
fn fill(door: &mut Door, of: &GatewayKey, listener: &mut Listener, map: &Map<String, Value>) -> Read<()> {
    listener.port = number(map, "port", 65535)?.and_then(|n| u16::try_from(n).ok()).ok_or("port: missing")?;
    listener.protocol = word(map, "protocol")?.ok_or("protocol: missing")?;
    listener.host = match string(map, "hostname")?.filter(|host| !host.is_empty()) {
        None => None,
        Some(host) => Some(HostPattern::new(host).map_err(|e| format!("hostname: {e}"))?),
    };
    if let Some(allowed) = given(map, "allowedRoutes") {
        let allowed = fields(allowed)?;
        listener.kinds = items(allowed, "kinds", MOST)?
            .iter()
            .map(|kind| group_kind(fields(kind)?, GATEWAY_GROUP, ""))
            .collect::<Read<_>>()?;
        listener.from = match given(allowed, "namespaces") {
            None => AllowedNamespaces::Same,
            Some(namespaces) => allowed_namespaces(door, fields(namespaces)?)?,
        };
        only(allowed, &["kinds", "namespaces"])?;
    } else {
        listener.from = AllowedNamespaces::Same;
    }
    only(map, &["name", "hostname", "port", "protocol", "tls", "allowedRoutes"])?;
    let Some(tls) = given(map, "tls") else { return Ok(()) };
    let tls = fields(tls)?;
    listener.certificates = items(tls, "certificateRefs", MOST)?
        .iter()
        .map(|reference| object_ref(fields(reference)?, &of.namespace, "Secret"))
        .collect::<Read<_>>()?;
    if let Some(mode) = string(tls, "mode")?.filter(|mode| !matches!(*mode, "" | "Terminate")) {
        return Err(format!("tls.mode {mode} is not supported; use Terminate"));
    }
    if given(tls, "options").is_some_and(|o| o.as_object().is_none_or(|o| !o.is_empty())) {
        return Err("tls.options: none are known; leave them out".into());
    }
    only(tls, &["certificateRefs", "mode", "options"]).map_err(|why| format!("tls: {why}"))
}

fn allowed_namespaces(door: &mut Door, map: &Map<String, Value>) -> Read<AllowedNamespaces> {
    only(map, &["from", "selector"])?;
    Ok(match string(map, "from")?.unwrap_or("Same") {
        "Same" => AllowedNamespaces::Same,
        "All" => AllowedNamespaces::All,
        "None" => AllowedNamespaces::None,
        "Selector" => {
            let field = "spec.listeners.allowedRoutes.namespaces.selector";
            let selector = given(map, "selector").ok_or("allowedRoutes.namespaces.selector: missing")?;
            let selector = whole_selector(door, field, selector);
            AllowedNamespaces::Selector(selector.ok_or("allowedRoutes.namespaces.selector cannot be read")?)
        }
        other => return Err(format!("allowedRoutes.namespaces.from {other} is not known")),
    })
}

/// A reference to an object of the kind `usual` in the core group, where it does not say another.
fn object_ref(map: &Map<String, Value>, own: &Namespace, usual: &str) -> Read<ObjectRef> {
    let namespace = match string(map, "namespace")?.filter(|name| !name.is_empty()) {
        None => own.clone(),
        Some(name) => Namespace::new(name).map_err(|e| e.to_string())?,
    };
    Ok(ObjectRef {
        of: group_kind(map, "", usual)?,
        namespace,
        name: word(map, "name")?.ok_or("a reference without a name")?,
    })
}

fn grant_key(door: &mut Door, meta: &ObjectMeta) -> Option<GrantKey> {
    let namespace = namespace(door, meta)?;
    let name = door.keep("metadata.name", GrantName::new(meta.name.clone().unwrap_or_default()))?;
    Some(GrantKey { namespace, name })
}

/// The key of a ReferenceGrant object, when its names are usable.
#[must_use]
pub fn grant_key_of(meta: &ObjectMeta) -> Option<GrantKey> {
    grant_key(&mut Door::new("ReferenceGrant", meta), meta)
}

/// A ReferenceGrant object into a row of table `reference_grants`. What cannot be read of it grants nothing.
#[must_use]
pub fn reference_grant(meta: &ObjectMeta, data: &Value) -> Converted<ReferenceGrant> {
    let mut door = Door::new("ReferenceGrant", meta);
    let row = grant_key(&mut door, meta).and_then(|key| {
        let spec = spec(&mut door, data)?;
        let known = only(spec, &["from", "to"]);
        door.keep("spec", known)?;
        let from = door.keep("spec.from", items(spec, "from", MOST))?;
        let from = from.iter().filter_map(|value| door.keep("spec.from", granted_from(value))).collect();
        let to = door.keep("spec.to", items(spec, "to", MOST))?;
        let to = to.iter().filter_map(|value| door.keep("spec.to", granted_to(value))).collect();
        Some(ReferenceGrant { key, from, to })
    });
    Converted { row, refused: door.refused }
}

fn granted_from(value: &Value) -> Read<(GroupKind, Namespace)> {
    let map = fields(value)?;
    only(map, &["group", "kind", "namespace"])?;
    let namespace = string(map, "namespace")?.unwrap_or_default();
    Ok((group_kind(map, "", "")?, Namespace::new(namespace).map_err(|e| e.to_string())?))
}

fn granted_to(value: &Value) -> Read<(GroupKind, Option<String>)> {
    let map = fields(value)?;
    only(map, &["group", "kind", "name"])?;
    Ok((group_kind(map, "", "")?, word(map, "name")?))
}
