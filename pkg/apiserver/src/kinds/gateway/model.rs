//! What the table of fields means: decoding, defaults, rules, and definitions for OpenAPI.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::Error as _;
use serde_json::{Map, Value, json};

use super::fields::{Field, Of, TYPES};
use crate::error::Causes;
use crate::kinds::rules;
use crate::registry::typed as through;
use crate::schema::REFERENCE;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The fields of a type; every [`Of::Type`] names one, which a test holds.
fn fields(name: &str) -> &'static [Field] {
    TYPES.iter().find(|(known, _)| *known == name).map_or(&[], |(_, fields)| fields)
}

/// The full name of a type's definition.
fn full(name: &str) -> String {
    let version = if name.starts_with("ReferenceGrant") { "v1beta1" } else { "v1" };
    format!("io.k8s.api.gateway.{version}.{name}")
}

/// An object of a type: unknown fields are dropped, wrong types refused.
pub(super) fn typed(name: &str, value: Value) -> Result<Value, serde_json::Error> {
    let mut o = value;
    decode(name, &mut o, "")?;
    Ok(o)
}

fn wrong(at: &str, what: &str, found: &Value) -> serde_json::Error {
    let found: String = found.to_string().chars().take(80).collect();
    serde_json::Error::custom(format_args!("{at}: {found} is not {what}"))
}

fn decode(name: &str, value: &mut Value, at: &str) -> Result<(), serde_json::Error> {
    let Value::Object(map) = value else { return Err(wrong(at, "an object", value)) };
    let known = fields(name);
    map.retain(|key, value| !value.is_null() && known.iter().any(|field| field.name == key));
    for field in known {
        if let Some(value) = map.get_mut(field.name) {
            decode_value(field.of, value, &format!("{at}.{}", field.name))?;
        }
    }
    Ok(())
}

fn decode_value(of: Of, value: &mut Value, at: &str) -> Result<(), serde_json::Error> {
    match of {
        Of::Text(..) | Of::Word(_) | Of::Host | Of::Time if value.is_string() => Ok(()),
        Of::Text(..) | Of::Word(_) | Of::Host | Of::Time => Err(wrong(at, "text", value)),
        Of::Number(..) if value.is_i64() || value.is_u64() => Ok(()),
        Of::Number(..) => Err(wrong(at, "a whole number", value)),
        Of::Type(name) => decode(name, value, at),
        Of::List(of, ..) => match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| decode_value(*of, item, at)),
            other => Err(wrong(at, "a list", other)),
        },
        Of::Texts => match value.as_object().is_some_and(|map| map.values().all(Value::is_string)) {
            true => Ok(()),
            false => Err(wrong(at, "a map of texts", value)),
        },
        Of::Selector => {
            *value = through::<LabelSelector>(value.take())?;
            Ok(())
        }
        Of::Metadata => {
            *value = through::<ObjectMeta>(value.take())?;
            Ok(())
        }
        Of::Anything => Ok(()),
    }
}

/// Fills what is not said.
pub(super) fn defaults(name: &str, value: &mut Value) {
    let Value::Object(map) = value else { return };
    for field in fields(name) {
        if let Some(default) = field.default
            && map.get(field.name).is_none_or(Value::is_null)
            && let Ok(default) = serde_json::from_str::<Value>(default)
        {
            map.insert(field.name.into(), default);
        }
        match (field.of, map.get_mut(field.name)) {
            (Of::Type(name), Some(value)) => defaults(name, value),
            (Of::List(Of::Type(name), ..), Some(Value::Array(items))) => {
                items.iter_mut().for_each(|item| defaults(name, item));
            }
            _ => {}
        }
    }
}

/// Holds an object to the limits of its type.
pub(super) fn validate(name: &str, o: &Value, causes: &mut Causes) {
    check(name, o, "", causes);
}

fn check(name: &str, value: &Value, at: &str, causes: &mut Causes) {
    for field in fields(name) {
        let at = if at.is_empty() { field.name.to_owned() } else { format!("{at}.{}", field.name) };
        match value.get(field.name).filter(|value| !value.is_null()) {
            None if field.required => causes.required(&at, ""),
            None => {}
            Some(value) => check_value(field.of, value, &at, causes),
        }
    }
}

fn check_value(of: Of, value: &Value, at: &str, causes: &mut Causes) {
    let text = value.as_str().unwrap_or_default();
    match of {
        Of::Text(_, most) if text.chars().count() > most => causes.too_long(at, most),
        Of::Text(least, _) if text.chars().count() < least => {
            causes.invalid(at, text, format_args!("must be at least {least} characters long"));
        }
        Of::Word(known) => rules::one_of(at, text, known, causes),
        Of::Host if !text.is_empty() => rules::host(at, text, causes),
        Of::Number(least, most) if !value.as_i64().is_some_and(|n| (least..=most).contains(&n)) => {
            causes.invalid_value(at, value, format_args!("must be between {least} and {most}"));
        }
        Of::Time if text.parse::<jiff::Timestamp>().is_err() => {
            causes.invalid(at, text, "must be a time as in RFC 3339");
        }
        Of::Type(name) => check(name, value, at, causes),
        Of::List(of, least, most) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if items.len() > most {
                causes.too_many(at, items.len(), most);
            } else if items.len() < least {
                causes.invalid_value(at, value, format_args!("must have at least {least} items"));
            }
            for (i, item) in items.iter().enumerate() {
                check_value(*of, item, &format!("{at}[{i}]"), causes);
            }
        }
        Of::Selector => rules::label_selector(at, value, causes),
        _ => {}
    }
}

/// The definitions of all types, by their names.
pub(crate) fn definitions() -> Map<String, Value> {
    let definition = |(name, fields): &(&str, &[Field])| {
        let properties: Map<String, Value> =
            fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
        let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
        let mut definition = json!({
            "description": format!("{name} of the Gateway API."), "type": "object", "properties": properties,
        });
        if !required.is_empty() {
            definition["required"] = required.into();
        }
        (full(name), definition)
    };
    TYPES.iter().map(definition).collect()
}

fn property(field: &Field) -> Value {
    let mut out = schema(field.of);
    if let Some(default) = field.default.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        out["default"] = default;
    }
    out
}

fn schema(of: Of) -> Value {
    match of {
        Of::Text(least, most) => json!({"type": "string", "minLength": least, "maxLength": most}),
        Of::Word(known) => json!({"type": "string", "enum": known}),
        Of::Host => json!({"type": "string", "minLength": 1, "maxLength": 253}),
        Of::Number(least, most) => {
            json!({"type": "integer", "format": "int64", "minimum": least, "maximum": most})
        }
        Of::Time => json!({"type": "string", "format": "date-time"}),
        Of::Type(name) => json!({"$ref": format!("{REFERENCE}{}", full(name))}),
        Of::List(of, least, most) => {
            json!({"type": "array", "items": schema(*of), "minItems": least, "maxItems": most})
        }
        Of::Texts => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Of::Selector => json!({"$ref": format!("{REFERENCE}{META}LabelSelector")}),
        Of::Metadata => json!({"$ref": format!("{REFERENCE}{META}ObjectMeta")}),
        Of::Anything => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    }
}
