//! The kinds, one module each: the row, its defaults, its rules, its table.

pub(crate) mod config_map;
pub(crate) mod event;
pub(crate) mod interim;
pub(crate) mod lease;
pub(crate) mod namespace;
pub(crate) mod node;
pub(crate) mod pod;

use serde_json::{Map, Value};

use crate::error::Causes;

/// A row's function that does nothing.
pub(crate) fn nothing(_: &mut Value) {}
/// A row's rule that accepts everything.
pub(crate) fn anything(_: &Value, _: &mut Causes) {}
/// A row's rule of change that accepts everything.
pub(crate) fn any_change(_: &Value, _: &Value, _: &mut Causes) {}

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

/// Refuses a changed value at a JSON pointer.
pub(crate) fn immutable(new: &Value, old: &Value, pointer: &str, causes: &mut Causes) {
    if new.pointer(pointer) != old.pointer(pointer) {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        let shown = new.pointer(pointer).map(ToString::to_string).unwrap_or_default();
        causes.invalid(&field, shown, "field is immutable");
    }
}
