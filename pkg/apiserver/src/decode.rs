//! Bodies at the door: JSON or YAML, typed, pruned, defaulted, checked.

use http::{HeaderMap, header};
use serde_json::Value;

use crate::error::{ApiError, ApiResult, Causes};
use crate::proto::{self, Schema};
use crate::query::FieldValidation;
use crate::registry::Kind;
use crate::schema::{Shape, definition_name};

/// Largest body.
pub(crate) const BODY_LIMIT: usize = 3 << 20;
/// Largest object with the owners of its fields, which take more than the fields where these are many and small.
const OBJECT_LIMIT: usize = 4 << 20;
/// Most values in an object; as many as the YAML decoder allows.
const VALUES_LIMIT: usize = 250_000;
/// Deepest nesting of an object.
const DEPTH_LIMIT: usize = 128;
/// Most unknown fields that are named.
const UNKNOWN_LIMIT: usize = 20;

/// The media type of a body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let value =
        headers.get(header::CONTENT_TYPE).map_or("application/json", |v| v.to_str().unwrap_or("unreadable"));
    value.split(';').next().unwrap_or_default().trim()
}

/// Decodes a JSON or YAML body, or a protobuf one where there is a schema for it.
pub(crate) fn body(headers: &HeaderMap, bytes: &[u8], schema: Option<Schema>) -> ApiResult<Value> {
    match media_type(headers) {
        "application/json" | "" => json(bytes),
        "application/yaml" => yaml(bytes),
        proto::MEDIA_TYPE if schema.is_some() => {
            proto::decode(schema.unwrap_or_default(), bytes).map_err(|proto::Malformed| {
                ApiError::bad_request("the body is not a Kubernetes protobuf message")
            })
        }
        _ => Err(ApiError::unsupported_media_type(&["application/json", "application/yaml"])),
    }
}

/// Decodes YAML, of which JSON is a part.
pub(crate) fn yaml(bytes: &[u8]) -> ApiResult<Value> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| ApiError::bad_request(format!("the body is not UTF-8: {e}")))?;
    serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("the body is not YAML: {e}")))
}

/// Whether there are more values in a JSON text than an object may hold: each takes many times its two bytes of text
/// when it is decoded, so they are counted before.
fn too_many(bytes: &[u8]) -> bool {
    let (mut values, mut text, mut escaped) = (0, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b',' | b'[' | b'{' if !text => values += 1,
            _ => {}
        }
    }
    values > VALUES_LIMIT
}

/// Refuses an object that is too large to be kept.
pub(crate) fn refuse_large(object: &Value) -> ApiResult<()> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    let counted = serde_json::to_writer(&mut count, object);
    if counted.is_err() || count.0 > OBJECT_LIMIT { Err(ApiError::too_large(OBJECT_LIMIT)) } else { Ok(()) }
}

/// Decodes JSON; nesting is bounded by the decoder.
pub(crate) fn json(bytes: &[u8]) -> ApiResult<Value> {
    if too_many(bytes) {
        return Err(ApiError::bad_request(format!("the body holds more than {VALUES_LIMIT} values")));
    }
    serde_json::from_slice(bytes).map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))
}

/// Whether `value` nests too deep to be handled. Does not recurse.
pub(crate) fn too_deep(value: &Value) -> bool {
    let mut stack = vec![(value, 0)];
    while let Some((v, depth)) = stack.pop() {
        if depth > DEPTH_LIMIT {
            return true;
        }
        match v {
            Value::Array(a) => stack.extend(a.iter().map(|v| (v, depth + 1))),
            Value::Object(m) => stack.extend(m.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    false
}

/// Passes an object through its type: wrong types are refused, unknown fields dropped or refused. Returns warnings.
pub(crate) fn typed(
    kind: &Kind,
    mut value: Value,
    validation: FieldValidation,
) -> ApiResult<(Value, Vec<String>)> {
    let Value::Object(map) = &mut value else {
        return Err(ApiError::bad_request("the body is not an object"));
    };
    for (key, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match map.get(key).and_then(Value::as_str) {
            None | Some("") => {
                map.insert(key.into(), expected.into());
            }
            Some(found) if found != expected => {
                return Err(ApiError::bad_request(format!(
                    "the {key} in the data ({found}) does not match the expected {key} ({expected})"
                )));
            }
            Some(_) => {}
        }
    }
    let mut unknown = Vec::new();
    if validation != FieldValidation::Ignore {
        find_unknown(&value, &definition_name(kind), &mut String::new(), &mut unknown);
    }
    let typed = (kind.typed)(value).map_err(|e| {
        ApiError::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: {e}",
            kind.kind, kind.version
        ))
    })?;
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(strict_error(kind, &unknown));
    }
    Ok((typed, unknown))
}

/// The refusal of a body for what was found in it.
pub(crate) fn strict_error(kind: &Kind, found: &[String]) -> ApiError {
    ApiError::bad_request(format!(
        "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
        kind.kind,
        kind.version,
        found.join(", ")
    ))
}

