//! Strategic merge patch: a merge patch that knows which lists are merged, and by which key.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

use crate::schema::{self, Field};

/// How a list is merged.
#[derive(Debug, Clone, Copy)]
enum List {
    /// Replaced as a whole.
    Atomic,
    /// Objects, by the value of this key.
    Keyed(&'static str),
    /// Plain values, as a set.
    Set,
}

fn list_kind(field: Option<&Field>) -> List {
    match field.and_then(|f| f.patch) {
        None => List::Atomic,
        Some(rule) => rule.key.map_or(List::Set, List::Keyed),
    }
}

/// The field of a type; none in objects of no known type.
fn field(of: Option<&str>, name: &str) -> Option<&'static Field> {
    schema::lookup(of?)?.fields.get(name)
}

fn inner(field: Option<&Field>) -> Option<&str> {
    field.and_then(|f| f.inner.as_deref())
}

/// Most comparisons of entries in the merge of one list.
const PAIRS: usize = 4_000_000;
const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `target`, an object of the type `of`.
pub(super) fn merge(target: &mut Value, patch: &Value, of: Option<&str>) -> Result<(), String> {
    let Value::Object(patch) = patch else { return Err("the patch is not an object".into()) };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        merge_maps(target, patch, of)?;
    }
    Ok(())
}

fn merge_maps(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    of: Option<&str>,
) -> Result<(), String> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            target.clear();
            for (k, v) in patch.iter().filter(|(k, _)| *k != DIRECTIVE) {
                target.insert(k.clone(), v.clone());
            }
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("unknown $patch directive {other:?}")),
    }
    if let Some(keep) = patch.get(RETAIN) {
        let keep: BTreeSet<&str> = keep.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        target.retain(|k, _| keep.contains(k.as_str()));
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = value.as_array().ok_or_else(|| format!("{key} is not a list"))?;
            if let Some(Value::Array(items)) = target.get_mut(list) {
                check_pairs(list, gone.len(), items.len())?;
                items.retain(|i| !gone.contains(i));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
        merge_field(target, key, value, patch.get(&format!("{ORDER}{key}")), field(of, key))?;
    }
    // An order without a change of the list itself.
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix(ORDER)
            && !patch.contains_key(list)
            && let Some(Value::Array(items)) = target.get_mut(list)
        {
            let before = items.clone();
            check_pairs(list, order.as_array().map_or(0, Vec::len).max(items.len()), items.len())?;
            reorder(list_kind(field(of, list)), items, order, &before);
        }
    }
    Ok(())
}

fn merge_field(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    order: Option<&Value>,
    of: Option<&Field>,
) -> Result<(), String> {
    match value {
        Value::Null => {
            target.shift_remove(key);
        }
        Value::Object(patch) => {
            let slot = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(map) = slot {
                merge_maps(map, patch, inner(of))?;
            }
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                target.shift_remove(key);
            }
        }
        Value::Array(patch) => {
            let mut items = match target.get_mut(key) {
                Some(Value::Array(items)) => std::mem::take(items),
                _ => Vec::new(),
            };
            let before = items.clone();
            merge_list(key, &mut items, patch, of)?;
            if let Some(order) = order {
                check_pairs(key, order.as_array().map_or(0, Vec::len).max(items.len()), items.len())?;
                reorder(list_kind(of), &mut items, order, &before);
            }
            target.insert(key.to_owned(), Value::Array(items));
        }
        plain => {
            target.insert(key.to_owned(), plain.clone());
        }
    }
    Ok(())
}

/// Refuses lists whose entries would be compared with one another for minutes.
fn check_pairs(field: &str, a: usize, b: usize) -> Result<(), String> {
    if a.saturating_mul(b) > PAIRS {
        return Err(format!(
            "{field}: lists of {a} and {b} entries are too long to be merged; replace the whole list"
        ));
    }
    Ok(())
}

