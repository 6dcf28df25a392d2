//! From wanted endpoints and the slices that are there to the fewest writes. Pure.
//!
//! A slice whose endpoints are all wanted as they are stays untouched. Slices that change anyway are filled first, then
//! one that has room for all that is left, then new ones.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::storage::Object;
use crate::table::{list, text};

/// Names the Service of a slice.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Names who writes a slice.
pub(crate) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Marks slices and Endpoints of headless Services.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Endpoints that share their ports.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) ports: Vec<Value>,
    pub(crate) endpoints: Vec<Value>,
}

/// Groups of endpoints by address type.
pub(crate) type Wanted = BTreeMap<&'static str, Vec<Group>>;

/// What all slices of one owner share.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Name of the Service, and so the beginning of the names.
    pub(crate) service: String,
    pub(crate) labels: Map<String, Value>,
    pub(crate) annotations: Map<String, Value>,
    /// The one owner reference.
    pub(crate) owner: Value,
    /// Most endpoints of a slice.
    pub(crate) most: usize,
    /// Whether an address type without endpoints has an empty slice.
    pub(crate) placeholder: bool,
}

/// The writes to do.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) create: Vec<Value>,
    pub(crate) update: Vec<(Arc<Object>, Value)>,
    pub(crate) delete: Vec<Arc<Object>>,
}

/// The type of an address that may be an endpoint; loopback, link-local and the like may not.
pub(crate) fn address_type(address: &str) -> Option<&'static str> {
    let address: IpAddr = address.parse().ok()?;
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    let refused = link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified();
    (!refused).then_some(if address.is_ipv4() { "IPv4" } else { "IPv6" })
}

/// What makes two lists of ports the same: neither the order of ports nor that of members.
pub(crate) fn ports_key(ports: &[Value]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| {
            let number = p.get("port").and_then(Value::as_i64);
            json!([text(p, "/name"), text(p, "/protocol"), number, text(p, "/appProtocol")]).to_string()
        })
        .collect();
    keys.sort_unstable();
    keys.concat()
}

/// What makes an endpoint the same one, whatever its state.
fn identity(endpoint: &Value) -> String {
    let target = endpoint.get("targetRef");
    let part = |p: &str| target.map_or("", |t| text(t, p)).to_owned();
    json!([
        endpoint.get("addresses"),
        part("/uid"),
        part("/namespace"),
        part("/name"),
        endpoint.get("hostname")
    ])
    .to_string()
}

impl Frame {
    fn owns(&self, slice: &Object) -> bool {
        let owners = list(&slice.value, "/metadata/ownerReferences");
        owners.iter().any(|o| text(o, "/uid") == text(&self.owner, "/uid"))
    }

    fn dressed(&self, slice: &Object) -> bool {
        let has = |part: &str, wanted: &Map<String, Value>| match slice.value["metadata"].get(part) {
            Some(Value::Object(found)) => found == wanted,
            _ => wanted.is_empty(),
        };
        has("labels", &self.labels) && has("annotations", &self.annotations)
    }

    fn new_slice(&self, kind: &str, ports: &[Value], endpoints: &[Value]) -> Value {
        let mut metadata = json!({"generateName": format!("{}-", self.service), "labels": self.labels,
            "ownerReferences": [self.owner]});
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        json!({"metadata": metadata, "addressType": kind, "endpoints": endpoints, "ports": ports})
    }

    fn rewritten(&self, slice: &Object, ports: &[Value], endpoints: &[Value]) -> Value {
        let mut new = slice.value.clone();
        new["metadata"]["labels"] = self.labels.clone().into();
        if self.annotations.is_empty() {
            crate::meta::of(&mut new).shift_remove("annotations");
        } else {
            new["metadata"]["annotations"] = self.annotations.clone().into();
        }
        new["endpoints"] = endpoints.into();
        new["ports"] = ports.into();
        new
    }
}

/// A slice in the making.
struct Draft {
    /// The slice that is there; a new one has none.
    slice: Option<Arc<Object>>,
    endpoints: Vec<Value>,
    changed: bool,
}

