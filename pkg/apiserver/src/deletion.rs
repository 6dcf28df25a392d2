//! What a deletion does to an object: it goes, or it is marked and waits for finalizers and for its node.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::error::{ApiError, ApiResult};
use crate::meta;
use crate::registry::{Kind, KindId, NAMESPACE, POD};
use crate::storage::Object;
use crate::table::{list, text};

/// The finalizer that keeps an owner until its dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an owner until its dependents no longer name it.
pub(crate) const ORPHAN: &str = "orphan";

/// `DeleteOptions`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) propagation_policy: Option<String>,
    pub(crate) preconditions: Preconditions,
    pub(crate) dry_run: Vec<String>,
}

/// What must hold of an object that is to be deleted.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// It is on its way already.
    Nothing,
    /// It goes now.
    Remove,
    /// It stays, in this state, until its finalizers are gone and its time is over.
    Mark(Value),
}

impl DeleteOptions {
    /// Refuses options that contradict each other.
    pub(crate) fn check(&self) -> ApiResult<()> {
        let bad = |why: &str| {
            Err(ApiError::unprocessable(format!("DeleteOptions.meta.k8s.io \"\" is invalid: {why}")))
        };
        if self.orphan_dependents.is_some() && self.propagation_policy.is_some() {
            return bad(
                "propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
            );
        }
        match self.propagation_policy.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => {}
            Some(other) => {
                return bad(&format!(
                    "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\""
                ));
            }
        }
        match self.dry_run.iter().find(|d| *d != "All") {
            Some(other) => bad(&format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"")),
            None => Ok(()),
        }
    }

    /// The finalizers of `object` once this deletion has been asked for.
    fn finalizers(&self, object: &Value) -> Vec<Value> {
        let now = list(object, "/metadata/finalizers");
        let has = |name: &str| now.iter().any(|f| f == name);
        let (orphan, foreground) = match (self.orphan_dependents, self.propagation_policy.as_deref()) {
            (Some(orphan), _) => (orphan, false),
            (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
            (None, None) => (has(ORPHAN), has(FOREGROUND)),
        };
        let mut out: Vec<Value> = now.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
        for (wanted, name) in [(orphan, ORPHAN), (foreground, FOREGROUND)] {
            if wanted {
                out.push(name.into());
            }
        }
        out
    }

    /// Seconds that the object is given; none for kinds that go at once.
    fn grace(&self, kind: KindId, object: &Value) -> Option<i64> {
        if kind != POD {
            return None;
        }
        let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
        let asked = self.grace_period_seconds.or(own).unwrap_or(0);
        // Nobody has to stop it: no node has it, or it has ended.
        let idle = text(object, "/spec/nodeName").is_empty()
            || matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
        Some(if idle {
            0
        } else if asked < 0 {
            1
        } else {
            asked
        })
    }
}

/// Whether a namespace still has to be emptied by those that it names.
fn to_empty(kind: KindId, object: &Value) -> bool {
    kind == NAMESPACE && !list(object, "/spec/finalizers").is_empty()
}

