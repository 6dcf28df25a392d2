//! Which pods a Service may select, and which Services may select a pod: found by a label, without looking at all of them.
//! What is found is still to be compared with the whole selector.

use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::registry::POD;
use crate::storage::Object;
use crate::table::text;

/// A namespace, and a label in it.
type Label = (String, String, String);
type Keys = BTreeSet<String>;

/// Keys of pods and Services by what leads to them.
#[derive(Default)]
pub(super) struct Index {
    /// Pods by each of their labels.
    pods: HashMap<Label, Keys>,
    on_node: HashMap<String, Keys>,
    /// Services by one label of their selectors.
    services: HashMap<Label, Keys>,
}

fn labels<'a>(namespace: &str, map: Option<&'a Value>) -> impl Iterator<Item = Label> + use<'a> {
    let namespace = namespace.to_owned();
    let pairs = map.and_then(Value::as_object).into_iter().flat_map(Map::iter);
    pairs.filter_map(move |(k, v)| Some((namespace.clone(), k.clone(), v.as_str()?.to_owned())))
}

fn selector(service: &Object) -> impl Iterator<Item = Label> {
    labels(&service.namespace, service.value.pointer("/spec/selector"))
}

/// Puts a key where it is found, or takes it away from there.
fn set<K: Eq + std::hash::Hash>(map: &mut HashMap<K, Keys>, at: K, key: &str, there: bool) {
    if there {
        map.entry(at).or_default().insert(key.to_owned());
    } else if let Some(keys) = map.get_mut(&at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(&at);
        }
    }
}

impl Index {
    /// Takes in a pod or a Service.
    pub(super) fn add(&mut self, object: &Object) {
        self.set(object, true);
    }

    /// Takes out a state of a pod or a Service that was taken in.
    pub(super) fn forget(&mut self, object: &Object) {
        self.set(object, false);
    }

    fn set(&mut self, object: &Object, there: bool) {
        let key = object.key();
        if object.kind != POD {
            if let Some(label) = selector(object).min() {
                set(&mut self.services, label, &key, there);
            }
            return;
        }
        set(&mut self.on_node, text(&object.value, "/spec/nodeName").to_owned(), &key, there);
        for label in labels(&object.namespace, object.value.pointer("/metadata/labels")) {
            set(&mut self.pods, label, &key, there);
        }
    }

    /// Keys of the pods that a Service may select: those of the rarest label that it asks for.
    pub(super) fn pods_of(&self, service: &Arc<Object>) -> Vec<String> {
        let found: Option<Vec<&Keys>> = selector(service).map(|label| self.pods.get(&label)).collect();
        let rarest = found.and_then(|all| all.into_iter().min_by_key(|keys| keys.len()));
        rarest.into_iter().flatten().cloned().collect()
    }

    /// Keys of the Services that may select a pod in this state.
    pub(super) fn services_of(&self, namespace: &str, pod: &Value) -> Keys {
        let of_label = |label| self.services.get(&label).into_iter().flatten().cloned();
        labels(namespace, pod.pointer("/metadata/labels")).flat_map(of_label).collect()
    }

    /// Keys of the pods of a node.
    pub(super) fn pods_on(&self, node: &str) -> Vec<String> {
        self.on_node.get(node).into_iter().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::service_kinds;
    use crate::storage::object_key;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(kind: crate::registry::KindId, name: &str, value: Value) -> Arc<Object> {
        let mut value = value;
        value["metadata"]["name"] = name.into();
        value["metadata"]["namespace"] = "d".into();
        Arc::new(Object::new(kind, value, 1))
    }

    fn some_labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
        proptest::collection::btree_map("[ab]", "[xy]", 0..3)
    }

    proptest! {
        /// After any changes nothing is missing that the selectors say, and an emptied index holds nothing.
        #[test]
        fn whatever_matches_is_found(
            pods in proptest::collection::vec((0..4usize, some_labels()), 0..12),
            services in proptest::collection::vec((0..3usize, some_labels()), 0..8),
        ) {
            let service_kind = service_kinds().unwrap().service;
            let mut index = Index::default();
            let mut there: HashMap<String, Arc<Object>> = HashMap::new();
            let mut change = |index: &mut Index, new: Arc<Object>| {
                let place = format!("{}-{}", new.kind.get().plural, new.name);
                if let Some(old) = there.insert(place, new.clone()) {
                    index.forget(&old);
                }
                index.add(&new);
            };
            for (n, labels) in &pods {
                let value = json!({"metadata": {"labels": labels}, "spec": {"nodeName": format!("n{}", n % 2)}});
                change(&mut index, object(POD, &format!("p{n}"), value));
            }
            for (n, labels) in &services {
                change(&mut index, object(service_kind, &format!("s{n}"), json!({"spec": {"selector": labels}})));
            }
            let of = |kind| there.values().filter(move |o| o.kind == kind);
            for pod in of(POD) {
                prop_assert!(index.pods_on(text(&pod.value, "/spec/nodeName")).contains(&pod.key()));
                for service in of(service_kind).filter(|s| super::super::compile::matches(&s.value, &pod.value)) {
                    prop_assert!(index.pods_of(service).contains(&pod.key()));
                    prop_assert!(index.services_of("d", &pod.value).contains(&object_key("d", &service.name)));
                }
            }
            for o in there.values() {
                index.forget(o);
            }
            prop_assert!(index.pods.is_empty() && index.services.is_empty() && index.on_node.is_empty());
        }
    }
}
