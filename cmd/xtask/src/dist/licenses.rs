//! Licences of everything that is handed out: which are allowed, and their texts, from the sources that were built.

use super::components::{Component, Components, Id};
use crate::run::root;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Licences that any package may have (SPDX identifiers): they ask for their text and nothing else of who hands out a
/// program.
const ALLOWED: &[&str] = &[
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Licences that one package may have, each a decision.
const EXCEPTIONS: &[(&str, &str)] = &[
    // Of the file: changes of its own files must be published; Warren uses them as they are.
    ("gotatun", "MPL-2.0"),
    // A library may be exchanged by whoever has the program: Warren's sources and recipes are enough to do so.
    ("wireguard-control", "LGPL-2.1-or-later"),
    ("tun", "WTFPL"),
    // Data.
    ("webpki-root-certs", "CDLA-Permissive-2.0"),
];

/// Beginnings of the names of files with licences and notices.
const FILES: [&str; 6] = ["license", "licence", "copying", "unlicense", "notice", "copyright"];

/// Licences whose text is in packaging/licenses, for packages that carry none; the first that fits is taken.
const TEXTS: [&str; 5] = ["Apache-2.0", "MIT", "MPL-2.0", "LGPL-2.1-or-later", "WTFPL"];

/// The expression as SPDX writes it: old manifests have a slash for OR.
pub(super) fn canonical(expression: &str) -> Result<String> {
    Ok(spdx::Expression::canonicalize(expression)?.unwrap_or_else(|| expression.to_owned()))
}

/// All texts in one, each once, after the packages it is of.
///
/// # Errors
/// On a package whose licence is not allowed, or of which there is no text.
pub(super) fn collect(components: &Components) -> Result<Vec<u8>> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut heads = String::new();
    let mut faults = Vec::new();
    let (roots, data) = &components.roots;
    let foreign = components.packages.iter().filter(|(_, c)| c.checksum.is_some());
    for (id, component) in foreign.chain([(roots, data)]) {
        let Id { name, version } = id;
        let found = allow(name, &component.license).and_then(|()| texts_of(name, component));
        match found {
            Err(error) => faults.push(format!("{name} {version}: {error:#}")),
            Ok(found) => {
                writeln!(heads, "{name} {version}: {}", canonical(&component.license)?)?;
                for text in found {
                    texts.entry(text).or_default().push(format!("{name} {version}"));
                }
            }
        }
    }
    for part in &components.runtime {
        let text = fs::read_to_string(&part.text).with_context(|| part.text.display().to_string())?;
        writeln!(heads, "{} {}: {}", part.name, part.version, part.license)?;
        texts.entry(text).or_default().push(format!("{} {}", part.name, part.version));
    }
    ensure!(faults.is_empty(), "licences of dependencies:\n  {}", faults.join("\n  "));
    let mut all = format!(
        "What is linked into Warren, and the authorities in its container image. Sources of packages are at\n\
         https://crates.io/crates/NAME/VERSION. Warren's own sources say how it is built, so that it can be linked\n\
         with a changed library.\n\n{heads}"
    );
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by(|a, b| a.1.cmp(&b.1));
    for (text, packages) in texts {
        write!(all, "\n{}\n{}\n\n{}\n", "=".repeat(80), packages.join(", "), text.trim_end())?;
    }
    Ok(all.into_bytes())
}

/// Fails unless `expression` can be met by licences that `name` may have.
fn allow(name: &str, expression: &str) -> Result<()> {
    ensure!(!expression.is_empty(), "it names no licence");
    let parsed = spdx::Expression::parse_mode(expression, spdx::ParseMode::LAX)?;
    let met = parsed.evaluate(|requirement| {
        let license = requirement.license.to_string();
        ALLOWED.contains(&license.as_str()) || EXCEPTIONS.contains(&(name, license.as_str()))
    });
    ensure!(met, "licence {expression} is not allowed; cmd/xtask/src/dist/licenses.rs says which are");
    Ok(())
}

/// The texts that a package carries; where it carries none, that of a licence it names.
fn texts_of(name: &str, component: &Component) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for file in fs::read_dir(&component.source).with_context(|| component.source.display().to_string())? {
        let path = file?.path();
        let lower = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && FILES.iter().any(|start| lower.starts_with(start)) && !lower.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    if !files.is_empty() {
        return files.iter().map(|path| read(path)).collect();
    }
    let words: Vec<&str> = component.license.split([' ', '/', '(', ')']).collect();
    let Some(license) = TEXTS.into_iter().find(|id| words.contains(id)) else {
        bail!("it carries no text of its licence {}, nor does packaging/licenses", component.license)
    };
    let place = match license {
        "Apache-2.0" => root().join("LICENSE"),
        other => root().join("packaging/licenses").join(other),
    };
    let authors = match component.authors.as_slice() {
        [] => format!("the authors of {name}"),
        some => some.join(", "),
    };
    Ok(vec![format!("Copyright (c) {authors}\n\n{}", read(&place)?)])
}

fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_refused() {
        for good in ["MIT", "Apache-2.0/MIT", "GPL-3.0-only OR MIT", "(MIT OR GPL-2.0-only) AND BSD-3-Clause"]
        {
            allow("any", good).unwrap();
        }
        for bad in ["", "GPL-3.0-only", "MIT AND GPL-2.0-only", "MPL-2.0", "no licence at all"] {
            assert!(allow("any", bad).is_err(), "{bad}");
        }
        allow("gotatun", "MPL-2.0").unwrap();
    }

    #[test]
    fn a_package_without_text_has_that_of_its_licence_or_fails() {
        let dir = tempfile::tempdir().unwrap();
        let mut component = Component {
            license: "MIT".into(),
            authors: vec!["A. Author".into()],
            source: dir.path().to_owned(),
            checksum: None,
            uses: Default::default(),
        };
        let text = texts_of("x", &component).unwrap().concat();
        assert!(text.contains("A. Author") && text.contains("WITHOUT WARRANTY"), "{text}");
        component.license = "BSL-1.0".into();
        assert!(texts_of("x", &component).unwrap_err().to_string().contains("carries no text"));
        fs::write(dir.path().join("LICENSE-X"), "its own").unwrap();
        assert_eq!(texts_of("x", &component).unwrap(), ["its own"]);
    }
}
