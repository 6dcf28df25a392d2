//! v1 Secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{config_map, default_text};
use crate::error::Causes;
use crate::proto::{META, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "secrets",
    singular: "secret",
    kind: "Secret",
    fields: &[("type", "/type")],
    typed: typed::<k8s_openapi::api::core::v1::Secret>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "data", Type::Map(&Type::Bytes)),
        (3, "type", Type::Text),
        (4, "stringData", Type::Map(&Type::Text)),
        (5, "immutable", Type::Bool),
    ]),
    default: defaults,
    create,
    carry,
    validate,
    validate_update,
    columns: &[
        Column::NAME,
        Column::text("Type", "What the data is for."),
        Column::text("Data", "Number of entries."),
        Column::AGE,
    ],
    cells,
    ..PLAIN
};

/// Most bytes of data.
const LIMIT: usize = 1 << 20;
const OPAQUE: &str = "Opaque";
/// Shown in place of what is secret.
const REDACTED: &str = "<secret contents redacted>";

/// `stringData` is written and never read: it goes into `data`.
fn defaults(value: &mut Value) {
    let Value::Object(o) = value else { return };
    if let Some(Value::Object(plain)) = o.shift_remove("stringData") {
        let data = o.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if !data.is_object() {
            *data = Value::Object(Map::new());
        }
        for (key, text) in plain {
            data[key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
    }
}

fn create(value: &mut Value) {
    if let Value::Object(o) = value {
        default_text(o, "type", OPAQUE);
    }
}

/// An update that leaves the type out keeps it.
fn carry(new: &mut Value, old: &Value) {
    if let Value::Object(o) = new {
        default_text(o, "type", text(old, "/type"));
    }
}

fn bytes(o: &Value, key: &str) -> Option<Vec<u8>> {
    STANDARD.decode(o.get("data")?.get(key)?.as_str()?).ok()
}

fn validate(o: &Value, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in o.get("data").and_then(Value::as_object).into_iter().flatten() {
        // Base64 is four bytes for three.
        size += value.as_str().map_or(0, |v| v.trim_end_matches('=').len() * 3 / 4);
        config_map::key(&format!("data[{key}]"), key, causes);
    }
    if size > LIMIT {
        causes.too_long("data", LIMIT);
    }
    let mut need = |keys: &[&str], empty_is_missing: bool| {
        for key in keys {
            if bytes(o, key).is_none_or(|v| empty_is_missing && v.is_empty()) {
                causes.required(&format!("data[{key}]"), "");
            }
        }
    };
    match text(o, "/type") {
        "kubernetes.io/service-account-token" => {
            let account = o.pointer("/metadata/annotations/kubernetes.io~1service-account.name");
            if account.and_then(Value::as_str).is_none_or(str::is_empty) {
                causes.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
        }
        "kubernetes.io/dockercfg" => json_data(o, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => json_data(o, ".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if bytes(o, "username").is_none() && bytes(o, "password").is_none() => {
            need(&["username", "password"], false);
        }
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"], true),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"], false),
        _ => {}
    }
}

fn json_data(o: &Value, key: &str, causes: &mut Causes) {
    let at = format!("data[{key}]");
    match bytes(o, key) {
        None => causes.required(&at, ""),
        Some(b) => {
            if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(&b) {
                // Where, not what: the text of the fault could hold a part of the secret.
                causes.invalid(
                    &at,
                    REDACTED,
                    format_args!("not JSON at line {} column {}", e.line(), e.column()),
                );
            }
        }
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    super::immutable(new, old, "/type", causes);
    if old.get("immutable") == Some(&Value::Bool(true)) {
        for part in ["immutable", "data"] {
            if new.get(part) != old.get(part) {
                causes.forbidden(part, "field is immutable when `immutable` is set");
            }
        }
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let count = o.get("data").and_then(Value::as_object).map_or(0, Map::len);
    vec![text(o, "/metadata/name").into(), text(o, "/type").into(), count.to_string().into(), age(o, now)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(mut o: Value) -> (Value, Vec<String>) {
        o["metadata"] = json!({"name": "s", "uid": "u"});
        let mut o = (KIND.typed)(o).unwrap();
        defaults(&mut o);
        create(&mut o);
        let mut causes = Causes::default();
        validate(&o, &mut causes);
        (o, causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect())
    }

    #[test]
    fn plain_text_goes_into_the_data() {
        let (o, faults) = made(json!({"stringData": {"a": "new", "b": "x"}, "data": {"a": "b2xk"}}));
        assert_eq!((o["data"].clone(), faults.len()), (json!({"a": "bmV3", "b": "eA=="}), 0));
        assert_eq!((o["type"].as_str(), o.get("stringData")), (Some("Opaque"), None));
    }

    #[test]
    fn each_type_needs_its_keys() {
        let b = |t: &str| STANDARD.encode(t);
        for (kind, data, faults) in [
            (
                "kubernetes.io/tls",
                json!({}),
                vec!["data[tls.crt] FieldValueRequired", "data[tls.key] FieldValueRequired"],
            ),
            ("kubernetes.io/tls", json!({"tls.crt": "", "tls.key": ""}), vec![]),
            ("kubernetes.io/basic-auth", json!({"username": b("u")}), vec![]),
            (
                "kubernetes.io/basic-auth",
                json!({}),
                vec!["data[username] FieldValueRequired", "data[password] FieldValueRequired"],
            ),
            (
                "kubernetes.io/ssh-auth",
                json!({"ssh-privatekey": ""}),
                vec!["data[ssh-privatekey] FieldValueRequired"],
            ),
            (
                "kubernetes.io/dockerconfigjson",
                json!({".dockerconfigjson": b("{")}),
                vec!["data[.dockerconfigjson] FieldValueInvalid"],
            ),
            ("kubernetes.io/dockercfg", json!({".dockercfg": b("{}")}), vec![]),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                vec!["metadata.annotations[kubernetes.io/service-account.name] FieldValueRequired"],
            ),
            ("example.com/own", json!({"a/b": ""}), vec!["data[a/b] FieldValueInvalid"]),
        ] {
            assert_eq!(made(json!({"type": kind, "data": data})).1, faults, "{kind}");
        }
    }

    #[test]
    fn the_type_stays_and_a_fixed_secret_does_not_change() {
        let old = json!({"metadata": {"name": "s", "uid": "u"}, "type": "Opaque", "immutable": true, "data": {"a": "YQ=="}});
        let faults = |mut new: Value| {
            new["metadata"] = json!({"name": "s", "uid": "u", "resourceVersion": "1"});
            defaults(&mut new);
            carry(&mut new, &old);
            let mut causes = Causes::default();
            validate_update(&new, &old, &mut causes);
            causes.0.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect::<Vec<_>>()
        };
        assert!(faults(json!({"immutable": true, "data": {"a": "YQ=="}})).is_empty());
        assert_eq!(
            faults(json!({"type": "x", "immutable": true, "data": {"a": "YQ=="}})),
            ["type FieldValueInvalid"]
        );
        assert_eq!(
            faults(json!({"data": {}})),
            ["immutable FieldValueForbidden", "data FieldValueForbidden"]
        );
    }
}
