//! Label and field selectors.

use serde_json::Value;

use crate::error::{ApiError, ApiResult};
use crate::meta::{is_label_value, is_qualified_name};
use crate::registry::Kind;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    pointer: String,
    value: String,
    equal: bool,
}

/// What a list or watch shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
    /// Only this namespace.
    pub(crate) namespace: Option<String>,
}

impl Selector {
    /// Parses both selectors.
    pub(crate) fn parse(kind: &Kind, namespace: Option<&str>, labels: &str, fields: &str) -> ApiResult<Self> {
        Ok(Self {
            labels: parse_labels(labels)
                .map_err(|e| ApiError::bad_request(format!("unable to parse requirement: {e}")))?,
            fields: parse_fields(kind, fields)?,
            namespace: namespace.map(Into::into),
        })
    }
    /// Whether an object is shown.
    pub(crate) fn matches(&self, object: &Value, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
            && self.labels.iter().all(|r| r.matches(object))
            && self.fields.iter().all(|f| {
                let found = match object.pointer(&f.pointer) {
                    Some(Value::String(s)) => *s == f.value,
                    Some(Value::Null) => f.value.is_empty(),
                    Some(other) => f.value.parse::<Value>().is_ok_and(|v| v == *other),
                    // A missing boolean is false.
                    None => f.value.is_empty() || f.value == "false",
                };
                found == f.equal
            })
    }
    /// The one name that a `metadata.name=` term asks for.
    pub(crate) fn single_name(&self) -> Option<&str> {
        self.fields.iter().find(|f| f.equal && f.pointer == "/metadata/name").map(|f| f.value.as_str())
    }
    /// Whether every object of the namespaces matches.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl Requirement {
    fn matches(&self, object: &Value) -> bool {
        let label =
            |key: &str| object["metadata"].get("labels").and_then(|l| l.get(key)).and_then(Value::as_str);
        let number = |key: &str| label(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => label(key).is_some_and(|v| values.iter().any(|x| x == v)),
            Self::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|x| x != v)),
            Self::Exists(key) => label(key).is_some(),
            Self::Missing(key) => label(key).is_none(),
            Self::Greater(key, n) => number(key).is_some_and(|v| v > *n),
            Self::Less(key, n) => number(key).is_some_and(|v| v < *n),
        }
    }
}

fn key(s: &str) -> Result<String, String> {
    let s = s.trim();
    if is_qualified_name(s) { Ok(s.to_owned()) } else { Err(format!("{s:?} is not a label key")) }
}
fn value(s: &str) -> Result<String, String> {
    let s = s.trim();
    if is_label_value(s) { Ok(s.to_owned()) } else { Err(format!("{s:?} is not a label value")) }
}

/// Splits at commas outside parentheses.
fn split_terms(s: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut start) = (Vec::new(), 0i32, 0);
    for (i, c) in s.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&s[start..]);
    terms
}

fn parse_labels(s: &str) -> Result<Vec<Requirement>, String> {
    if s.trim().is_empty() {
        return Ok(Vec::new());
    }
    split_terms(s).into_iter().map(parse_term).collect()
}

fn parse_term(term: &str) -> Result<Requirement, String> {
    let term = term.trim();
    if let Some(head) = term.strip_suffix(')') {
        let (head, set) = head.split_once('(').ok_or_else(|| format!("{term:?} has a stray parenthesis"))?;
        let values = set.split(',').map(value).collect::<Result<_, _>>()?;
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(k), Some("in"), None) => Ok(Requirement::In(key(k)?, values)),
            (Some(k), Some("notin"), None) => Ok(Requirement::NotIn(key(k)?, values)),
            _ => Err(format!("{term:?} is not `key in (a,b)` or `key notin (a,b)`")),
        };
    }
    let number =
        |s: &str| s.trim().parse::<i64>().map_err(|_| format!("{term:?} does not compare with a number"));
    if let Some((k, v)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = term.split_once('>') {
        return Ok(Requirement::Greater(key(k)?, number(v)?));
    }
    if let Some((k, v)) = term.split_once('<') {
        return Ok(Requirement::Less(key(k)?, number(v)?));
    }
    match term.strip_prefix('!') {
        Some(k) => Ok(Requirement::Missing(key(k)?)),
        None => Ok(Requirement::Exists(key(term)?)),
    }
}

