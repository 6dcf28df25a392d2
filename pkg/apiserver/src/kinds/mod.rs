//! The kinds, one module each: the row, its defaults, its rules, its table.

pub(crate) mod config_map;
pub(crate) mod daemon_set;
pub(crate) mod endpoint_slice;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod ingress;
pub(crate) mod ingress_class;
pub(crate) mod lease;
pub(crate) mod namespace;
pub(crate) mod network_policy;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod rbac;
pub(crate) mod rules;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod service_account;

use serde_json::{Map, Value};

use crate::error::Causes;

/// The object at `key`, made when missing.
pub(crate) fn object<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("an object was just put there"),
    }
}

/// Sets `key` when it is missing or null.
pub(crate) fn default(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.into(), value.into());
    }
}

/// Sets `key` when it is missing, null or empty: clients write fields that they do not set as empty text.
pub(crate) fn default_text(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(|v| v.is_null() || v == "") {
        map.insert(key.into(), value.into());
    }
}

/// Removes fields that say nothing: null, empty text, zero, empty lists and maps.
pub(crate) fn prune(map: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        let empty = match map.get(*key) {
            Some(Value::Null) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Number(n)) => n.as_i64() == Some(0),
            Some(Value::Array(a)) => a.is_empty(),
            Some(Value::Object(o)) => o.is_empty(),
            _ => false,
        };
        if empty {
            map.shift_remove(*key);
        }
    }
}

/// The objects of a list in `map`, for changing.
pub(crate) fn each<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Refuses a changed value at a JSON pointer.
pub(crate) fn immutable(new: &Value, old: &Value, pointer: &str, causes: &mut Causes) {
    if new.pointer(pointer) != old.pointer(pointer) {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        causes.invalid_value(&field, new.pointer(pointer).unwrap_or(&Value::Null), "field is immutable");
    }
}
