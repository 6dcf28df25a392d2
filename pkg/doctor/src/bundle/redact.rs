//! Taking secrets out.

use crate::facts::Facts;
use crate::probe::Asked;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use warren_agent::config::{ApiChoice, TokenSource};

const REDACTED: &str = "REDACTED";
/// Words in the name of a field, or before `=` and `:`, whose value is a secret.
const WORDS: [&str; 11] = [
    "token",
    "password",
    "passwd",
    "secret",
    "private",
    "psk",
    "preshared",
    "credential",
    "authorization",
    "key-data",
    "apikey",
];
/// Shorter texts of files are no secrets by themselves: they would take ordinary words out.
const SHORTEST: usize = 8;
/// Files of the data directory that are read for secrets, and how deep.
const MOST_BYTES: u64 = 1 << 20;
const DEEPEST: usize = 3;

/// Knows this node's secrets, and how others look.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    secrets: BTreeSet<String>,
    /// Keys that may be shown.
    public: BTreeSet<String>,
}

impl Redactor {
    pub(super) fn of(asked: &Asked, facts: &Facts) -> Self {
        let mut own = Self::default();
        if let Ok(status) = facts.status() {
            own.public.insert(status.node.public_key.clone());
            own.public.extend(status.nodes.iter().map(|n| n.public_key.clone()));
        }
        match &asked.config.api {
            ApiChoice::Kubeconfig(path) => own.learn(path),
            ApiChoice::Join { token: Some(TokenSource::Value(token)), .. } => own.add(token.expose()),
            ApiChoice::Join { token: Some(TokenSource::File(path)), .. } => own.learn(path),
            ApiChoice::Join { .. } | ApiChoice::InCluster => {}
        }
        own.learn_all(&asked.config.data_dir, 0);
        own
    }

    fn add(&mut self, secret: &str) {
        let secret = secret.trim().trim_matches(['"', '\'', ',']);
        if secret.len() >= SHORTEST {
            self.secrets.insert(secret.to_owned());
        }
    }

    /// What is in a file that holds secrets: each word of it.
    fn learn(&mut self, path: &Path) {
        if std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MOST_BYTES) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            for line in text.lines() {
                // `client-key-data: X` and bare tokens; names and addresses of a kubeconfig are none.
                match line.split_once(':') {
                    Some((key, value)) if !key.trim().contains(' ') && is_word(key) => self.add(value),
                    Some((_, value)) if value.trim().is_empty() || line.contains(' ') => {}
                    _ => self.add(line),
                }
            }
        }
    }

    fn learn_all(&mut self, dir: &Path, depth: usize) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_lowercase());
            if path.is_dir() && depth < DEEPEST {
                self.learn_all(&path, depth + 1);
            } else if ["token", "kubeconfig", ".key", "-key"].iter().any(|w| name.contains(w)) {
                self.learn(&path);
            }
        }
    }

    /// A value without secrets, as text.
    pub(super) fn json(&self, value: &Value) -> String {
        let mut value = value.clone();
        hide(&mut value);
        let text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
        self.words(&text)
    }

    /// A text without secrets. JSON is read as such.
    pub(super) fn text(&self, text: &str) -> String {
        if let Ok(value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str::<Value>(text) {
            return self.json(&value);
        }
        let mut out = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
                in_key = true;
                out.push_str(REDACTED);
                out.push('\n');
            }
            if in_key {
                in_key = !line.contains("-----END");
                continue;
            }
            out.push_str(&self.words(&named(line)));
        }
        out
    }

    /// Takes known secrets out, and words that look like one.
    fn words(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut word = String::new();
        let part =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-' | '.' | ':');
        for c in text.chars().chain(['\n']) {
            if part(c) {
                word.push(c);
                continue;
            }
            let shown = if self.looks_secret(&word) { REDACTED } else { word.as_str() };
            out.push_str(shown);
            word.clear();
            out.push(c);
        }
        // The end that was added.
        out.pop();
        out
    }

    fn looks_secret(&self, word: &str) -> bool {
        let word = word
            .rsplit_once(['=', ':'])
            .map_or(word, |(before, after)| if after.is_empty() { before } else { after });
        let base64 =
            |w: &str| w.len() >= 40 && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
        let stripped = word.trim_end_matches('=');
        let mixed =
            stripped.bytes().any(|b| b.is_ascii_digit()) && stripped.bytes().any(|b| b.is_ascii_uppercase());
        let hex = word.len() >= 60 && word.bytes().all(|b| b.is_ascii_hexdigit());
        // JSON web tokens, and those of servers: K10 and a hash.
        let jwt = word.starts_with("eyJ") && word.len() > 20;
        let is_public = self.public.iter().any(|p| p.trim_end_matches('=') == stripped);
        !is_public && (hex || jwt || base64(stripped) && mixed && !stripped.starts_with('/'))
    }
}

