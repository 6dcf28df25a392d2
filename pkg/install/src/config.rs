//! The configuration file of an installation: made from flags, compared with flags, never overwritten unasked.

use crate::error::InstallError;
use std::path::Path;

/// Keys and their values, in the order of the flags.
pub type Settings = Vec<(String, Vec<String>)>;

/// The text of the file.
#[must_use]
pub fn render(role: &str, settings: &Settings) -> String {
    let mut text = format!(
        "# Warren: made by `warren install {role}`. Keys are the names of the flags: `warren agent --help`.\n"
    );
    for (key, values) in settings {
        match values.as_slice() {
            [one] => text += &format!("{key}: {}\n", quoted(one)),
            many => {
                text += &format!("{key}:\n");
                many.iter().for_each(|value| text += &format!("  - {}\n", quoted(value)));
            }
        }
    }
    text
}

/// A text as JSON writes it, which YAML reads.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether the file at `path` says all of `settings`; false when there is none.
///
/// # Errors
/// [`InstallError::Config`] when it says something else, [`InstallError::Unreadable`] when it says nothing.
pub fn agrees(path: &Path, settings: &Settings) -> Result<bool, InstallError> {
    let unreadable = |why: String| InstallError::Unreadable { path: path.to_owned(), why };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(unreadable(e.to_string())),
    };
    // The parser takes a file of comments for a fault.
    let empty = text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
    let file: serde_json::Value = match empty {
        true => serde_json::Value::Null,
        false => serde_saphyr::from_str(&text).map_err(|e| unreadable(e.to_string()))?,
    };
    let differences: Vec<String> =
        settings.iter().filter_map(|(key, wanted)| difference(key, wanted, file.get(key))).collect();
    if differences.is_empty() {
        return Ok(true);
    }
    Err(InstallError::Config { path: path.to_owned(), differences })
}

fn difference(key: &str, wanted: &[String], there: Option<&serde_json::Value>) -> Option<String> {
    let there = there.map(words);
    let wanted: Vec<String> = wanted.iter().flat_map(|v| split(v)).collect();
    if there.as_ref() == Some(&wanted) {
        return None;
    }
    // Neither what a token was nor what it is to be is anybody's to read.
    let shown = |values: &[String]| if key == "token" { "another".into() } else { values.join(",") };
    Some(match &there {
        Some(there) => format!("{key}: the file says {}, the flag {}", shown(there), shown(&wanted)),
        None => format!("{key}: not in the file, the flag says {}", shown(&wanted)),
    })
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect()
}

fn words(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Array(items) => items.iter().flat_map(words).collect(),
        serde_json::Value::String(text) => split(text),
        serde_json::Value::Null => Vec::new(),
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(list: &[(&str, &[&str])]) -> Settings {
        list.iter().map(|(k, v)| ((*k).into(), v.iter().map(|v| (*v).into()).collect())).collect()
    }

    #[test]
    fn what_was_written_agrees_and_what_differs_is_named_without_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let asked = settings(&[
            ("server", &["https://a:6443"]),
            ("token", &["K10x"]),
            ("node-ip", &["10.0.0.1", "fd00::1"]),
        ]);
        assert!(!agrees(&path, &asked).unwrap());
        std::fs::write(&path, render("agent", &asked) + "mtu: 1400\n").unwrap();
        assert!(agrees(&path, &asked).unwrap());
        assert!(agrees(&path, &settings(&[("node-ip", &["10.0.0.1,fd00::1"]), ("mtu", &["1400"])])).unwrap());
        let error =
            agrees(&path, &settings(&[("token", &["K10y"]), ("proxy", &["off"])])).unwrap_err().to_string();
        assert!(
            error.contains("token: the file says another") && error.contains("proxy: not in the file"),
            "{error}"
        );
        assert!(!error.contains("K10"), "{error}");
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(agrees(&path, &Vec::new()).unwrap());
        std::fs::write(&path, "a: [").unwrap();
        assert!(matches!(agrees(&path, &asked), Err(InstallError::Unreadable { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was_written(values in proptest::collection::vec("[^,\\x00-\\x1f\\x7f-\\x9f]{1,20}", 1..4)) {
            let values: Vec<String> = values.iter().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect();
            prop_assume!(!values.is_empty());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("config.yaml");
            let asked = vec![("dns-host".to_owned(), values)];
            std::fs::write(&path, render("agent", &asked)).unwrap();
            prop_assert!(agrees(&path, &asked).unwrap());
        }
    }
}
