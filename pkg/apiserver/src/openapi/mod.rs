//! OpenAPI documents: v3 for each group version, v2 for old clients. Made when first asked for, from the types and the
//! registry, and kept as bytes.

mod paths;
mod v2;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::registry::{KINDS, Kind};
use crate::schema::rules::{self, ListRule};
use crate::schema::{REFERENCE, definition_name, definitions};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Media type of the protobuf form of v2.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients call it; no media type by the rules, so that they refuse it in an answer.
pub(crate) const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document and what tells its content.
#[derive(Clone)]
pub(crate) struct Document {
    pub(crate) bytes: Bytes,
    /// Changes with the content.
    pub(crate) hash: String,
}

impl Document {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let hash = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        Self { bytes: bytes.into(), hash }
    }
}

/// Which document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    /// v3 of a group and version.
    V3(&'static str, &'static str),
    /// v2 in JSON.
    V2,
    /// v2 in protobuf.
    V2Protobuf,
}

static KEPT: LazyLock<Mutex<BTreeMap<Which, Document>>> = LazyLock::new(Mutex::default);

/// A document.
pub(crate) fn document(which: Which) -> Document {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || match which.clone() {
        Which::V3(group, version) => Document::new(v3(group, version).to_string().into_bytes()),
        Which::V2 => Document::new(swagger().to_string().into_bytes()),
        Which::V2Protobuf => Document::new(v2::protobuf(&swagger())),
    };
    kept.entry(which.clone()).or_insert_with(make).clone()
}

/// The index of v3.
pub(crate) fn index(group_versions: &[(&'static str, &'static str)]) -> Value {
    let path = |(g, v): &(&'static str, &'static str)| {
        let path = if g.is_empty() { format!("api/{v}") } else { format!("apis/{g}/{v}") };
        let url = format!("/openapi/v3/{path}?hash={}", document(Which::V3(g, v)).hash);
        (path, json!({ "serverRelativeURL": url }))
    };
    json!({ "paths": group_versions.iter().map(path).collect::<Map<_, _>>() })
}

fn info() -> Value {
    json!({ "title": "Kubernetes", "version": crate::discovery::version()["gitVersion"] })
}

fn v3(group: &str, version: &str) -> Value {
    let kinds: Vec<&Kind> = KINDS.iter().filter(|k| k.group == group && k.version == version).collect();
    let mut schemas = annotated(&kinds);
    schemas.values_mut().for_each(for_v3);
    let paths: Map<String, Value> = kinds.iter().flat_map(|k| paths::of(k, paths::Version::V3)).collect();
    json!({ "openapi": "3.0.0", "info": info(), "paths": paths, "components": { "schemas": schemas } })
}

fn swagger() -> Value {
    let kinds: Vec<&Kind> = KINDS.iter().collect();
    let mut schemas = annotated(&kinds);
    schemas.values_mut().for_each(for_v2);
    let paths: Map<String, Value> = kinds.iter().flat_map(|k| paths::of(k, paths::Version::V2)).collect();
    json!({ "swagger": "2.0", "info": info(), "paths": paths, "definitions": schemas })
}

/// The definitions that some kinds need, with what Kubernetes adds to them.
fn annotated(kinds: &[&Kind]) -> Map<String, Value> {
    let mut all = definitions();
    for kind in kinds {
        let name = definition_name(kind);
        let gvk = json!([{ "group": kind.group, "kind": kind.kind, "version": kind.version }]);
        if let Some(d) = all.get_mut(&name) {
            d["x-kubernetes-group-version-kind"] = gvk;
            // A body without metadata is of the right form; what it lacks is told by name.
            if let Some(Value::Array(required)) = d.get_mut("required") {
                required.retain(|r| r != "metadata");
            }
            if d["required"].as_array().is_some_and(Vec::is_empty)
                && let Value::Object(map) = d
            {
                map.shift_remove("required");
            }
        }
        all.insert(format!("{name}List"), list_definition(kind, &name));
    }
    let status = json!([{ "group": "", "kind": "Status", "version": "v1" }]);
    let mut options: Vec<Value> = kinds
        .iter()
        .map(|k| json!({ "group": k.group, "kind": "DeleteOptions", "version": k.version }))
        .collect();
    options.dedup();
    for (name, gvk) in [("Status", status), ("DeleteOptions", options.into())] {
        if let Some(d) = all.get_mut(&format!("{META}{name}")) {
            d["x-kubernetes-group-version-kind"] = gvk;
        }
    }
    let patch = json!({ "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.", "type": "object" });
    all.insert(format!("{META}Patch"), patch);
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = kinds.iter().map(|k| format!("{}List", definition_name(k))).collect();
    open.extend(["Status", "DeleteOptions", "Patch", "ListMeta"].map(|n| format!("{META}{n}")));
    while let Some(name) = open.pop() {
        if let Some(d) = all.get(&name).filter(|_| !wanted.contains(&name)) {
            references(d, &mut open);
            wanted.insert(name);
        }
    }
    all.retain(|name, _| wanted.contains(name));
    for (name, d) in &mut all {
        annotate(name, d);
    }
    all.sort_keys();
    all
}

