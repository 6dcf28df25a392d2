//! HTTPRoutes and GRPCRoutes: two ways to write the same rules.

use super::super::ingress::path_text;
use super::super::{Converted, Door};
use super::read::{Read, fields, given, group_kind, items, number, only, string, word};
use super::{MOST, generation, namespace, object_ref, spec, uid};
use kube::core::ObjectMeta;
use serde_json::{Map, Value};
use warren_types::gateway::GATEWAY_GROUP;
use warren_types::{
    GatewayRoute, GrpcRoute, HeaderChange, HostPattern, HttpRoute, Namespace, ParentRef, PathChange,
    PathKind, RouteBackend, RouteFilters, RouteKey, RouteKind, RouteMatch, RouteName, RouteRedirect,
    RouteRule,
};

/// Longest value of a header or parameter.
const MAX_VALUE: usize = 4096;
/// Largest weight.
const MAX_WEIGHT: u64 = 1_000_000;

fn key(door: &mut Door, meta: &ObjectMeta) -> Option<RouteKey> {
    let namespace = namespace(door, meta)?;
    let name = door.keep("metadata.name", RouteName::new(meta.name.clone().unwrap_or_default()))?;
    Some(RouteKey { namespace, name })
}

/// The key of an HTTPRoute or GRPCRoute object, when its names are usable.
#[must_use]
pub fn route_key_of(meta: &ObjectMeta) -> Option<RouteKey> {
    key(&mut Door::new("HTTPRoute", meta), meta)
}

/// An HTTPRoute object into a row of table `http_routes`.
#[must_use]
pub fn http_route(meta: &ObjectMeta, data: &Value) -> Converted<HttpRoute> {
    let Converted { row, refused } = route(RouteKind::Http, meta, data);
    Converted { row: row.map(HttpRoute), refused }
}

/// A GRPCRoute object into a row of table `grpc_routes`.
#[must_use]
pub fn grpc_route(meta: &ObjectMeta, data: &Value) -> Converted<GrpcRoute> {
    let Converted { row, refused } = route(RouteKind::Grpc, meta, data);
    Converted { row: row.map(GrpcRoute), refused }
}

fn route(kind: RouteKind, meta: &ObjectMeta, data: &Value) -> Converted<GatewayRoute> {
    let mut door = Door::new(kind.as_str(), meta);
    let row = whole(&mut door, kind, meta, data);
    Converted { row, refused: door.refused }
}

