//! Patches: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::error::{ApiError, ApiResult};
use crate::registry::Kind;
use crate::schema::definition_name;

/// Media types of patches that are spoken.
pub(crate) const MEDIA_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

/// The media type of server-side apply: a configuration, in YAML.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// Most operations of a JSON patch; of those that can multiply an object, a hundredth.
const OPERATIONS: usize = 10_000;

/// A decoded patch.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Decodes a body by its media type.
    pub(crate) fn decode(media: &str, bytes: &[u8]) -> ApiResult<Self> {
        let object = |bytes| {
            let value = crate::decode::json(bytes)?;
            if value.is_object() {
                Ok(value)
            } else {
                Err(ApiError::bad_request("the patch is not an object"))
            }
        };
        match media {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(crate::decode::json(bytes)?)
                    .map_err(|e| ApiError::bad_request(format!("the body is not a JSON patch: {e}")))?;
                check_size(&patch)?;
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(object(bytes)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(object(bytes)?)),
            _ => Err(ApiError::unsupported_media_type(MEDIA_TYPES)),
        }
    }

    /// The patched object.
    pub(crate) fn apply(&self, kind: &Kind, current: &Value) -> ApiResult<Value> {
        let mut object = current.clone();
        match self {
            Self::Json(patch) => {
                for (i, op) in patch.0.iter().enumerate() {
                    json_patch::patch(&mut object, std::slice::from_ref(op))
                        .map_err(|e| ApiError::unprocessable(format!("the server rejected our request due to an error in our request: operation {i}: {e}")))?;
                    let grows = matches!(
                        op,
                        json_patch::PatchOperation::Copy(_) | json_patch::PatchOperation::Move(_)
                    );
                    if grows && crate::decode::too_deep(&object) {
                        return Err(ApiError::unprocessable("the patched object nests too deep"));
                    }
                    if grows && object.to_string().len() > crate::decode::BODY_LIMIT {
                        return Err(ApiError::too_large(crate::decode::BODY_LIMIT));
                    }
                }
            }
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => {
                strategic::merge(&mut object, patch, Some(&definition_name(kind)))
                    .map_err(ApiError::bad_request)?;
            }
        }
        if !object.is_object() || crate::decode::too_deep(&object) {
            return Err(ApiError::unprocessable("the patched object is no object, or nests too deep"));
        }
        Ok(object)
    }
}

fn check_size(patch: &json_patch::Patch) -> ApiResult<()> {
    let growing = |op: &&json_patch::PatchOperation| {
        matches!(op, json_patch::PatchOperation::Copy(_) | json_patch::PatchOperation::Move(_))
    };
    let too_many = patch.0.len() > OPERATIONS || patch.0.iter().filter(growing).count() > OPERATIONS / 100;
    if too_many {
        let message = format!(
            "a JSON patch may hold {OPERATIONS} operations, {} of them copy or move",
            OPERATIONS / 100
        );
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i16>().prop_map(Into::into),
            "(delete|replace|merge|a|b|)".prop_map(Into::into),
        ];
        let keys = [
            "a",
            "b",
            "name",
            "type",
            "metadata",
            "spec",
            "containers",
            "conditions",
            "finalizers",
            "ports",
            "port",
            "containerPort",
            "env",
            "$patch",
            "$retainKeys",
            "$deleteFromPrimitiveList/finalizers",
            "$setElementOrder/containers",
            "$setElementOrder/",
            "$",
            "",
            "~",
            "/",
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let key = prop::sample::select(keys.to_vec());
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((key, inner), 0..5)
                    .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    /// Operations that often find something, and often do not.
    fn operation() -> impl Strategy<Value = Value> {
        let names = ["add", "remove", "replace", "move", "copy", "test", "x"];
        let path = "(/(a|b|spec|containers|name|0|1|-|01|18446744073709551616|~0|~1|~2|~)){0,3}|\\PC{0,6}";
        (prop::sample::select(names.to_vec()), path, prop::option::of(path), prop::option::of(any_json()))
            .prop_map(|(op, path, from, value)| {
                let mut out = json!({"op": op, "path": path});
                if let Some(from) = from {
                    out["from"] = from.into();
                }
                if let Some(value) = value {
                    out["value"] = value;
                }
                out
            })
    }

    proptest! {
        #[test]
        fn any_patch_is_applied_or_refused(
            object in any_json(), patch in any_json(), operations in prop::collection::vec(operation(), 0..6),
            noise in prop::collection::vec(any::<u8>(), 0..60), at: prop::sample::Index, other: u8,
        ) {
            let object = if object.is_object() { object } else { json!({"a": object, "spec": {"containers": [{"name": "a"}]}}) };
            for (media, body) in MEDIA_TYPES.iter().zip([json!(operations), patch.clone(), patch]) {
                let valid = body.to_string().into_bytes();
                let mut mutated = valid.clone();
                let at = at.index(valid.len());
                mutated[at] = other;
                for bytes in [&valid[..], &mutated, &valid[..at], &noise] {
                    match Patch::decode(media, bytes).and_then(|p| p.apply(crate::registry::POD.get(), &object)) {
                        Ok(patched) => prop_assert!(patched.is_object()),
                        Err(e) => prop_assert!(e.code.is_client_error(), "{}: {}", media, e.code),
                    }
                }
            }
        }
    }

    fn patched(media: &str, object: Value, patch: Value) -> ApiResult<Value> {
        Patch::decode(media, patch.to_string().as_bytes())?.apply(crate::registry::POD.get(), &object)
    }

    #[test]
    fn json_and_merge_patches() {
        let o = json!({"a": 1, "b": {"c": 2}});
        let ops =
            json!([{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/b/c", "value": 3}]);
        assert_eq!(patched(MEDIA_TYPES[0], o.clone(), ops).unwrap(), json!({"a": 1, "b": {"c": 3}}));
        let failing = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(patched(MEDIA_TYPES[0], o.clone(), failing).unwrap_err().code, 422);
        assert_eq!(
            patched(MEDIA_TYPES[1], o.clone(), json!({"a": null, "b": {"d": 1}})).unwrap(),
            json!({"b": {"c": 2, "d": 1}})
        );
        assert_eq!(patched("application/apply-patch+yaml", o.clone(), json!({})).unwrap_err().code, 415);
        assert_eq!(patched(MEDIA_TYPES[1], o, json!([])).unwrap_err().code, 400);
    }

    #[test]
    fn a_patch_that_doubles_the_object_is_stopped() {
        let double: Vec<Value> =
            (0..90).map(|i| json!({"op": "copy", "from": "", "path": format!("/k{i}")})).collect();
        assert!(patched(MEDIA_TYPES[0], json!({"a": "x".repeat(1000)}), json!(double)).is_err());
        let many: Vec<Value> = (0..200).map(|_| json!({"op": "copy", "from": "/a", "path": "/b"})).collect();
        assert_eq!(patched(MEDIA_TYPES[0], json!({"a": 1}), json!(many)).unwrap_err().code, 400);
    }
}
