//! Paths and query parameters of the Kubernetes API.

use crate::deletion::DeleteOptions;
use crate::error::{ApiError, ApiResult};
use crate::registry::{KindId, NAMESPACE, lookup};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: KindId,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// The `status` subresource.
    pub(crate) status: bool,
    /// The `finalize` subresource of a namespace.
    pub(crate) finalize: bool,
}

impl Target {
    /// All objects of a kind, in a namespace or everywhere.
    pub(crate) fn all(kind: KindId, namespace: Option<&str>) -> Self {
        Self { kind, namespace: namespace.map(Into::into), name: None, status: false, finalize: false }
    }
}

/// Undoes percent encoding of one path segment.
pub(crate) fn decode_segment(s: &str) -> ApiResult<String> {
    let bad = || ApiError::bad_request("the path holds a wrong percent escape");
    let mut out = Vec::with_capacity(s.len());
    let mut bytes = s.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16)).ok_or_else(bad);
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`.
pub(crate) fn target(path: &str) -> ApiResult<Target> {
    let segments: Vec<String> = path
        .trim_start_matches('/')
        .trim_end_matches('/')
        .split('/')
        .map(decode_segment)
        .collect::<ApiResult<_>>()?;
    let s: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match s.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
        _ => return Err(ApiError::no_such_path()),
    };
    let find = |plural: &str| lookup(group, version, plural).ok_or_else(ApiError::no_such_path);
    let (namespace, plural, name, sub) = match rest {
        // A namespace itself, not what is in it.
        ["namespaces", name] if group.is_empty() => (None, "namespaces", Some(*name), None),
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            (None, "namespaces", Some(*name), Some(*sub))
        }
        ["namespaces", ns, plural] => (Some(*ns), *plural, None, None),
        ["namespaces", ns, plural, name] => (Some(*ns), *plural, Some(*name), None),
        ["namespaces", ns, plural, name, sub] => (Some(*ns), *plural, Some(*name), Some(*sub)),
        [plural] => (None, *plural, None, None),
        [plural, name] => (None, *plural, Some(*name), None),
        [plural, name, sub] => (None, *plural, Some(*name), Some(*sub)),
        _ => return Err(ApiError::no_such_path()),
    };
    let kind = find(plural)?;
    let row = kind.get();
    let fits = if row.namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
    let (status, finalize) = match sub {
        None => (false, false),
        Some("status") if row.status => (true, false),
        Some("finalize") if kind == NAMESPACE => (false, true),
        Some(_) => return Err(ApiError::no_such_path()),
    };
    if !fits || name.is_some_and(str::is_empty) {
        return Err(ApiError::no_such_path());
    }
    if let Some(ns) = namespace.filter(|ns| crate::meta::valid_name(NAMESPACE.get(), ns).is_err()) {
        return Err(ApiError::not_found(NAMESPACE.get(), ns));
    }
    Ok(Target { kind, namespace: namespace.map(Into::into), name: name.map(Into::into), status, finalize })
}

/// Query parameters that mean something here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    pub(crate) watch: bool,
    pub(crate) label_selector: String,
    pub(crate) field_selector: String,
    pub(crate) resource_version: String,
    pub(crate) resource_version_match: String,
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
    pub(crate) include_object: Option<String>,
    pub(crate) force: Option<bool>,
    pub(crate) field_manager: String,
    /// `DeleteOptions` of a request without a body.
    pub(crate) delete: DeleteOptions,
}

/// What happens to unknown fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped, with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Longest name of a manager of fields.
const MANAGER_LIMIT: usize = 128;

fn field_manager(name: String) -> ApiResult<String> {
    if name.chars().count() > MANAGER_LIMIT {
        return Err(ApiError::unprocessable(format!(
            "fieldManager: Too long: may not be more than {MANAGER_LIMIT} bytes"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(ApiError::unprocessable(
            "fieldManager: Invalid value: should only contain printable characters",
        ));
    }
    Ok(name)
}

/// The manager that a client is by its User-Agent: the name of its program.
pub(crate) fn manager_of_agent(headers: &http::HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name: String = agent.split('/').next().unwrap_or_default().chars().take(MANAGER_LIMIT).collect();
    if name.is_empty() { "unknown".into() } else { name }
}

fn boolean(value: &str) -> bool {
    !matches!(value, "false" | "0")
}

impl Params {
    /// Reads the query string.
    pub(crate) fn parse(uri: &http::Uri) -> ApiResult<Self> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut p = Self::default();
        for (key, value) in pairs.0 {
            let number = |what: &str| {
                value
                    .parse::<u64>()
                    .map_err(|_| ApiError::bad_request(format!("{what}: {value:?} is not a number")))
            };
            match key.as_str() {
                "watch" => p.watch = boolean(&value),
                "labelSelector" => p.label_selector = value,
                "fieldSelector" => p.field_selector = value,
                "resourceVersion" => p.resource_version = value,
                "resourceVersionMatch" => p.resource_version_match = value,
                "limit" => p.limit = usize::try_from(number("limit")?).unwrap_or(usize::MAX),
                "continue" => p.continue_token = value,
                "timeoutSeconds" => p.timeout_seconds = Some(number("timeoutSeconds")?).filter(|n| *n > 0),
                "allowWatchBookmarks" => p.bookmarks = boolean(&value),
                "sendInitialEvents" => p.send_initial_events = Some(boolean(&value)),
                "dryRun" if value == "All" => p.dry_run = true,
                "dryRun" => return Err(ApiError::bad_request(format!("dryRun: {value:?} is not \"All\""))),
                "fieldValidation" => {
                    p.field_validation = match value.as_str() {
                        "Ignore" => FieldValidation::Ignore,
                        "Warn" | "" => FieldValidation::Warn,
                        "Strict" => FieldValidation::Strict,
                        _ => {
                            return Err(ApiError::bad_request(format!(
                                "fieldValidation: {value:?} is not Ignore, Warn or Strict"
                            )));
                        }
                    }
                }
                "includeObject" => p.include_object = Some(value),
                "force" => p.force = Some(boolean(&value)),
                "gracePeriodSeconds" => {
                    p.delete.grace_period_seconds = i64::try_from(number("gracePeriodSeconds")?).ok();
                }
                "propagationPolicy" => p.delete.propagation_policy = Some(value),
                "orphanDependents" => p.delete.orphan_dependents = Some(boolean(&value)),
                "fieldManager" => p.field_manager = field_manager(value)?,
                _ => {}
            }
        }
        Ok(p)
    }
    /// The resourceVersion as a number; none when it is not given.
    pub(crate) fn revision(&self) -> ApiResult<Option<u64>> {
        match self.resource_version.as_str() {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("resourceVersion: {text:?} is not a number"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{LEASE, NODE, POD};
    use proptest::prelude::*;

    fn at(kind: KindId, ns: &str, name: &str, status: bool) -> Target {
        let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Target { kind, namespace: text(ns), name: text(name), status, finalize: false }
    }

    #[test]
    fn paths_of_the_api() {
        for (path, expected) in [
            ("/api/v1/nodes", at(NODE, "", "", false)),
            ("/api/v1/nodes/n1/status", at(NODE, "", "n1", true)),
            ("/api/v1/namespaces", at(NAMESPACE, "", "", false)),
            ("/api/v1/namespaces/a", at(NAMESPACE, "", "a", false)),
            ("/api/v1/namespaces/a/status", at(NAMESPACE, "", "a", true)),
            ("/api/v1/pods", at(POD, "", "", false)),
            ("/api/v1/namespaces/a/pods", at(POD, "a", "", false)),
            ("/api/v1/namespaces/a/pods/%70", at(POD, "a", "p", false)),
            ("/apis/coordination.k8s.io/v1/namespaces/a/leases/l", at(LEASE, "a", "l", false)),
        ] {
            assert_eq!(target(path).unwrap(), expected, "{path}");
        }
        for bad in [
            "/",
            "/api",
            "/api/v2/nodes",
            "/api/v1/things",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes/n",
            "/api/v1/nodes/n/proxy",
            "/api/v1/nodes/",
            "/api/v1/namespaces/a/leases",
            "/apis//v1/nodes",
            "/api/v1/nodes/%zz",
            "/api/v1/namespaces/../pods",
        ] {
            assert!(target(bad).is_err() || bad.ends_with('/'), "{bad}");
        }
    }

    fn path_word() -> impl Strategy<Value = String> {
        let known = vec![
            "api",
            "apis",
            "v1",
            "namespaces",
            "nodes",
            "pods",
            "status",
            "coordination.k8s.io",
            "leases",
            "",
            "..",
            "%2e%2e",
            "%2F",
        ];
        prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[a-z%.]{0,6}"]
    }

    fn parameter() -> impl Strategy<Value = String> {
        let known = vec![
            "watch",
            "labelSelector",
            "fieldSelector",
            "resourceVersion",
            "resourceVersionMatch",
            "limit",
            "continue",
            "timeoutSeconds",
            "allowWatchBookmarks",
            "sendInitialEvents",
            "dryRun",
            "fieldValidation",
            "includeObject",
            "force",
        ];
        prop_oneof![9 => prop::sample::select(known).prop_map(str::to_owned), 1 => "[a-z]{0,6}"]
    }

    fn value() -> impl Strategy<Value = String> {
        let known =
            vec!["true", "0", "All", "Strict", "NotOlderThan", "Exact", "18446744073709551616", "-1", ""];
        prop_oneof![prop::sample::select(known).prop_map(str::to_owned), "\\PC{0,20}", "[0-9]{1,25}"]
    }

    proptest! {
        #[test]
        fn no_path_panics(s in "[/a-z0-9.%]{0,60}", words in prop::collection::vec(path_word(), 0..8)) {
            let _ = target(&s);
            if let Ok(found) = target(&format!("/{}", words.join("/"))) {
                prop_assert!(found.name.is_none_or(|n| !n.is_empty()));
                prop_assert!(found.namespace.is_none_or(|n| crate::meta::valid_name(NAMESPACE.get(), &n).is_ok()));
            }
        }

        #[test]
        fn no_segment_panics_and_an_escaped_one_comes_back(s in "\\PC{0,20}", raw in "[%0-9a-fA-F\u{e9}]{0,12}") {
            let escaped: String = s.bytes().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(decode_segment(&escaped).unwrap(), s);
            let _ = decode_segment(&raw);
        }

        #[test]
        fn any_query_is_understood_or_refused(pairs in prop::collection::vec((parameter(), value()), 0..6), raw in "[ -~]{0,60}") {
            let encoded = pairs.iter().map(|(k, v)| {
                format!("{k}={}", v.bytes().map(|b| format!("%{b:02X}")).collect::<String>())
            });
            for query in [encoded.collect::<Vec<_>>().join("&"), raw] {
                let Ok(uri) = format!("/api/v1/pods?{query}").parse::<http::Uri>() else { continue };
                match Params::parse(&uri) {
                    Ok(p) => drop(p.revision()),
                    Err(e) => prop_assert_eq!(e.code, 400),
                }
            }
        }
    }
}