fn whole(door: &mut Door, kind: RouteKind, meta: &ObjectMeta, data: &Value) -> Option<GatewayRoute> {
    let key = key(door, meta)?;
    let spec = spec(door, data)?;
    let parents = door.keep("spec.parentRefs", items(spec, "parentRefs", MOST))?;
    let parents = parents.iter().filter_map(|value| door.keep("spec.parentRefs", parent(value))).collect();
    let (hosts, hosts_refused) = match hosts(spec) {
        Ok(hosts) => (hosts, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let given = door.keep("spec.rules", items(spec, "rules", MOST))?;
    let rules = given.iter().map(|value| rule(door, kind, &key.namespace, value)).collect();
    Some(GatewayRoute {
        kind,
        key,
        uid: uid(meta),
        generation: generation(meta),
        created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        parents,
        hosts,
        hosts_refused,
        rules,
    })
}

fn parent(value: &Value) -> Read<ParentRef> {
    let map = fields(value)?;
    let namespace = string(map, "namespace")?.filter(|name| !name.is_empty());
    Ok(ParentRef {
        of: group_kind(map, GATEWAY_GROUP, "Gateway")?,
        namespace: namespace.map(Namespace::new).transpose().map_err(|e| e.to_string())?,
        name: word(map, "name")?.ok_or("a reference without a name")?,
        section: word(map, "sectionName")?,
        port: port(map)?,
    })
}

fn port(map: &Map<String, Value>) -> Read<Option<u16>> {
    let number = number(map, "port", 65535)?.filter(|number| *number != 0);
    Ok(number.and_then(|number| u16::try_from(number).ok()))
}

fn hosts(spec: &Map<String, Value>) -> Read<Vec<HostPattern>> {
    let read = |value: &Value| {
        let host = value.as_str().ok_or("hostnames: not text")?;
        HostPattern::new(host).map_err(|e| format!("hostnames: {e}"))
    };
    items(spec, "hostnames", MOST)?.iter().map(read).collect()
}

/// A rule; with what it says that is not supported, if there is any such thing.
fn rule(door: &mut Door, kind: RouteKind, own: &Namespace, value: &Value) -> RouteRule {
    let mut rule = RouteRule::default();
    rule.unsupported = fill(door, kind, own, value, &mut rule).err();
    rule
}

fn fill(door: &mut Door, kind: RouteKind, own: &Namespace, value: &Value, rule: &mut RouteRule) -> Read<()> {
    let map = fields(value)?;
    let given_matches = items(map, "matches", MOST)?;
    let mut wrong = Vec::new();
    for (at, one) in given_matches.iter().enumerate() {
        match fields(one).and_then(|one| route_match(door, kind, one)) {
            Ok(one) => rule.matches.push(one),
            Err(why) => wrong.push(format!("matches[{at}].{why}")),
        }
    }
    if given_matches.is_empty() {
        rule.matches.push(everything());
    }
    if let Some(why) = wrong.into_iter().next() {
        return Err(why);
    }
    let mut filters = Filters::default();
    for (at, filter) in items(map, "filters", MOST)?.iter().enumerate() {
        filters.take(door, kind, filter).map_err(|why| format!("filters[{at}]: {why}"))?;
    }
    rule.filters = filters.of_rule;
    for (at, backend) in items(map, "backendRefs", MOST)?.iter().enumerate() {
        let backend = route_backend(own, backend).map_err(|why| format!("backendRefs[{at}]: {why}"))?;
        rule.backends.push(backend);
    }
    if let Some(timeouts) = given(map, "timeouts") {
        let timeouts = fields(timeouts)?;
        rule.request_timeout = duration(timeouts, "request")?;
        rule.backend_timeout = duration(timeouts, "backendRequest")?;
        only(timeouts, &["request", "backendRequest"]).map_err(|why| format!("timeouts: {why}"))?;
    }
    only(map, &["name", "matches", "filters", "backendRefs", "timeouts"])
}

fn everything() -> RouteMatch {
    RouteMatch { path: "/".into(), exact: false, method: None, headers: Vec::new(), query: Vec::new() }
}

fn route_match(door: &mut Door, kind: RouteKind, map: &Map<String, Value>) -> Read<RouteMatch> {
    let mut out = everything();
    out.headers = values(map, "headers", true)?;
    match kind {
        RouteKind::Http => {
            only(map, &["path", "headers", "queryParams", "method"])?;
            out.method = word(map, "method")?;
            out.query = values(map, "queryParams", false)?;
            if let Some(path) = given(map, "path") {
                let path = fields(path)?;
                out.exact = match string(path, "type")?.unwrap_or("PathPrefix") {
                    "Exact" => true,
                    "PathPrefix" => false,
                    other => return Err(format!("path.type {other} is not supported")),
                };
                out.path = checked_path(door, given(path, "value"))?;
            }
        }
        RouteKind::Grpc => {
            only(map, &["method", "headers"])?;
            if let Some(method) = given(map, "method") {
                (out.path, out.exact) = grpc_path(door, fields(method)?)?;
            }
        }
    }
    Ok(out)
}

/// A path as the API allows it; `/` when there is none.
fn checked_path(door: &mut Door, value: Option<&Value>) -> Read<String> {
    let root = Value::String("/".into());
    let kind = PathKind::Prefix;
    path_text(door, "path.value", Some(value.unwrap_or(&root)), kind)
        .ok_or_else(|| "path.value is not a path that can be matched".to_owned())
}

/// The path of a method of gRPC: `/service/method`.
fn grpc_path(door: &mut Door, map: &Map<String, Value>) -> Read<(String, bool)> {
    if let Some(other) = string(map, "type")?.filter(|kind| !matches!(*kind, "" | "Exact")) {
        return Err(format!("method.type {other} is not supported"));
    }
    let (path, exact) = match (word(map, "service")?, word(map, "method")?) {
        (None, None) => ("/".into(), false),
        (Some(service), None) => (format!("/{service}"), false),
        (Some(service), Some(method)) => (format!("/{service}/{method}"), true),
        (None, Some(_)) => return Err("method.method without method.service is not supported".into()),
    };
    Ok((checked_path(door, Some(&path.into()))?, exact))
}

/// Headers or parameters with their values. Of several of one name the first counts.
fn values(map: &Map<String, Value>, name: &str, lower: bool) -> Read<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    for value in items(map, name, MOST)? {
        let value = fields(value)?;
        if let Some(other) = string(value, "type")?.filter(|kind| !matches!(*kind, "" | "Exact")) {
            return Err(format!("{name}: type {other} is not supported"));
        }
        only(value, &["type", "name", "value"])?;
        let (key, wanted) = pair(value, lower).map_err(|why| format!("{name}: {why}"))?;
        if out.iter().all(|(known, _)| *known != key) {
            out.push((key, wanted));
        }
    }
    Ok(out)
}

fn pair(map: &Map<String, Value>, lower: bool) -> Read<(String, String)> {
    let name = word(map, "name")?.ok_or("a name is missing")?;
    let value = string(map, "value")?.unwrap_or_default();
    if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
        return Err(format!("the value of {name} is longer than {MAX_VALUE} bytes, or not printable"));
    }
    Ok((if lower { header_name(&name)? } else { name }, value.to_owned()))
}

