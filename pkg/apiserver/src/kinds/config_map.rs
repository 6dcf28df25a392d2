//! v1 ConfigMap.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Causes;
use crate::proto::{META, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, age, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "configmaps",
    singular: "configmap",
    short: &["cm"],
    kind: "ConfigMap",
    typed: typed::<k8s_openapi::api::core::v1::ConfigMap>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "data", Type::Map(&Type::Text)),
        (3, "binaryData", Type::Map(&Type::Bytes)),
        (4, "immutable", Type::Bool),
    ]),
    validate,
    validate_update,
    columns: &[Column::NAME, Column::text("Data", "Number of entries."), Column::AGE],
    cells,
    ..PLAIN
};

/// Most bytes of data.
const LIMIT: usize = 1 << 20;

/// The rule of a key of data.
pub(crate) fn key(at: &str, key: &str, causes: &mut Causes) {
    let valid = !key.is_empty()
        && key.len() <= 253
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && key != "."
        && !key.starts_with("..");
    if !valid {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        causes.invalid(at, key, rule);
    }
}

fn validate(o: &Value, causes: &mut Causes) {
    let mut size = 0;
    for part in ["data", "binaryData"] {
        for (key, value) in o.get(part).and_then(Value::as_object).into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            self::key(&format!("{part}[{key}]"), key, causes);
            if part == "binaryData" && o.pointer("/data").is_some_and(|d| d.get(key).is_some()) {
                causes.invalid(&format!("data[{key}]"), key, "duplicate of key present in binaryData");
            }
        }
    }
    if size > LIMIT {
        causes.too_long("data", LIMIT);
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    if old.get("immutable") == Some(&Value::Bool(true)) {
        for part in ["immutable", "data", "binaryData"] {
            if new.get(part) != old.get(part) {
                causes.forbidden(part, "field is immutable when `immutable` is set");
            }
        }
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let count = |part: &str| o.get(part).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    vec![
        text(o, "/metadata/name").into(),
        (count("data") + count("binaryData")).to_string().into(),
        age(o, now),
    ]
}
