//! ObjectMeta: what every object has, and its rules.

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult, Causes};
use crate::registry::{Kind, NameRule};
use crate::table::text;

/// The rule of [`is_dns_label`].
pub(crate) const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
     '-', and must start and end with an alphanumeric character";
/// The rule of [`is_dns_subdomain`].
pub(crate) const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
     characters, '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
     end with an alphanumeric character";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character";
/// Most bytes of annotations.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// RFC 1123 label.
pub(crate) fn is_dns_label(s: &str) -> bool {
    warren_types::Namespace::new(s).is_ok()
}
/// RFC 1123 subdomain.
pub(crate) fn is_dns_subdomain(s: &str) -> bool {
    warren_types::NodeName::new(s).is_ok()
}

fn is_qualified_part(s: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    s.len() <= 63
        && edge(s.bytes().next())
        && edge(s.bytes().last())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A label or annotation key: `name` or `prefix/name`.
pub(crate) fn is_qualified_name(s: &str) -> bool {
    match s.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(s),
    }
}

/// A label's value.
pub(crate) fn is_label_value(s: &str) -> bool {
    s.is_empty() || is_qualified_part(s)
}

/// Whether `name` is one of `kind`'s.
pub(crate) fn valid_name(kind: &Kind, name: &str) -> Result<(), &'static str> {
    match kind.names {
        NameRule::Subdomain if !is_dns_subdomain(name) => Err(SUBDOMAIN_RULE),
        NameRule::Label if !is_dns_label(name) => Err(LABEL_RULE),
        _ => Ok(()),
    }
}

/// Checks what the typed decoding cannot.
pub(crate) fn validate(kind: &Kind, o: &Value, causes: &mut Causes) {
    let name = text(o, "/metadata/name");
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else if let Err(rule) = valid_name(kind, name) {
        causes.invalid("metadata.name", name, rule);
    }
    let map = |key: &str| o["metadata"].get(key).and_then(Value::as_object).into_iter().flatten();
    for (key, value) in map("labels") {
        if !is_qualified_name(key) {
            causes.invalid("metadata.labels", key, QUALIFIED_RULE);
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.invalid("metadata.labels", value.as_str().unwrap_or_default(), VALUE_RULE);
        }
    }
    let mut size = 0;
    for (key, value) in map("annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        if !is_qualified_name(&key.to_lowercase()) {
            causes.invalid("metadata.annotations", key, QUALIFIED_RULE);
        }
    }
    if size > ANNOTATIONS_LIMIT {
        causes.too_long("metadata.annotations", ANNOTATIONS_LIMIT);
    }
    for finalizer in crate::table::list(o, "/metadata/finalizers") {
        let f = finalizer.as_str().unwrap_or_default();
        if !is_qualified_name(f) {
            causes.invalid("metadata.finalizers", f, QUALIFIED_RULE);
        }
    }
}

/// Rules of a change.
pub(crate) fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    if text(old, "/metadata/deletionTimestamp").is_empty() {
        return;
    }
    let before = crate::table::list(old, "/metadata/finalizers");
    let after = crate::table::list(new, "/metadata/finalizers");
    let added: Vec<&str> = after.iter().filter(|f| !before.contains(f)).filter_map(Value::as_str).collect();
    if !added.is_empty() {
        causes.forbidden(
            "metadata.finalizers",
            format_args!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        );
    }
}

/// The metadata, for changing.
pub(crate) fn of(o: &mut Value) -> &mut Map<String, Value> {
    crate::kinds::object(o, "metadata")
}

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> ApiResult<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ApiError::internal("the system gives no random bytes"))?;
    Ok(bytes)
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn new_uid() -> ApiResult<String> {
    let mut b = random::<16>()?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// A name from `generateName`: five characters that spell no words.
pub(crate) fn generated(prefix: &str) -> ApiResult<String> {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = random::<5>()?;
    let head: String = prefix.chars().take(58 + 190).collect();
    Ok(head + &bytes.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect::<String>())
}

/// A time as `metav1.Time` writes it.
pub(crate) fn time(now: Timestamp) -> Value {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", now).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_labels() {
        for ok in ["a", "app.kubernetes.io/name", "A_b.c-1", "example.com/x"] {
            assert!(is_qualified_name(ok), "{ok}");
        }
        for bad in ["", "-a", "a-", "a/b/c", "/a", "a/", "UP/a", "a b"] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
        assert!(is_label_value("") && !is_label_value("-"));
    }

    #[test]
    fn uids_are_uuids_and_names_differ() {
        let uid = new_uid().unwrap();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
        assert_ne!(generated("a-").unwrap(), generated("a-").unwrap());
    }

    #[test]
    fn times_have_seconds() {
        assert_eq!(time(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