/// The writes that lead from `existing` to `wanted`.
pub(crate) fn plan(frame: &Frame, wanted: &Wanted, existing: &[Arc<Object>]) -> Changes {
    let mut changes = Changes::default();
    let mut by_type: BTreeMap<&str, Vec<Arc<Object>>> = BTreeMap::new();
    for slice in existing {
        let kind = text(&slice.value, "/addressType");
        match wanted.contains_key(kind) && frame.owns(slice) {
            true => by_type.entry(kind).or_default().push(slice.clone()),
            false => changes.delete.push(slice.clone()),
        }
    }
    for (kind, groups) in wanted {
        let slices = by_type.remove(kind).unwrap_or_default();
        of_type(frame, kind, groups, slices, &mut changes);
    }
    changes
}

fn of_type(frame: &Frame, kind: &str, groups: &[Group], slices: Vec<Arc<Object>>, changes: &mut Changes) {
    let mut by_ports: BTreeMap<String, Vec<Arc<Object>>> = BTreeMap::new();
    for slice in slices {
        by_ports.entry(ports_key(list(&slice.value, "/ports"))).or_default().push(slice);
    }
    let nothing = Group::default();
    let mut groups: Vec<&Group> = groups.iter().filter(|g| !g.endpoints.is_empty()).collect();
    if groups.is_empty() && frame.placeholder {
        groups.push(&nothing);
    }
    let mut drafts: Vec<(&Group, Draft)> = Vec::new();
    let mut spare: Vec<Arc<Object>> = Vec::new();
    for group in groups {
        let slices = by_ports.remove(&ports_key(&group.ports)).unwrap_or_default();
        drafts.extend(pack(frame, group, slices, &mut spare).into_iter().map(|d| (group, d)));
    }
    spare.extend(by_ports.into_values().flatten());
    for (group, draft) in drafts {
        match draft.slice {
            Some(slice) if draft.changed => {
                let new = frame.rewritten(&slice, &group.ports, &draft.endpoints);
                changes.update.push((slice, new));
            }
            Some(_) => {}
            // What would go is used again.
            None => match spare.pop() {
                Some(slice) => {
                    let new = frame.rewritten(&slice, &group.ports, &draft.endpoints);
                    changes.update.push((slice, new));
                }
                None => changes.create.push(frame.new_slice(kind, &group.ports, &draft.endpoints)),
            },
        }
    }
    changes.delete.append(&mut spare);
}

/// Puts a group's endpoints into its slices and as few new ones as it takes; emptied slices become `spare`.
fn pack(frame: &Frame, group: &Group, slices: Vec<Arc<Object>>, spare: &mut Vec<Arc<Object>>) -> Vec<Draft> {
    let mut wanted: BTreeMap<String, &Value> = group.endpoints.iter().map(|e| (identity(e), e)).collect();
    let empty_is_wanted = wanted.is_empty();
    let mut drafts: Vec<Draft> = Vec::new();
    for slice in slices {
        let found = list(&slice.value, "/endpoints");
        let kept: Vec<Value> = found.iter().filter_map(|e| wanted.remove(&identity(e)).cloned()).collect();
        let placeholder = empty_is_wanted && drafts.is_empty();
        if kept.is_empty() && !placeholder {
            spare.push(slice);
            continue;
        }
        let changed = kept != found || !frame.dressed(&slice);
        drafts.push(Draft { slice: Some(slice), endpoints: kept, changed });
    }
    let mut rest = wanted.into_values().cloned();
    let mut left = rest.len();
    let mut fill = |draft: &mut Draft, left: &mut usize| {
        let room = frame.most.saturating_sub(draft.endpoints.len()).min(*left);
        draft.endpoints.extend(rest.by_ref().take(room));
        draft.changed |= room > 0;
        *left -= room;
    };
    // The fullest first.
    drafts.sort_by_key(|d| std::cmp::Reverse(d.endpoints.len()));
    for draft in drafts.iter_mut().filter(|d| d.changed) {
        fill(draft, &mut left);
    }
    while left > 0 {
        let fits = |d: &&mut Draft| d.endpoints.len() + left <= frame.most;
        if let Some(draft) = drafts.iter_mut().find(fits) {
            fill(draft, &mut left);
            continue;
        }
        let mut draft = Draft { slice: None, endpoints: Vec::new(), changed: true };
        fill(&mut draft, &mut left);
        drafts.push(draft);
    }
    if drafts.is_empty() && empty_is_wanted {
        drafts.push(Draft { slice: None, endpoints: Vec::new(), changed: true });
    }
    drafts
}

#[cfg(test)]
mod tests;
