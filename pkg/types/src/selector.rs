//! Label selectors.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A condition on one label (`matchLabels` and `matchExpressions` of a `metav1.LabelSelector`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Requirement {
    /// The label is there with one of these values.
    In(String, BTreeSet<String>),
    /// The label is not there, or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    DoesNotExist(String),
}

impl Requirement {
    /// Whether labels meet it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

/// Conditions that all have to be met; none of them selects everything. Two that are written differently but mean the same
/// because of the order of their conditions are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(BTreeSet<Requirement>);

impl Selector {
    /// The selector of these conditions.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self(requirements.into_iter().collect())
    }

    /// Its conditions.
    pub fn requirements(&self) -> impl Iterator<Item = &Requirement> {
        self.0.iter()
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects an object with these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl fmt::Display for Requirement {
    /// As `kubectl` writes and reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl` writes and reads it; `<all>` when it selects everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("<all>");
        }
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn values(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|t| (*t).to_owned()).collect()
    }

    #[test]
    fn operators_mean_what_the_api_says() {
        let web = labels(&[("app", "web")]);
        let none = Labels::new();
        let cases = [
            (Requirement::In("app".into(), values(&["web", "db"])), true, false),
            (Requirement::In("app".into(), values(&["db"])), false, false),
            (Requirement::NotIn("app".into(), values(&["db"])), true, true),
            (Requirement::NotIn("app".into(), values(&["web"])), false, true),
            (Requirement::Exists("app".into()), true, false),
            (Requirement::DoesNotExist("app".into()), false, true),
        ];
        for (requirement, on_web, on_none) in cases {
            assert_eq!(requirement.matches(&web), on_web, "{requirement}");
            assert_eq!(requirement.matches(&none), on_none, "{requirement}");
        }
    }

    #[test]
    fn all_conditions_have_to_be_met_and_none_selects_everything() {
        let both =
            Selector::new([Requirement::Exists("app".into()), Requirement::DoesNotExist("old".into())]);
        assert!(both.matches(&labels(&[("app", "x")])));
        assert!(!both.matches(&labels(&[("app", "x"), ("old", "")])));
        assert!(Selector::default().matches(&Labels::new()));
        assert_eq!(both.to_string(), "app,!old");
        assert_eq!(Selector::default().to_string(), "<all>");
    }
}