/// The name of a header in lower case.
fn header_name(name: &str) -> Read<String> {
    http::HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| format!("{name:?} is not the name of a header"))
}

fn route_backend(own: &Namespace, value: &Value) -> Read<RouteBackend> {
    let map = fields(value)?;
    if !items(map, "filters", MOST)?.is_empty() {
        return Err("filters of a single backend are not supported".into());
    }
    only(map, &["group", "kind", "name", "namespace", "port", "weight", "filters"])?;
    let weight = number(map, "weight", MAX_WEIGHT)?.unwrap_or(1);
    Ok(RouteBackend {
        target: object_ref(map, own, "Service")?,
        port: port(map)?,
        weight: u32::try_from(weight).map_err(|e| e.to_string())?,
    })
}

/// Filters of a rule; the API allows each kind once.
#[derive(Default)]
struct Filters {
    of_rule: RouteFilters,
    kinds: Vec<String>,
}

impl Filters {
    fn take(&mut self, door: &mut Door, kind: RouteKind, value: &Value) -> Read<()> {
        let map = fields(value)?;
        let name = word(map, "type")?.ok_or("type: missing")?;
        if self.kinds.contains(&name) {
            return Err(format!("{name} stands there twice"));
        }
        let part = |field: &str| {
            only(map, &["type", field])?;
            given(map, field).ok_or_else(|| format!("{field}: missing")).and_then(fields)
        };
        let http = kind == RouteKind::Http;
        match name.as_str() {
            "RequestHeaderModifier" => self.of_rule.request = header_change(part("requestHeaderModifier")?)?,
            "ResponseHeaderModifier" => {
                self.of_rule.response = header_change(part("responseHeaderModifier")?)?;
            }
            "RequestRedirect" if http => {
                self.of_rule.redirect = Some(redirect(door, part("requestRedirect")?)?);
            }
            "URLRewrite" if http => {
                let map = part("urlRewrite")?;
                only(map, &["hostname", "path"])?;
                self.of_rule.host = host(map)?;
                self.of_rule.path = path_change(door, map)?;
            }
            other => return Err(format!("{other} is not supported")),
        }
        self.kinds.push(name);
        let both = self.of_rule.redirect.is_some() && self.kinds.iter().any(|kind| kind == "URLRewrite");
        if both { Err("RequestRedirect and URLRewrite exclude each other".into()) } else { Ok(()) }
    }
}