/// Whether a name is that of a secret. Files and names of secrets are none.
fn is_word(name: &str) -> bool {
    let name = name.to_lowercase().replace('_', "-");
    let harmless = ["file", "path", "-name", "count", "refused", "public"].iter().any(|w| name.contains(w));
    !harmless && WORDS.iter().any(|w| name.contains(w))
}

/// Hides the values of fields that are named like secrets, and everything of a Secret.
fn hide(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_secret = map.get("kind").and_then(Value::as_str) == Some("Secret");
            for (key, value) in map.iter_mut() {
                let holds = matches!(key.as_str(), "data" | "stringData");
                if is_secret && holds || is_word(key) && (value.is_string() || value.is_array()) {
                    *value = REDACTED.into();
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(hide),
        _ => {}
    }
}

/// Hides what stands behind `token: `, `password=` and the like, to the end of the word.
fn named(line: &str) -> String {
    let lower = line.to_lowercase();
    if let Some(at) = lower.find("bearer ").or_else(|| lower.find("basic ")) {
        let end = line[at..].find(' ').map_or(line.len(), |space| at + space + 1);
        let rest =
            line[end..].find(|c: char| c.is_whitespace() || c == '"').map_or("", |stop| &line[end + stop..]);
        return format!("{}{REDACTED}{rest}", &line[..end]);
    }
    let Some(at) = line.find(['=', ':']) else { return line.to_owned() };
    let mut out = String::new();
    let mut rest = line;
    let mut next = Some(at);
    while let Some(at) = next {
        let name = rest[..at]
            .rsplit(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | '(' | '&' | '?'))
            .next()
            .unwrap_or_default();
        out.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        if is_word(name) {
            let blank = rest.len() - rest.trim_start_matches([' ', '"', '\'', ':', '/']).len();
            let end = rest[blank..]
                .find(|c: char| c.is_whitespace() || matches!(c, ',' | '"' | '\'' | '&' | '}'))
                .map_or(rest.len(), |e| blank + e);
            if end > blank {
                out.push_str(&rest[..blank]);
                out.push_str(REDACTED);
                rest = &rest[end..];
            }
        }
        next = rest.find(['=', ':']);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_like_a_secret_goes() {
        for (line, wanted) in [
            ("token: abc123def\n", "token: REDACTED\n"),
            ("--password=hunter2 next", "--password=REDACTED next"),
            ("GET /x?token=abc&y=1", "GET /x?token=REDACTED&y=1"),
            ("Authorization: Bearer abc.def\r\n", "Authorization: Bearer REDACTED\r\n"),
            ("token-file: /etc/warren/token\n", "token-file: /etc/warren/token\n"),
            ("node-name: a\nmtu: 1400\n", "node-name: a\nmtu: 1400\n"),
            ("time=10:00:00 level=info msg=\"up\"", "time=10:00:00 level=info msg=\"up\""),
        ] {
            assert_eq!(Redactor::default().text(line), wanted);
        }
    }

    #[test]
    fn what_looks_like_a_secret_goes_and_public_keys_stay() {
        let public = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let private = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        let own = Redactor { public: [public.to_owned()].into(), secrets: ["s3cr3t-word".to_owned()].into() };
        let text = format!(
            "peer {public} and {private} and s3cr3t-word and eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc\n"
        );
        assert_eq!(own.text(&text), format!("peer {public} and {REDACTED} and {REDACTED} and {REDACTED}\n"));
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(own.text(&hash), REDACTED);
        let pem = "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(own.text(pem), "a\nREDACTED\nb\n");
    }

    #[test]
    fn fields_of_json_and_secrets_of_kubernetes_go() {
        let value =
            serde_json::json!({"kind": "Secret", "data": {"tls.key": "QUJD"}, "metadata": {"name": "x"}});
        assert!(!Redactor::default().json(&value).contains("QUJD"));
        let text =
            Redactor::default().text(r#"{"plugins": [{"type": "x", "password": "hunter2", "mtu": 1}]}"#);
        assert!(!text.contains("hunter2") && text.contains("\"mtu\": 1"), "{text}");
    }
}
