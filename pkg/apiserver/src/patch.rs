//! Patches: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch.

mod strategic;

use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Media types of patches that are spoken.
pub(crate) const MEDIA_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

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
    pub(crate) fn apply(&self, current: &Value) -> ApiResult<Value> {
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
            Self::Strategic(patch) => strategic::merge(&mut object, patch).map_err(ApiError::bad_request)?,
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
    use serde_json::json;

    fn patched(media: &str, object: Value, patch: Value) -> ApiResult<Value> {
        Patch::decode(media, patch.to_string().as_bytes())?.apply(&object)
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