fn merge_list(
    field: &str,
    items: &mut Vec<Value>,
    patch: &[Value],
    of: Option<&Field>,
) -> Result<(), String> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    let kind = list_kind(of);
    let replace = patch.iter().any(|p| directive(p).as_deref() == Some("replace"));
    if !matches!(kind, List::Atomic) && !replace {
        check_pairs(field, patch.len(), items.len() + patch.len())?;
    }
    match kind {
        List::Atomic => *items = patch.iter().filter(|p| directive(p).is_none()).cloned().collect(),
        _ if replace => *items = patch.iter().filter(|p| directive(p).is_none()).cloned().collect(),
        List::Set => {
            for p in patch {
                if !items.contains(p) {
                    items.push(p.clone());
                }
            }
        }
        List::Keyed(key) => {
            for p in patch {
                let Value::Object(entry) = p else {
                    return Err(format!("{field} holds something that is not an object"));
                };
                let id = entry
                    .get(key)
                    .ok_or_else(|| format!("an entry of {field} does not contain its merge key {key}"))?;
                let at = items.iter().position(|i| i.get(key) == Some(id));
                match (directive(p).as_deref(), at) {
                    (Some("delete"), _) => items.retain(|i| i.get(key) != Some(id)),
                    (_, Some(at)) => merge(&mut items[at], p, inner(of))?,
                    (_, None) => {
                        let mut new = Value::Object(Map::new());
                        merge(&mut new, p, inner(of))?;
                        items.push(new);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Puts the entries that `order` names in that order; others keep their place relative to what stood after them.
fn reorder(kind: List, items: &mut Vec<Value>, order: &Value, before: &[Value]) {
    let Value::Array(order) = order else { return };
    let key = match kind {
        List::Atomic => return,
        List::Keyed(key) => Some(key),
        List::Set => None,
    };
    fn id<'a>(value: &'a Value, key: Option<&str>) -> Option<&'a Value> {
        key.map_or(Some(value), |k| value.get(k))
    }
    let rank = |v: &Value| order.iter().position(|o| id(o, key) == id(v, key));
    let place = |v: &Value| before.iter().position(|b| id(b, key) == id(v, key));
    let (mut named, others): (Vec<Value>, Vec<Value>) = items.drain(..).partition(|v| rank(v).is_some());
    named.sort_by_key(|v| rank(v));
    let mut others = others.into_iter().peekable();
    for next in named {
        while let Some(other) =
            others.next_if(|o| matches!((place(o), place(&next)), (Some(a), Some(b)) if a < b))
        {
            items.push(other);
        }
        items.push(next);
    }
    items.extend(others);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn merged_as(of: &str, mut target: Value, patch: Value) -> Value {
        merge(&mut target, &patch, Some(&format!("io.k8s.api.core.v1.{of}"))).unwrap();
        target
    }
    fn merged(target: Value, patch: Value) -> Value {
        merged_as("Pod", target, patch)
    }

    #[test]
    fn lists_merge_by_key() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        assert_eq!(
            merged(
                pod.clone(),
                json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c"}]}})
            ),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c"}]}})
        );
        assert_eq!(
            merged(pod.clone(), json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}})),
            json!({"spec": {"containers": [{"name": "b", "image": "1"}]}})
        );
        assert_eq!(
            merged(pod.clone(), json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}})),
            json!({"spec": {"containers": [{"name": "z"}]}})
        );
        let keyless = json!({"spec": {"containers": [{"image": "2"}]}});
        assert!(merge(&mut pod.clone(), &keyless, Some("io.k8s.api.core.v1.Pod")).is_err());
    }

    #[test]
    fn conditions_addresses_ports_and_sets() {
        let node = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}, "metadata": {"finalizers": ["a/b"]}});
        assert_eq!(
            merged_as(
                "Node",
                node,
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "metadata": {"finalizers": ["c/d"], "$deleteFromPrimitiveList/finalizers": ["a/b"]}})
            ),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}, "metadata": {"finalizers": ["c/d"]}})
        );
        assert_eq!(
            merged_as(
                "Container",
                json!({"ports": [{"containerPort": 80, "name": "a"}]}),
                json!({"ports": [{"containerPort": 80, "protocol": "UDP"}]})
            ),
            json!({"ports": [{"containerPort": 80, "name": "a", "protocol": "UDP"}]})
        );
        assert_eq!(
            merged_as("Container", json!({"args": ["a"]}), json!({"args": ["b"]})),
            json!({"args": ["b"]})
        );
        // The same name of a field, in another type: replaced as a whole.
        assert_eq!(
            merged_as("EndpointSubset", json!({"ports": [{"port": 1}]}), json!({"ports": [{"port": 2}]})),
            json!({"ports": [{"port": 2}]})
        );
        assert_eq!(
            merged_as("ServiceSpec", json!({"ports": [{"port": 1}]}), json!({"ports": [{"port": 2}]})),
            json!({"ports": [{"port": 1}, {"port": 2}]})
        );
    }

    #[test]
    fn order_and_retained_keys() {
        let o = json!({"env": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        assert_eq!(
            merged_as(
                "Container",
                o,
                json!({"$setElementOrder/env": [{"name": "c"}, {"name": "a"}], "env": [{"name": "c", "value": "1"}]})
            ),
            json!({"env": [{"name": "b"}, {"name": "c", "value": "1"}, {"name": "a"}]})
        );
        assert_eq!(
            merged_as(
                "PodSpec",
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]})
            ),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})
        );
        assert_eq!(
            merged(json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 2}})),
            json!({"a": {"c": 2}})
        );
    }

    proptest! {
        #[test]
        fn applying_a_patch_twice_is_applying_it_once(names in prop::collection::vec("[a-d]", 0..4), values in prop::collection::vec("[a-c]", 4)) {
            let entries: Vec<Value> = names.iter().zip(&values).map(|(n, v)| json!({"name": n, "image": v})).collect();
            let patch = json!({"spec": {"containers": entries}});
            let once = merged(json!({"spec": {"containers": [{"name": "a", "image": "0", "tty": true}]}}), patch.clone());
            prop_assert_eq!(merged(once.clone(), patch), once);
        }
    }
}
