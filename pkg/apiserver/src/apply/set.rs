//! Sets of fields, and their form in `managedFields` (`FieldsV1`).

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Deepest set that is read from a client.
const DEPTH_LIMIT: usize = 128;

/// One step of a path to a field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// A member of an object.
    Field(String),
    /// An entry of a keyed list: its keys as JSON, in order of their names.
    Key(String),
    /// An entry of a set: the value as JSON.
    Value(String),
}

impl Element {
    fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
        }
    }
    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            // Written again, so that spaces and order of others' JSON do not matter.
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                serde_json::to_string(&keys).ok().map(Self::Key)
            }
            "v" => serde_json::from_str::<Value>(rest).ok().map(|v| Self::Value(v.to_string())),
            _ => None,
        }
    }
    /// As it is shown in messages.
    fn show(&self, out: &mut String) {
        let _ = match self {
            Self::Field(name) => write!(out, ".{name}"),
            Self::Key(json) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(json).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(out, "[{}]", keys.join(","))
            }
            Self::Value(json) => write!(out, "[={json}]"),
        };
    }
}

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Set(BTreeMap<Element, Node>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: Set,
}

impl Set {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Adds the field itself.
    pub(crate) fn insert(&mut self, at: Element) {
        self.0.entry(at).or_default().member = true;
    }
    /// Adds what is in the field.
    pub(crate) fn put(&mut self, at: Element, below: Self) {
        if !below.is_empty() {
            let node = self.0.entry(at).or_default();
            node.below = std::mem::take(&mut node.below).union(below);
        }
    }
    /// Whether the field itself is in the set.
    pub(crate) fn has(&self, at: &Element) -> bool {
        self.0.get(at).is_some_and(|n| n.member)
    }
    /// What of the field is in the set.
    pub(crate) fn below(&self, at: &Element) -> Option<&Self> {
        self.0.get(at).map(|n| &n.below).filter(|s| !s.is_empty())
    }
    /// Removes the field and all in it.
    pub(crate) fn cut(&mut self, at: &Element) {
        self.0.remove(at);
    }
    /// Keeps the field and what is in it, nothing else.
    pub(crate) fn keep(&mut self, at: &Element) {
        self.0.retain(|k, _| k == at);
    }
    /// The part in the field, for changing.
    pub(crate) fn inside(&mut self, at: &Element, change: impl FnOnce(&mut Self)) {
        if let Some(node) = self.0.get_mut(at) {
            change(&mut node.below);
            if !node.member && node.below.is_empty() {
                self.0.remove(at);
            }
        }
    }
    pub(crate) fn union(mut self, other: Self) -> Self {
        for (at, theirs) in other.0 {
            let node = self.0.entry(at).or_default();
            node.member |= theirs.member;
            node.below = std::mem::take(&mut node.below).union(theirs.below);
        }
        self
    }
    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.combine(|at, node| match other.0.get(at) {
            None => node.clone(),
            Some(theirs) => {
                Node { member: node.member && !theirs.member, below: node.below.difference(&theirs.below) }
            }
        })
    }
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combine(|at, node| match other.0.get(at) {
            None => Node::default(),
            Some(theirs) => {
                Node { member: node.member && theirs.member, below: node.below.intersection(&theirs.below) }
            }
        })
    }
    fn combine(&self, with: impl Fn(&Element, &Node) -> Node) -> Self {
        let made = self.0.iter().map(|(at, node)| (at.clone(), with(at, node)));
        Self(made.filter(|(_, n)| n.member || !n.below.is_empty()).collect())
    }
    /// The set, and every field on the way to its fields.
    pub(crate) fn with_ways(&self) -> Self {
        let made = |(at, node): (&Element, &Node)| {
            (at.clone(), Node { member: true, below: node.below.with_ways() })
        };
        Self(self.0.iter().map(made).collect())
    }
    /// Its parts: each step, whether the field itself is in the set, and what of the field is.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Element, bool, &Self)> {
        self.0.iter().map(|(at, n)| (at, n.member, &n.below))
    }
    /// The paths, as they are shown in messages.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }
    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        for (at, node) in &self.0 {
            let length = path.len();
            at.show(path);
            if node.member {
                out.push(path.clone());
            }
            node.below.collect(path, out);
            path.truncate(length);
        }
    }

    /// The form in `fieldsV1`.
    pub(crate) fn encode(&self) -> Value {
        let member = |(at, node): (&Element, &Node)| {
            let mut below = node.below.encode();
            if let (Value::Object(map), true) = (&mut below, node.member && !node.below.is_empty()) {
                map.shift_insert(0, ".".into(), Value::Object(Map::new()));
            }
            (at.encode(), below)
        };
        Value::Object(self.0.iter().map(member).collect())
    }
    /// Reads `fieldsV1`; `None` when it is none.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        Self::decode_at(value, 0)
    }
    fn decode_at(value: &Value, depth: usize) -> Option<Self> {
        let map = value.as_object().filter(|_| depth < DEPTH_LIMIT)?;
        let mut set = Self::default();
        for (key, value) in map.iter().filter(|(k, _)| *k != ".") {
            let inner = value.as_object()?;
            let member = inner.is_empty() || inner.contains_key(".");
            // Positions in lists own nothing here.
            let Some(at) = Element::decode(key) else {
                if key.starts_with("i:") {
                    continue;
                }
                return None;
            };
            set.0.insert(at, Node { member, below: Self::decode_at(value, depth + 1)? });
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_and_read_again() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {".": {}, "v:\"a/b\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
        });
        let set = Set::decode(&fields).unwrap();
        assert_eq!(set.encode(), fields);
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a/b\"]",
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
        assert!(set.difference(&set).is_empty());
        assert_eq!(set.intersection(&set), set);
        assert_eq!(set.clone().union(set.clone()), set);
        assert!(Set::decode(&json!({"x:y": {}})).is_none() && Set::decode(&json!([])).is_none());
    }
}
