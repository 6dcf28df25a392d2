//! Taints that tell the state of a node, and how long pods bear them. Pure.

use serde_json::{Value, json};
use std::time::Duration;

use crate::table::{list, text};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The taints that the Ready condition calls for, when they are not the present ones.
pub(super) fn wanted(node: &Value, now: &Value) -> Option<Vec<Value>> {
    let ready = super::ready_condition(node).map(|c| text(c, "/status"));
    let key = match ready {
        Some("Unknown") => UNREACHABLE,
        Some("False") => NOT_READY,
        Some(_) => "",
        // It has not said anything yet.
        None => return None,
    };
    let had = list(node, "/spec/taints");
    let keep = |t: &&Value| !matches!(text(t, "/key"), UNREACHABLE | NOT_READY) || text(t, "/key") == key;
    let mut taints: Vec<Value> = had.iter().filter(keep).cloned().collect();
    for effect in ["NoSchedule", "NoExecute"] {
        let there = taints.iter().any(|t| text(t, "/key") == key && text(t, "/effect") == effect);
        if !key.is_empty() && !there {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": now}));
        }
    }
    (taints != had).then_some(taints)
}

/// How long a pod stays on a node that cannot be reached; none: for ever.
pub(super) fn tolerated(pod: &Value, default: Duration) -> Option<Duration> {
    let bears = |t: &&Value| {
        let key = text(t, "/key");
        let exists = text(t, "/operator") == "Exists";
        let key = key == UNREACHABLE || (key.is_empty() && exists);
        let value = exists || text(t, "/value").is_empty();
        key && value && matches!(text(t, "/effect"), "" | "NoExecute")
    };
    let tolerations: Vec<&Value> = list(pod, "/spec/tolerations").iter().filter(bears).collect();
    if tolerations.is_empty() {
        return Some(default);
    }
    let seconds = tolerations.iter().filter_map(|t| t.get("tolerationSeconds")?.as_i64()).min()?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_stay_as_long_as_they_say() {
        let kept = |tolerations: Value| {
            let kept = tolerated(&json!({"spec": {"tolerations": tolerations}}), Duration::from_secs(300));
            kept.map(|d| d.as_secs())
        };
        assert_eq!(kept(json!([])), Some(300));
        assert_eq!(
            kept(
                json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 6}])
            ),
            Some(6)
        );
        assert_eq!(
            kept(json!([{"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": -1}])),
            Some(0)
        );
        assert_eq!(kept(json!([{"operator": "Exists"}])), None);
        assert_eq!(
            kept(
                json!([{"operator": "Exists"}, {"key": UNREACHABLE, "effect": "NoExecute", "tolerationSeconds": 9}])
            ),
            Some(9)
        );
        assert_eq!(kept(json!([{"key": UNREACHABLE, "operator": "Equal", "value": "x"}])), Some(300));
        assert_eq!(
            kept(json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}])),
            Some(300)
        );
        assert_eq!(kept(json!([{"key": NOT_READY, "operator": "Exists"}])), Some(300));
    }

    #[test]
    fn taints_follow_the_condition_and_leave_others_alone() {
        let node = |ready: &str, taints: Value| json!({"spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let own = json!({"key": "mine", "effect": "NoExecute"});
        let now = json!("now");
        let unreachable = wanted(&node("Unknown", json!([own])), &now).unwrap();
        let added = |key: &str| {
            vec![
                own.clone(),
                json!({"key": key, "effect": "NoSchedule", "timeAdded": "now"}),
                json!({"key": key, "effect": "NoExecute", "timeAdded": "now"}),
            ]
        };
        assert_eq!(unreachable, added(UNREACHABLE));
        assert_eq!(wanted(&node("Unknown", unreachable.clone().into()), &json!("later")), None);
        assert_eq!(wanted(&node("False", unreachable.clone().into()), &now), Some(added(NOT_READY)));
        assert_eq!(wanted(&node("True", unreachable.into()), &now), Some(vec![own.clone()]));
        assert_eq!(wanted(&node("True", json!([own])), &now), None);
        assert_eq!(wanted(&json!({"spec": {}}), &now), None);
    }
}