fn header_change(map: &Map<String, Value>) -> Read<HeaderChange> {
    only(map, &["set", "add", "remove"])?;
    let pairs = |name: &str| -> Read<Vec<(String, String)>> {
        items(map, name, MOST)?.iter().map(|value| pair(fields(value)?, true)).collect()
    };
    let removed = |value: &Value| header_name(value.as_str().ok_or("remove: not text")?);
    let remove = items(map, "remove", MOST)?.iter().map(removed).collect::<Read<_>>()?;
    Ok(HeaderChange { set: pairs("set")?, add: pairs("add")?, remove })
}

fn host(map: &Map<String, Value>) -> Read<Option<HostPattern>> {
    let Some(name) = string(map, "hostname")?.filter(|name| !name.is_empty()) else { return Ok(None) };
    let host = HostPattern::new(name).map_err(|e| format!("hostname: {e}"))?;
    if host.wildcard().is_some() {
        return Err("hostname: a wildcard is no host to go to".into());
    }
    Ok(Some(host))
}

fn path_change(door: &mut Door, map: &Map<String, Value>) -> Read<Option<PathChange>> {
    let Some(path) = given(map, "path") else { return Ok(None) };
    let path = fields(path)?;
    Ok(Some(match string(path, "type")?.unwrap_or_default() {
        "ReplaceFullPath" => PathChange::Full(replacement(door, given(path, "replaceFullPath"))?),
        "ReplacePrefixMatch" => PathChange::Prefix(replacement(door, given(path, "replacePrefixMatch"))?),
        other => return Err(format!("path.type {other} is not supported")),
    }))
}

/// What a path becomes: what would not be taken as the path of a request must not be made one.
fn replacement(door: &mut Door, value: Option<&Value>) -> Read<String> {
    let path = match value {
        Some(Value::String(path)) if path.is_empty() => "/".to_owned(),
        value => checked_path(door, value)?,
    };
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\\"<>^`{|}".contains(&byte);
    match path.bytes().all(plain) {
        true => Ok(path),
        false => Err("path: a replacement holds what is no part of a path".into()),
    }
}

fn redirect(door: &mut Door, map: &Map<String, Value>) -> Read<RouteRedirect> {
    only(map, &["scheme", "hostname", "path", "port", "statusCode"])?;
    let https = match string(map, "scheme")?.unwrap_or_default() {
        "" => None,
        "http" => Some(false),
        "https" => Some(true),
        other => return Err(format!("scheme {other} is not supported")),
    };
    let status = match number(map, "statusCode", 999)?.unwrap_or(302) {
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => return Err(format!("statusCode {other} is not supported")),
    };
    Ok(RouteRedirect { https, host: host(map)?, path: path_change(door, map)?, port: port(map)?, status })
}

/// A duration as the Gateway API writes it (GEP-2257: up to four of `1h`, `2m`, `3s`, `4ms`), in milliseconds; none for 0,
/// which means no end.
fn duration(map: &Map<String, Value>, name: &str) -> Read<Option<u64>> {
    let Some(text) = string(map, name)? else { return Ok(None) };
    let wrong = || format!("timeouts.{name}: {text:?} is not a duration such as 1m30s");
    let (mut rest, mut total, mut parts) = (text, 0u64, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (value, after) = rest.split_at(digits);
        let (unit, factor) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            .into_iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(wrong)?;
        parts += 1;
        if !(1..=5).contains(&digits) || parts > 4 {
            return Err(wrong());
        }
        // Five digits of hours fit.
        total += value.parse::<u64>().map_err(|_| wrong())? * factor;
        rest = &after[unit.len()..];
    }
    if parts == 0 { Err(wrong()) } else { Ok(Some(total).filter(|total| *total > 0)) }
}
