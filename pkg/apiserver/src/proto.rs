//! Bodies in the protobuf encoding of Kubernetes, which kubectl's own `create` commands send whatever the server speaks.
//! Answers are always JSON, which every client takes. Only kinds with a [`Schema`] can be read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What a body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// How a field is read.
pub(crate) enum Type {
    Text,
    Bool,
    Int,
    /// A number that says something when it is 0, too.
    Given,
    /// Bytes; base64 in JSON.
    Bytes,
    /// Seconds and nanoseconds; RFC 3339 in JSON.
    Time,
    /// The same, shown with microseconds.
    MicroTime,
    /// A map from text.
    Map(&'static Type),
    List(&'static Type),
    /// A number or a text (`IntOrString`).
    Either,
    Message(Schema),
    /// A message whose fields stand in JSON among those of the one around it.
    Inline(Schema),
}

/// A message: field numbers, their JSON names, their types.
pub(crate) type Schema = &'static [(u64, &'static str, Type)];

const OWNER: Schema = &[
    (1, "kind", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
    (6, "controller", Type::Bool),
    (7, "blockOwnerDeletion", Type::Bool),
];
/// `ObjectReference`.
pub(crate) const OBJECT_REFERENCE: Schema = &[
    (1, "kind", Type::Text),
    (2, "namespace", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
    (6, "resourceVersion", Type::Text),
    (7, "fieldPath", Type::Text),
];
/// `ObjectMeta`.
pub(crate) const META: Schema = &[
    (1, "name", Type::Text),
    (2, "generateName", Type::Text),
    (3, "namespace", Type::Text),
    (5, "uid", Type::Text),
    (6, "resourceVersion", Type::Text),
    (7, "generation", Type::Int),
    (8, "creationTimestamp", Type::Time),
    (9, "deletionTimestamp", Type::Time),
    (10, "deletionGracePeriodSeconds", Type::Int),
    (11, "labels", Type::Map(&Type::Text)),
    (12, "annotations", Type::Map(&Type::Text)),
    (13, "ownerReferences", Type::List(&Type::Message(OWNER))),
    (14, "finalizers", Type::List(&Type::Text)),
];
/// `DeleteOptions`.
pub(crate) const DELETE_OPTIONS: Schema = &[
    (1, "gracePeriodSeconds", Type::Given),
    (2, "preconditions", Type::Message(&[(1, "uid", Type::Text), (2, "resourceVersion", Type::Text)])),
    (3, "orphanDependents", Type::Bool),
    (4, "propagationPolicy", Type::Text),
    (5, "dryRun", Type::List(&Type::Text)),
];

/// `SelfSubjectAccessReview`.
pub(crate) const ACCESS_REVIEW: Schema = &[(
    2,
    "spec",
    Type::Message(&[
        (
            1,
            "resourceAttributes",
            Type::Message(&[
                (1, "namespace", Type::Text),
                (2, "verb", Type::Text),
                (3, "group", Type::Text),
                (4, "version", Type::Text),
                (5, "resource", Type::Text),
                (6, "subresource", Type::Text),
                (7, "name", Type::Text),
            ]),
        ),
        (2, "nonResourceAttributes", Type::Message(&[(1, "path", Type::Text), (2, "verb", Type::Text)])),
    ]),
)];

/// `SelfSubjectRulesReview`.
pub(crate) const RULES_REVIEW: Schema = &[(2, "spec", Type::Message(&[(1, "namespace", Type::Text)]))];

/// The envelope: what kind it is, and the object.
const UNKNOWN_TYPE: Schema = &[(1, "apiVersion", Type::Text), (2, "kind", Type::Text)];

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Decodes a body; the object carries `apiVersion` and `kind`.
pub(crate) fn decode(schema: Schema, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or(Malformed)?);
    let (mut object, mut of_type) = (Map::new(), Map::new());
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Wire::Bytes(b)) => of_type = message(UNKNOWN_TYPE, b)?,
            (2, Wire::Bytes(b)) => object = message(schema, b)?,
            _ => {}
        }
    }
    of_type.extend(object);
    Ok(of_type.into())
}

/// A field's value as it is on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
    /// The next field; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return Err(Malformed),
        };
        Ok(Some((tag >> 3, value)))
    }
}

