//! Cases as data: what changes, stage by stage. After each stage the kernel is asked.

use super::naive::{Cluster, Labels};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A case.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Case {
    /// What it shows.
    pub(super) case: String,
    /// What it begins with.
    #[serde(flatten)]
    pub(super) first: Stage,
    /// What changes then.
    #[serde(default)]
    pub(super) then: Vec<Stage>,
}

/// Changes that come together. Of labels, null takes one away.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Stage {
    /// Policies to apply: the spec of `NAMESPACE/NAME`.
    #[serde(default)]
    pub(super) policies: BTreeMap<String, Value>,
    /// Policies to delete.
    #[serde(default)]
    pub(super) remove: Vec<String>,
    /// Labels of pods.
    #[serde(default)]
    pub(super) pods: BTreeMap<String, Map<String, Value>>,
    /// Labels of namespaces.
    #[serde(default)]
    pub(super) namespaces: BTreeMap<String, Map<String, Value>>,
}

/// The cases of the data files, with the lab's addresses in place of their names.
///
/// # Errors
/// When a file is not what it should be.
pub(super) fn cases(addresses: &BTreeMap<String, String>) -> Result<Vec<Case>> {
    let files = [
        ("isolation", include_str!("../../../data/policy/isolation.yaml")),
        ("peers", include_str!("../../../data/policy/peers.yaml")),
        ("blocks", include_str!("../../../data/policy/blocks.yaml")),
        ("ports", include_str!("../../../data/policy/ports.yaml")),
        ("changes", include_str!("../../../data/policy/changes.yaml")),
    ];
    let read = |(name, text): (&str, &str)| -> Result<Vec<Case>> {
        let text = addresses.iter().fold(text.to_owned(), |text, (key, value)| text.replace(key, value));
        let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("read {name}.yaml"))?;
        serde_json::from_value(value).with_context(|| format!("understand {name}.yaml"))
    };
    Ok(files.into_iter().map(read).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// `NAMESPACE/NAME` in its parts.
pub(super) fn key(text: &str) -> (String, String) {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    (namespace.to_owned(), name.to_owned())
}

pub(super) fn merge(labels: &mut Labels, changes: &Map<String, Value>) {
    for (key, value) in changes {
        match value.as_str() {
            Some(text) => drop(labels.insert(key.clone(), text.to_owned())),
            None => drop(labels.remove(key)),
        }
    }
}

impl Cluster {
    /// What a stage makes of it.
    ///
    /// # Errors
    /// When the stage speaks of something that is not there.
    pub(super) fn take(&mut self, stage: &Stage) -> Result<()> {
        for name in &stage.remove {
            self.policies.remove(&key(name)).with_context(|| format!("there is no policy {name}"))?;
        }
        for (name, spec) in &stage.policies {
            let spec = serde_json::from_value(spec.clone()).with_context(|| format!("policy {name}"))?;
            self.policies.insert(key(name), spec);
        }
        for (name, changes) in &stage.pods {
            let pod = self.pods.get_mut(name).with_context(|| format!("there is no pod {name}"))?;
            merge(&mut pod.labels, changes);
        }
        for (name, changes) in &stage.namespaces {
            let labels =
                self.namespaces.get_mut(name).with_context(|| format!("there is no namespace {name}"))?;
            merge(labels, changes);
        }
        Ok(())
    }
}