/// Names the fields that the type `of` has not.
fn find_unknown(value: &Value, of: &str, path: &mut String, unknown: &mut Vec<String>) {
    let (Some(of_type), Value::Object(map)) = (crate::schema::lookup(of), value) else { return };
    let length = path.len();
    for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
        if unknown.len() >= UNKNOWN_LIMIT {
            return;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        match (of_type.fields.get(key).map(|f| f.inner.as_deref()), value) {
            (None, _) => unknown.push(format!("unknown field {path:?}")),
            (Some(None), _) => {}
            (Some(Some(inner)), Value::Array(items)) => {
                let length = path.len();
                for (i, item) in items.iter().enumerate() {
                    path.push_str(&format!("[{i}]"));
                    find_unknown(item, inner, path, unknown);
                    path.truncate(length);
                }
            }
            (Some(Some(_)), _)
                if matches!(of_type.fields.get(key).map(|f| &f.shape), Some(Shape::Map(_))) => {}
            (Some(Some(inner)), value) => find_unknown(value, inner, path, unknown),
        }
        path.truncate(length);
    }
}

/// Checks a complete object.
pub(crate) fn validate(kind: &Kind, object: &Value, old: Option<&Value>) -> ApiResult<()> {
    let mut causes = Causes::default();
    crate::meta::validate(kind, object, &mut causes);
    (kind.validate)(object, &mut causes);
    if let Some(old) = old {
        crate::meta::validate_update(object, old, &mut causes);
        (kind.validate_update)(object, old, &mut causes);
    }
    if causes.0.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(kind, crate::table::text(object, "/metadata/name"), causes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{KINDS, NODE, POD};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let o = json!({"metadata": {"name": "p"}, "spec": {"nodeNam": "x", "containers": [{"name": "c", "imag": "y"}]}});
        let (typed, unknown) = typed(POD.get(), o.clone(), FieldValidation::Warn).unwrap();
        assert_eq!(unknown, ["unknown field \"spec.nodeNam\"", "unknown field \"spec.containers[0].imag\""]);
        assert_eq!(typed["spec"]["containers"][0], json!({"name": "c"}));
        let strict = super::typed(POD.get(), o, FieldValidation::Strict).unwrap_err();
        assert_eq!(strict.code, 400);
    }

    #[test]
    fn another_kind_or_type_is_refused() {
        assert!(typed(NODE.get(), json!({"kind": "Pod"}), FieldValidation::Warn).is_err());
        assert!(typed(NODE.get(), json!({"metadata": {"name": 5}}), FieldValidation::Warn).is_err());
        assert!(typed(NODE.get(), json!([]), FieldValidation::Warn).is_err());
    }

    #[test]
    fn deep_bodies_are_refused() {
        assert!(json("[".repeat(100_000).as_bytes()).is_err());
        let deep = (0..200).fold(json!(1), |v, _| json!({"a": v}));
        assert!(too_deep(&deep));
    }

    #[test]
    fn values_are_counted_before_they_are_decoded() {
        assert!(!too_many(format!("[{}0]", "0,".repeat(VALUES_LIMIT - 2)).as_bytes()));
        assert!(too_many(format!("[{}0]", "0,".repeat(VALUES_LIMIT)).as_bytes()));
        let text = json!({ "a": ",[{\"\\".repeat(VALUES_LIMIT) });
        assert!(!too_many(text.to_string().as_bytes()));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            "[a-z]{0,6}".prop_map(Into::into)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(
                    "(metadata|spec|status|name|labels|data|containers|[a-z]{1,3})",
                    inner,
                    0..4
                )
                .prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_body_of_any_type_is_read_or_refused(
            value in any_json(), noise in prop::collection::vec(any::<u8>(), 0..80), yaml in "[-a-z:&*!{}\\[\\], \n\"'|>%@0-9]{0,60}",
            media in "(application/(json|yaml|vnd\\.kubernetes\\.protobuf)|)(;[a-z= ]{0,9})?|[ -~]{0,20}", at: prop::sample::Index, other: u8,
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
            let valid = value.to_string().into_bytes();
            let mut mutated = valid.clone();
            mutated[at.index(valid.len())] = other;
            for bytes in [&valid[..], &mutated, &noise, yaml.as_bytes()] {
                for kind in KINDS {
                    match body(&headers, bytes, kind.proto) {
                        Ok(read) => prop_assert!(!matches!(media.as_str(), "" | "application/json") || bytes != valid || read == value),
                        Err(e) => prop_assert!(matches!(e.code.as_u16(), 400 | 415), "{}", e.code),
                    }
                }
            }
        }

        #[test]
        fn whatever_passes_the_door_can_be_defaulted_checked_and_printed(value in any_json()) {
            for kind in KINDS {
                if let Ok((mut o, _)) = typed(kind, value.clone(), FieldValidation::Warn) {
                    (kind.default)(&mut o);
                    (kind.create)(&mut o);
                    let _ = validate(kind, &o, Some(&o));
                    prop_assert_eq!((kind.cells)(&o, jiff::Timestamp::UNIX_EPOCH).len(), kind.columns.len());
                }
            }
        }
    }
}