/// What deleting `object` does.
pub(crate) fn plan(kind: KindId, object: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let marked = text(object, "/metadata/deletionTimestamp").parse::<Timestamp>().ok();
    let before = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let grace = match marked {
        None => options.grace(kind, object).unwrap_or(0),
        // Time that was given can only be shortened.
        Some(_) => {
            options.grace_period_seconds.filter(|g| kind == POD && *g >= 0).unwrap_or(before).min(before)
        }
    };
    // Who deletes again without a word does not change what holds the object.
    let finalizers = match marked {
        Some(_) if grace == before => list(object, "/metadata/finalizers").to_vec(),
        _ => options.finalizers(object),
    };
    if grace == 0 && finalizers.is_empty() && !to_empty(kind, object) {
        return Plan::Remove;
    }
    if marked.is_some() && grace == before {
        return Plan::Nothing;
    }
    let mut new = object.clone();
    let metadata = meta::of(&mut new);
    let start = match marked {
        Some(at) => at.checked_sub(SignedDuration::from_secs(before)).unwrap_or(now),
        None => now,
    };
    let end = start.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    metadata.insert("deletionTimestamp".into(), meta::time(end));
    if kind != NAMESPACE {
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
    if let (None, Some(generation)) = (marked, metadata.get("generation").and_then(Value::as_i64)) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if kind == NAMESPACE {
        // In the same write, so that nothing new comes into it from now on.
        crate::kinds::object(&mut new, "status").insert("phase".into(), "Terminating".into());
    }
    Plan::Mark(new)
}

/// Whether a marked object has nothing left to wait for.
pub(crate) fn is_over(kind: KindId, object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    !text(object, "/metadata/deletionTimestamp").is_empty()
        && list(object, "/metadata/finalizers").is_empty()
        && !to_empty(kind, object)
        && grace == 0
}

/// Whether the object is the one that is meant.
pub(crate) fn check_preconditions(kind: &Kind, current: &Object, wanted: &Preconditions) -> ApiResult<()> {
    let revision = current.revision.to_string();
    for (what, wanted, found) in [
        ("UID", &wanted.uid, current.uid()),
        ("ResourceVersion", &wanted.resource_version, revision.as_str()),
    ] {
        if let Some(wanted) = wanted.as_deref().filter(|w| *w != found) {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            return Err(ApiError::conflict(kind, &current.name, &why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::CONFIG_MAP;
    use serde_json::json;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn options(value: Value) -> DeleteOptions {
        serde_json::from_value(value).unwrap()
    }
    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p", "generation": 1}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}})
    }
    fn mark(plan: Plan) -> Value {
        match plan {
            Plan::Mark(v) => v,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_on_a_node_waits_for_it() {
        let none = options(json!({}));
        assert_eq!(plan(POD, &pod(""), &none, NOW), Plan::Remove);
        let mut ended = pod("n");
        ended["status"] = json!({"phase": "Succeeded"});
        assert_eq!(plan(POD, &ended, &none, NOW), Plan::Remove);
        let marked = mark(plan(POD, &pod("n"), &none, NOW));
        assert_eq!(
            marked["metadata"],
            json!({"name": "p", "generation": 2, "deletionTimestamp": "1970-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30})
        );
        assert!(!is_over(POD, &marked));
        assert_eq!(plan(POD, &marked, &none, NOW), Plan::Nothing);
        assert_eq!(plan(POD, &marked, &options(json!({"gracePeriodSeconds": 60})), NOW), Plan::Nothing);
        let shorter = mark(plan(POD, &marked, &options(json!({"gracePeriodSeconds": 10})), NOW));
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "1970-01-01T00:00:10Z");
        assert_eq!(plan(POD, &marked, &options(json!({"gracePeriodSeconds": 0})), NOW), Plan::Remove);
        assert_eq!(plan(POD, &pod("n"), &options(json!({"gracePeriodSeconds": 0})), NOW), Plan::Remove);
    }

    #[test]
    fn a_namespace_waits_until_it_is_empty() {
        let namespace = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}});
        let marked = mark(plan(NAMESPACE, &namespace, &options(json!({})), NOW));
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(marked["metadata"], json!({"name": "n", "deletionTimestamp": "1970-01-01T00:00:00Z"}));
        assert_eq!(plan(NAMESPACE, &marked, &options(json!({})), NOW), Plan::Nothing);
        let mut empty = marked.clone();
        empty["spec"]["finalizers"] = json!([]);
        assert!(is_over(NAMESPACE, &empty) && !is_over(NAMESPACE, &marked));
    }

    #[test]
    fn policies_become_finalizers() {
        let map = json!({"metadata": {"name": "c"}});
        let with = |policy: &str| plan(CONFIG_MAP, &map, &options(json!({"propagationPolicy": policy})), NOW);
        assert_eq!(with("Background"), Plan::Remove);
        assert_eq!(mark(with("Foreground"))["metadata"]["finalizers"], json!([FOREGROUND]));
        let orphan = mark(with("Orphan"));
        assert_eq!(orphan["metadata"]["finalizers"], json!([ORPHAN]));
        assert_eq!(plan(CONFIG_MAP, &orphan, &options(json!({})), NOW), Plan::Nothing);
        let held = json!({"metadata": {"name": "c", "finalizers": ["a/b", FOREGROUND]}});
        let background = plan(CONFIG_MAP, &held, &options(json!({"propagationPolicy": "Background"})), NOW);
        assert_eq!(mark(background)["metadata"]["finalizers"], json!(["a/b"]));
        assert!(options(json!({"propagationPolicy": "X"})).check().is_err());
        assert!(options(json!({"propagationPolicy": "Orphan", "orphanDependents": true})).check().is_err());
    }
}
