//! `metadata.managedFields`: who owns which field, as a list of managers.

use serde_json::{Map, Value, json};

use super::set::{Element, Set};

/// Most entries of managers that update; older ones are merged.
const UPDATERS: usize = 10;
/// The name of the merged entry.
const ANCIENT: &str = "ancient-changes";
/// Fields of the metadata that nobody owns: the server alone writes them, or they name the object.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// A manager: one that writes, in one way, through one door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    /// Whether it applies; else it updates.
    pub(crate) applies: bool,
    pub(crate) api_version: String,
    /// `status`, or empty.
    pub(crate) subresource: &'static str,
}

/// What a manager owns, and since when.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: Manager,
    pub(crate) time: String,
    pub(crate) fields: Set,
}

impl Entry {
    /// As it is named in a conflict.
    pub(crate) fn show(&self) -> String {
        let m = &self.manager;
        let mut out = format!("{:?}", m.name);
        if !m.subresource.is_empty() {
            out += &format!(" with subresource {:?}", m.subresource);
        }
        if !m.applies {
            out += &format!(" using {}", m.api_version);
            if !self.time.is_empty() {
                out += &format!(" at {}", self.time);
            }
        }
        out
    }
    fn decode(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("fieldsType"), "FieldsV1") {
            return None;
        }
        let manager = Manager {
            name: text("manager").to_owned(),
            applies: match text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return None,
            },
            api_version: text("apiVersion").to_owned(),
            subresource: match text("subresource") {
                "" => "",
                "status" => "status",
                _ => return None,
            },
        };
        let fields = Set::decode(value.get("fieldsV1")?)?;
        Some(Self { manager, time: text("time").to_owned(), fields })
    }
    fn encode(&self) -> Value {
        let m = &self.manager;
        let mut out = json!({ "manager": m.name, "operation": if m.applies { "Apply" } else { "Update" }, "apiVersion": m.api_version });
        if !self.time.is_empty() {
            out["time"] = self.time.clone().into();
        }
        out["fieldsType"] = "FieldsV1".into();
        out["fieldsV1"] = self.fields.encode();
        if !m.subresource.is_empty() {
            out["subresource"] = m.subresource.into();
        }
        out
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Managers(pub(crate) Vec<Entry>);

impl Managers {
    /// Reads `managedFields`; `None` when an entry is not well formed.
    pub(crate) fn decode(object: &Value) -> Option<Self> {
        match object.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => Some(Self::default()),
            Some(Value::Array(entries)) => entries.iter().map(Entry::decode).collect::<Option<_>>().map(Self),
            Some(_) => None,
        }
    }
    /// Writes `managedFields`.
    pub(crate) fn store(mut self, object: &mut Value) {
        self.0.retain(|e| !e.fields.is_empty());
        self.merge_old();
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (!e.manager.applies, e.time.clone(), e.manager.name.clone());
            key(a).cmp(&key(b)).then(a.manager.subresource.cmp(b.manager.subresource))
        });
        let metadata = crate::meta::of(object);
        // An empty list says that nobody owns anything; storing the object leaves it out.
        metadata.insert("managedFields".into(), self.0.iter().map(Entry::encode).collect());
    }
    pub(crate) fn get(&self, manager: &Manager) -> Option<&Entry> {
        self.0.iter().find(|e| e.manager == *manager)
    }
    /// Sets what a manager owns; its time moves only with a change.
    pub(crate) fn set(&mut self, manager: &Manager, fields: Set, moved: bool, now: &str) {
        match self.0.iter_mut().find(|e| e.manager == *manager) {
            Some(entry) if entry.fields == fields && !moved => {}
            Some(entry) => {
                entry.time = now.to_owned();
                entry.fields = fields;
            }
            None => self.0.push(Entry { manager: manager.clone(), time: now.to_owned(), fields }),
        }
    }
    fn merge_old(&mut self) {
        while self.0.iter().filter(|e| !e.manager.applies).count() > UPDATERS {
            let mut old: Vec<usize> = (0..self.0.len()).filter(|i| !self.0[*i].manager.applies).collect();
            old.sort_by_key(|i| (self.0[*i].manager.name != ANCIENT, self.0[*i].time.clone()));
            let (into, from) = (old[0], old[1]);
            let gone = self.0[from].clone();
            let entry = &mut self.0[into];
            entry.manager.name = ANCIENT.into();
            entry.manager.subresource = "";
            entry.time = gone.time;
            entry.fields = std::mem::take(&mut entry.fields).union(gone.fields);
            self.0.remove(from);
        }
    }
}

/// Which fields a write through a door may own.
pub(crate) fn ownable(mut fields: Set, subresource: &str, has_status: bool) -> Set {
    let field = |name: &str| Element::Field(name.to_owned());
    if subresource == "status" {
        fields.keep(&field("status"));
        return fields;
    }
    for key in ["apiVersion", "kind"] {
        fields.cut(&field(key));
    }
    if has_status {
        fields.cut(&field("status"));
    }
    fields.inside(&field("metadata"), |m| UNOWNED.iter().for_each(|key| m.cut(&field(key))));
    fields
}

/// The object without `managedFields` and resourceVersion.
pub(crate) fn bare(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["managedFields", "resourceVersion"] {
            metadata.shift_remove(key);
        }
    }
    out
}

/// Whether a client asks to forget all managers: a list of one empty entry.
pub(crate) fn asks_reset(object: &Value) -> bool {
    object
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|l| l.len() == 1 && l[0].as_object().is_some_and(Map::is_empty))
}