fn list_definition(kind: &Kind, item: &str) -> Value {
    let text = |what: &str| json!({ "description": what, "type": "string" });
    json!({
        "description": format!("{0}List is a list of {0} objects.", kind.kind),
        "type": "object",
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "items": { "description": "The objects.", "type": "array", "items": { "$ref": format!("{REFERENCE}{item}") } },
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "metadata": { "$ref": format!("{REFERENCE}{META}ListMeta"), "description": "Standard list metadata." },
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind": [{ "group": kind.group, "kind": format!("{}List", kind.kind), "version": kind.version }],
    })
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                out.push(name.to_owned());
            }
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

/// Adds how lists and maps are merged.
fn annotate(name: &str, definition: &mut Value) {
    if rules::atomic_type(name) {
        definition["x-kubernetes-map-type"] = "atomic".into();
    }
    let properties = definition.get_mut("properties").and_then(Value::as_object_mut);
    for (field, schema) in properties.into_iter().flatten() {
        if schema.get("items").is_some() {
            let rule = rules::list(name, field);
            let word = match rule {
                ListRule::Atomic => "atomic",
                ListRule::Set => "set",
                ListRule::Keyed(_) => "map",
            };
            if let ListRule::Keyed(keys) = rule {
                schema["x-kubernetes-list-map-keys"] = keys.iter().map(|(k, _)| *k).collect();
            }
            schema["x-kubernetes-list-type"] = word.into();
        } else if rules::atomic_map(name, field) {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(rule) = rules::patch(name, field) {
            if let Some(key) = rule.key {
                schema["x-kubernetes-patch-merge-key"] = key.into();
            }
            let strategy = if rule.retain_keys { "merge,retainKeys" } else { "merge" };
            schema["x-kubernetes-patch-strategy"] = strategy.into();
        }
    }
}

/// Does `change` to a schema and to all in it.
fn each_schema(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    let Value::Object(map) = schema else { return };
    change(map);
    for (key, value) in map.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => fields.values_mut().for_each(|f| each_schema(f, change)),
            ("items" | "additionalProperties", inner) => each_schema(inner, change),
            _ => {}
        }
    }
}

/// A number or a text: how v3 says it.
fn for_v3(schema: &mut Value) {
    each_schema(schema, &mut |map| {
        if map.shift_remove("x-kubernetes-int-or-string").is_some() {
            map.insert("format".into(), "int-or-string".into());
            map.insert("oneOf".into(), json!([{ "type": "integer" }, { "type": "string" }]));
        }
        // What stands beside a reference is not read in v3.
        if map.len() > 1
            && let Some(reference) = map.shift_remove("$ref")
        {
            map.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
    });
}

/// The same for v2, with its place of definitions.
fn for_v2(schema: &mut Value) {
    each_schema(schema, &mut |map| {
        if map.shift_remove("x-kubernetes-int-or-string").is_some() {
            map.insert("format".into(), "int-or-string".into());
            map.insert("type".into(), "string".into());
        }
        if let Some(Value::String(reference)) = map.get_mut("$ref") {
            *reference = reference.replacen(REFERENCE, "#/definitions/", 1);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_whole_and_say_how_to_merge() {
        let core = v3("", "v1");
        let schemas = &core["components"]["schemas"];
        let mut named = Vec::new();
        references(&core, &mut named);
        for name in named {
            assert!(schemas.get(&name).is_some(), "{name}");
        }
        let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(spec["containers"]["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(spec["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert_eq!(
            spec["securityContext"]["allOf"][0]["$ref"],
            format!("{REFERENCE}io.k8s.api.core.v1.PodSecurityContext")
        );
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "kind": "Pod", "version": "v1"}])
        );
        assert_eq!(document(Which::V3("", "v1")).hash, document(Which::V3("", "v1")).hash);
    }

    #[test]
    fn old_documents_have_no_references_to_new_places() {
        let text = swagger().to_string();
        assert!(!text.contains(REFERENCE) && text.contains("#/definitions/io.k8s.api.core.v1.Pod"));
    }
}