fn parse_fields(kind: &Kind, s: &str) -> ApiResult<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for term in split_escaped(s) {
        if term.trim().is_empty() {
            continue;
        }
        let (field, value, equal) = if let Some((f, v)) = term.split_once("!=") {
            (f, v, false)
        } else if let Some((f, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (f, v, true)
        } else {
            return Err(ApiError::bad_request(format!("invalid field selector {term:?}: use field=value")));
        };
        let pointer = match field.trim() {
            "metadata.name" => "/metadata/name",
            "metadata.namespace" => "/metadata/namespace",
            f => kind
                .fields
                .iter()
                .find(|(name, _)| *name == f)
                .map(|(_, p)| *p)
                .ok_or_else(|| ApiError::bad_request(format!("field label not supported: {f}")))?,
        };
        terms.push(FieldTerm { pointer: pointer.to_owned(), value: unescape(value), equal });
    }
    Ok(terms)
}

/// Splits at commas that no backslash precedes.
fn split_escaped(s: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in s.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&s[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&s[start..]);
    terms
}

fn unescape(s: &str) -> String {
    let (mut out, mut chars) = (String::new(), s.chars());
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{NODE, POD};
    use proptest::prelude::*;
    use serde_json::json;

    fn shows(labels: &str, fields: &str) -> bool {
        let o = json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": "web", "n": "5"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        Selector::parse(POD.get(), None, labels, fields).unwrap().matches(&o, "d")
    }

    #[test]
    fn label_selectors() {
        for yes in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "app in (db, web)",
            "app notin (db)",
            "!x",
            "x!=1",
            "n>4",
            "n<6",
            "app=web,n=5",
            "x notin (a)",
        ] {
            assert!(shows(yes, ""), "{yes}");
        }
        for no in
            ["x", "app=db", "app!=web", "app notin (web)", "!app", "n>5", "n<5", "app=web,n=6", "x in (a)"]
        {
            assert!(!shows(no, ""), "{no}");
        }
        for bad in ["app in web", "a=b=c", "app in (a", "=", "a>b", "a b"] {
            assert!(Selector::parse(POD.get(), None, bad, "").is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors() {
        assert!(shows("", "metadata.name=p,spec.nodeName=n1,status.phase!=Failed"));
        assert!(shows("", "spec.hostNetwork=false"));
        assert!(!shows("", "spec.nodeName!=n1"));
        assert!(Selector::parse(NODE.get(), None, "", "spec.nodeName=x").is_err());
        assert!(Selector::parse(NODE.get(), None, "", "metadata.name").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(s in "\\PC{0,40}") {
            let _ = Selector::parse(POD.get(), None, &s, &s);
        }

        #[test]
        fn a_selector_selects_what_it_says_and_a_mutated_one_is_read_or_refused(
            key in "[a-z]{1,3}", values in prop::collection::vec("[a-z]{1,2}", 1..4), held in prop::option::of("[a-z]{1,2}"),
            at: prop::sample::Index, other in "[(),=!<>~. a\u{e9}]",
        ) {
            let mut pod = serde_json::json!({"metadata": {"labels": {"other": "x"}, "name": "p"}});
            if let Some(held) = &held {
                pod["metadata"]["labels"][&key] = held.as_str().into();
            }
            let shown = |labels: &str| Selector::parse(POD.get(), None, labels, "").unwrap().matches(&pod, "");
            let (list, held) = (values.join(", "), held.as_ref());
            prop_assert_eq!(shown(&format!("{key} in ({list})")), held.is_some_and(|h| values.contains(h)));
            prop_assert_eq!(shown(&format!("{key} notin ({list})")), held.is_none_or(|h| !values.contains(h)));
            prop_assert_eq!(shown(&format!("{key}={}", values[0])), held == Some(&values[0]));
            prop_assert_eq!(shown(&format!("!{key}")), held.is_none());
            let text = format!("{key} in ({list}),other=x,!{key},n>4,{key}!={}", values[0]);
            let at = at.index(text.len());
            let mut mutated = text.clone();
            mutated.replace_range(at..=at, &other);
            for text in [&mutated, &text[..at]] {
                for (labels, fields) in [(text, ""), ("", text), (text, text)] {
                    match Selector::parse(POD.get(), Some("n"), labels, fields) {
                        Ok(selector) => drop(selector.matches(&pod, "n")),
                        Err(e) => prop_assert_eq!(e.code, 400),
                    }
                }
            }
        }
    }
}