fn message(schema: Schema, bytes: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let mut out = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some((_, name, of_type)) = schema.iter().find(|(n, ..)| *n == number) else { continue };
        match of_type {
            Type::List(of_type) => {
                let list = out.entry(*name).or_insert_with(|| Value::Array(Vec::new()));
                if let (Value::Array(list), Some(v)) = (list, value(of_type, &wire, true)?) {
                    list.push(v);
                }
            }
            Type::Map(of_type) => {
                let map = out.entry(*name).or_insert_with(|| Value::Object(Map::new()));
                let Wire::Bytes(entry) = wire else { return Err(Malformed) };
                if let (Value::Object(map), (key, v)) = (map, pair(of_type, entry)?) {
                    map.insert(key, v);
                }
            }
            Type::Inline(schema) => {
                let Wire::Bytes(inner) = wire else { return Err(Malformed) };
                out.extend(message(schema, inner)?);
            }
            of_type => {
                if let Some(v) = value(of_type, &wire, false)? {
                    out.insert((*name).to_owned(), v);
                }
            }
        }
    }
    Ok(out)
}

/// An entry of a map.
fn pair(of_type: &Type, bytes: &[u8]) -> Result<(String, Value), Malformed> {
    let (mut key, mut found) = (String::new(), Value::String(String::new()));
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, &wire) {
            (1, Wire::Bytes(b)) => key = text(b)?,
            (2, _) => found = value(of_type, &wire, true)?.unwrap_or_default(),
            _ => {}
        }
    }
    Ok((key, found))
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

/// One value. Empty ones stand for fields that are not set, unless they are elements.
fn value(of_type: &Type, wire: &Wire<'_>, element: bool) -> Result<Option<Value>, Malformed> {
    Ok(match (of_type, wire) {
        (Type::Text, Wire::Bytes(b)) => Some(text(b)?).filter(|t| element || !t.is_empty()).map(Into::into),
        (Type::Bool, Wire::Number(n)) => Some((*n != 0).into()),
        (Type::Int, Wire::Number(n)) => Some(n.cast_signed()).filter(|n| element || *n != 0).map(Into::into),
        (Type::Given, Wire::Number(n)) => Some(n.cast_signed().into()),
        (Type::Bytes, Wire::Bytes(b)) => Some(STANDARD.encode(b).into()),
        (Type::Time | Type::MicroTime, Wire::Bytes(b)) => time(b, matches!(of_type, Type::MicroTime))?,
        (Type::Either, Wire::Bytes(b)) => {
            let parts =
                message(&[(1, "type", Type::Int), (2, "number", Type::Int), (3, "text", Type::Text)], b)?;
            let part = if parts.contains_key("type") { "text" } else { "number" };
            parts.get(part).cloned()
        }
        (Type::Message(schema), Wire::Bytes(b)) => {
            Some(message(schema, b)?).filter(|m| element || !m.is_empty()).map(Into::into)
        }
        _ => return Err(Malformed),
    })
}

fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, Malformed> {
    let parts = message(&[(1, "seconds", Type::Int), (2, "nanos", Type::Int)], bytes)?;
    if parts.is_empty() {
        return Ok(None);
    }
    let part = |key: &str| parts.get(key).and_then(Value::as_i64).unwrap_or(0);
    let nanos = i32::try_from(part("nanos")).map_err(|_| Malformed)?;
    let at = jiff::Timestamp::new(part("seconds"), nanos).map_err(|_| Malformed)?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S%.6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Some(jiff::fmt::strtime::format(format, at).map_err(|_| Malformed)?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{CONFIG_MAP, KINDS, LEASE, NAMESPACE};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn bodies_of_kubectl() {
        let map = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01x\x12\0\x1a\0\"\0*\x002\08\0B\0\x12\x06\n\x01a\x12\x01b\x1a\0\"\0";
        assert_eq!(
            decode(CONFIG_MAP.get().proto.unwrap(), map),
            Ok(
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}})
            )
        );
        let namespace = b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x19\n\x11\n\x01y\x12\0\x1a\0\"\0*\x002\08\0B\0\x12\0\x1a\x02\n\0\x1a\0\"\0";
        assert_eq!(
            decode(NAMESPACE.get().proto.unwrap(), namespace),
            Ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y"}}))
        );
    }

    #[test]
    fn times_numbers_and_bytes() {
        let lease = b"k8s\0\x12\x12\x12\x10\x10\x28\x22\x0c\x08\x80\xa3\x05\x10\xc0\x84\x3d\x28\x00\x32\x01";
        assert_eq!(decode(LEASE.get().proto.unwrap(), lease), Err(Malformed), "cut short");
        let lease = b"k8s\0\x12\x0e\x12\x0c\x10\x28\x22\x08\x08\x80\xa3\x05\x10\xc0\x84\x3d";
        assert_eq!(
            decode(LEASE.get().proto.unwrap(), lease),
            Ok(json!({"spec": {"leaseDurationSeconds": 40, "renewTime": "1970-01-02T00:00:00.001000Z"}}))
        );
        let map = b"k8s\0\x12\x08\x1a\x06\n\x01k\x12\x01\xff";
        assert_eq!(decode(CONFIG_MAP.get().proto.unwrap(), map), Ok(json!({"binaryData": {"k": "/w=="}})));
    }

    /// Encodes an object as its schema says, as far as the value fits it.
    fn encoded(schema: Schema, object: &Value) -> Vec<u8> {
        fn varint(mut n: u64, out: &mut Vec<u8>) {
            while n >= 0x80 {
                out.push((n as u8) | 0x80);
                n >>= 7;
            }
            out.push(n as u8);
        }
        fn field(number: u64, of_type: &Type, value: &Value, out: &mut Vec<u8>) {
            let bytes = match (of_type, value) {
                (Type::Text, Value::String(s)) => s.clone().into_bytes(),
                (Type::Bytes, Value::String(s)) => STANDARD.decode(s).unwrap(),
                (Type::Bool | Type::Int, _) => {
                    varint(number << 3, out);
                    let n = value.as_i64().unwrap_or(i64::from(value == &Value::Bool(true)));
                    return varint(n.cast_unsigned(), out);
                }
                (Type::Message(schema), Value::Object(_)) => encoded(schema, value),
                (Type::List(of_type), Value::Array(items)) => {
                    return items.iter().for_each(|v| field(number, of_type, v, out));
                }
                (Type::Map(of_type), Value::Object(map)) => {
                    for (k, v) in map {
                        let mut entry = Vec::new();
                        field(1, &Type::Text, &k.as_str().into(), &mut entry);
                        field(2, of_type, v, &mut entry);
                        varint(number << 3 | 2, out);
                        varint(entry.len() as u64, out);
                        out.extend(entry);
                    }
                    return;
                }
                _ => return,
            };
            varint(number << 3 | 2, out);
            varint(bytes.len() as u64, out);
            out.extend(bytes);
        }
        let mut out = Vec::new();
        for (number, name, of_type) in schema {
            if let Some(value) = object.get(*name) {
                field(*number, of_type, value, &mut out);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_message_comes_back_and_a_mutated_one_is_read_or_refused(
            name in "[a-z]{1,9}", data in prop::collection::btree_map("[a-z]{1,5}", "\\PC{0,20}", 1..4),
            bytes in prop::collection::vec(any::<u8>(), 1..20), generation in 1i64.., owner: bool,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: prop::sample::Index,
        ) {
            let mut map = json!({
                "metadata": {"name": name, "generation": generation, "labels": data, "finalizers": ["a/b", ""]},
                "data": data, "binaryData": {"b": STANDARD.encode(&bytes)},
            });
            if owner {
                map["metadata"]["ownerReferences"] = json!([{"kind": "Pod", "name": name, "controller": true}]);
            }
            let schema = CONFIG_MAP.get().proto.unwrap();
            let wire = encoded(schema, &map);
            prop_assert_eq!(Value::from(message(schema, &wire).unwrap()), map);
            let mut envelope = vec![(2, &wire[..])];
            envelope.insert(0, (1, b"\n\x02v1"));
            let mut body = MAGIC.to_vec();
            for (number, bytes) in envelope {
                body.push(number << 3 | 2);
                let mut n = bytes.len();
                while n >= 0x80 {
                    body.push((n as u8) | 0x80);
                    n >>= 7;
                }
                body.push(n as u8);
                body.extend(bytes);
            }
            prop_assert!(decode(schema, &body).is_ok());
            for (at, value) in flips {
                let at = at.index(body.len());
                body[at] = value;
            }
            for kind in KINDS {
                if let Some(schema) = kind.proto {
                    let _ = decode(schema, &body);
                    let _ = decode(schema, &body[..cut.index(body.len())]);
                }
            }
        }

        #[test]
        fn any_time_is_shown_or_refused(seconds: i64, nanos: i64, micro: bool) {
            let mut bytes = Vec::new();
            for (tag, mut n) in [(8, seconds.cast_unsigned()), (16, nanos.cast_unsigned())] {
                bytes.push(tag);
                while n >= 0x80 {
                    bytes.push((n as u8) | 0x80);
                    n >>= 7;
                }
                bytes.push(n as u8);
            }
            let _ = time(&bytes, micro);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = [MAGIC, &[0x12, u8::try_from(bytes.len().min(100)).unwrap()], &bytes].concat();
            for kind in KINDS {
                if let Some(schema) = kind.proto {
                    let _ = decode(schema, &framed);
                    let _ = message(schema, &bytes);
                }
            }
        }
    }
}
