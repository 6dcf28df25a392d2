//! The paths of a kind: what clients look up for the verbs and query parameters of a resource.

use serde_json::{Map, Value, json};

use super::META;
use crate::registry::Kind;
use crate::schema::{REFERENCE, definition_name};

/// Which OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V2,
    V3,
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "pretty"];
const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

impl Version {
    fn reference(self, name: &str) -> Value {
        let place = if self == Self::V3 { REFERENCE } else { "#/definitions/" };
        json!({ "$ref": format!("{place}{name}") })
    }
    fn parameter(self, name: &str, place: &str) -> Value {
        let kind = match name {
            "allowWatchBookmarks" | "sendInitialEvents" | "watch" | "force" | "orphanDependents" => "boolean",
            "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
            _ => "string",
        };
        let mut p = json!({ "name": name, "in": place });
        if place == "path" {
            p["required"] = true.into();
        }
        match self {
            Self::V3 => p["schema"] = json!({ "type": kind, "uniqueItems": true }),
            Self::V2 => {
                p["type"] = kind.into();
                p["uniqueItems"] = true.into();
            }
        }
        p
    }
    fn answer(self, code: &str, schema: Value) -> Value {
        let answer = match self {
            Self::V3 => {
                json!({ "description": "OK", "content": { "application/json": { "schema": schema } } })
            }
            Self::V2 => json!({ "description": "OK", "schema": schema }),
        };
        json!({ code: answer })
    }
}

/// The paths of a kind.
pub(super) fn of(kind: &Kind, version: Version) -> Vec<(String, Value)> {
    let base = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let (all, scope) = if kind.namespaced {
        (format!("{base}/namespaces/{{namespace}}/{}", kind.plural), "Namespaced")
    } else {
        (format!("{base}/{}", kind.plural), "")
    };
    let name = definition_name(kind);
    let (one, many) = (version.reference(&name), version.reference(&format!("{name}List")));
    let status = version.reference(&format!("{META}Status"));
    let gvk = json!({ "group": kind.group, "kind": kind.kind, "version": kind.version });
    let operation = |action: &str, verb: &str, sub: &str, parameters: &[&str], code: &str, answer: &Value| {
        let mut parameters: Vec<Value> = parameters.iter().map(|p| version.parameter(p, "query")).collect();
        let body = match verb {
            "create" | "replace" => Some(one.clone()),
            "patch" => Some(version.reference(&format!("{META}Patch"))),
            _ => None,
        };
        let group =
            if kind.group.is_empty() { "Core" } else { kind.group.split('.').next().unwrap_or_default() };
        let mut op = json!({
            "operationId": format!("{verb}{}{}{scope}{}{sub}", capital(group), capital(kind.version), kind.kind),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
            "responses": version.answer(code, answer.clone()),
        });
        match (version, body) {
            (Version::V3, Some(schema)) => {
                let media: &[&str] = if verb == "patch" { crate::patch::MEDIA_TYPES } else { &["*/*"] };
                let content: Map<String, Value> =
                    media.iter().map(|m| ((*m).to_owned(), json!({ "schema": schema }))).collect();
                op["requestBody"] = json!({ "required": true, "content": content });
            }
            (Version::V2, Some(schema)) => {
                parameters
                    .insert(0, json!({ "name": "body", "in": "body", "required": true, "schema": schema }));
            }
            _ => {}
        }
        op["parameters"] = parameters.into();
        op
    };
    let in_path = |named: bool| -> Vec<Value> {
        let names = [("name", named), ("namespace", kind.namespaced)];
        names.iter().filter(|(_, there)| *there).map(|(n, _)| version.parameter(n, "path")).collect()
    };
    let patch: Vec<&str> = WRITE.iter().copied().chain(["force"]).collect();
    let mut out = vec![
        (
            all.clone(),
            json!({
                "get": operation("list", "list", "", LIST, "200", &many),
                "post": operation("post", "create", "", WRITE, "201", &one),
                "delete": operation("deletecollection", "deleteCollection", "", LIST, "200", &status),
                "parameters": in_path(false),
            }),
        ),
        (
            format!("{all}/{{name}}"),
            json!({
                "get": operation("get", "read", "", &["pretty"], "200", &one),
                "put": operation("put", "replace", "", WRITE, "200", &one),
                "patch": operation("patch", "patch", "", &patch, "200", &one),
                "delete": operation("delete", "delete", "", DELETE, "200", &status),
                "parameters": in_path(true),
            }),
        ),
    ];
    if kind.namespaced {
        let mut everywhere = operation("list", "list", "ForAllNamespaces", LIST, "200", &many);
        everywhere["operationId"] = format!("list{}ForAllNamespaces", kind.kind).into();
        out.push((format!("{base}/{}", kind.plural), json!({ "get": everywhere })));
    }
    if kind.status {
        out.push((
            format!("{all}/{{name}}/status"),
            json!({
                "get": operation("get", "read", "Status", &["pretty"], "200", &one),
                "put": operation("put", "replace", "Status", WRITE, "200", &one),
                "patch": operation("patch", "patch", "Status", &patch, "200", &one),
                "parameters": in_path(true),
            }),
        ));
    }
    out
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
