//! Rewriting of paths, and the regular expressions that people write for it.
//!
//! ingress-nginx makes every path of an Ingress that rewrites a regular expression. Nearly all that are written mean "this
//! prefix, replaced by that one": these are understood, and no others, since a path here is never a program.

use super::values::Parsed;
use crate::route::PathEdit;

/// What an Ingress says of its paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rewrite {
    /// The matched prefix is replaced.
    Prefix(Box<str>),
    /// `rewrite-target` of ingress-nginx.
    Target(Target),
}

/// A target: text, and perhaps a group of the path at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    text: Box<str>,
    group: Option<usize>,
}

/// A path that was a regular expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefixed<'a> {
    /// This path and all below it.
    pub(super) prefix: &'a str,
    /// Which group is what is below.
    group: Option<usize>,
}

impl Rewrite {
    /// Reads a `rewrite-target`.
    pub(super) fn target(text: &str) -> Parsed<Self> {
        let (text, group) = match text.rsplit_once('$') {
            None => (text, None),
            Some((text, group)) => {
                let group = group.parse::<usize>().ok().filter(|group| (1..10).contains(group));
                (text, Some(group.ok_or("use a path, or a path that ends in a group such as /$2")?))
            }
        };
        let text = super::values::path(text)?;
        if text.contains('$') {
            return Err("use a path, or a path that ends in a group such as /$2".into());
        }
        Ok(Self::Target(Target { text, group }))
    }

    /// What becomes of a plain path.
    pub(super) fn edit(&self) -> PathEdit {
        match self {
            Self::Prefix(to) => PathEdit::Prefix(to.clone()),
            Self::Target(target) => PathEdit::Full(target.text.clone()),
        }
    }

    /// What becomes of a path that was a regular expression; nothing when the target asks for a group that is not what is
    /// below the prefix.
    pub(super) fn edit_of(&self, path: &Prefixed<'_>) -> Option<PathEdit> {
        match self {
            Self::Prefix(to) => Some(PathEdit::Prefix(to.clone())),
            Self::Target(target) if target.group.is_none() => Some(PathEdit::Full(target.text.clone())),
            Self::Target(target) if target.group == path.group => Some(PathEdit::Prefix(target.text.clone())),
            Self::Target(_) => None,
        }
    }
}

/// A path as people write it for ingress-nginx: `/app(/|$)(.*)`, `/app/(.*)`, `/app/?(.*)`, `/(.*)`, `/app/*`, `/app`.
pub(super) fn prefixed(path: &str) -> Option<Prefixed<'_>> {
    const FORMS: [(&str, Option<usize>); 7] = [
        ("(/|$)(.*)", Some(2)),
        ("(/|$)(.*)$", Some(2)),
        ("/?(.*)", Some(1)),
        ("/(.*)", Some(1)),
        ("/(.*)$", Some(1)),
        ("/.*", None),
        ("", None),
    ];
    let path = path.strip_prefix('^').unwrap_or(path);
    let (prefix, group) = FORMS.iter().find_map(|(end, group)| Some((path.strip_suffix(end)?, *group)))?;
    let plain = !prefix.contains(['(', ')', '[', ']', '{', '}', '*', '+', '?', '|', '^', '$', '\\']);
    let prefix = if prefix.is_empty() { "/" } else { prefix };
    (plain && prefix.starts_with('/')).then_some(Prefixed { prefix, group })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn become_of(path: &str, target: &str) -> Option<(String, PathEdit)> {
        let path = prefixed(path)?;
        Some((path.prefix.to_owned(), Rewrite::target(target).unwrap().edit_of(&path)?))
    }

    fn to(prefix: &str, path: &str) -> Option<(String, PathEdit)> {
        Some((prefix.into(), PathEdit::Prefix(path.into())))
    }

    #[test]
    fn the_usual_expressions_are_prefixes() {
        assert_eq!(become_of("/app(/|$)(.*)", "/$2"), to("/app", "/"));
        assert_eq!(become_of("/app(/|$)(.*)", "/new/$2"), to("/app", "/new/"));
        assert_eq!(become_of("/app/(.*)", "/$1"), to("/app", "/"));
        assert_eq!(become_of("/app/?(.*)", "/$1"), to("/app", "/"));
        assert_eq!(become_of("/?(.*)", "/$1"), to("/", "/"));
        assert_eq!(become_of("/(.*)", "/$1"), to("/", "/"));
        assert_eq!(become_of("^/app(/|$)(.*)$", "/$2"), to("/app", "/"));
        assert_eq!(become_of("/app", "/"), Some(("/app".into(), PathEdit::Full("/".into()))));
        assert_eq!(become_of("/app/.*", "/x"), Some(("/app".into(), PathEdit::Full("/x".into()))));
    }

    #[test]
    fn others_are_refused() {
        assert_eq!(become_of("/app(/|$)(.*)", "/$1"), None);
        for path in ["/[a-z]+", "/app/(foo|bar)", "/a.*b", "/(a)/(.*)", "/app\\d", "(/|$)x"] {
            assert_eq!(prefixed(path), None, "{path}");
        }
        for target in ["/$1/$2", "$1", "/$x", "/$", "/a b", "//$1"] {
            assert!(Rewrite::target(target).is_err(), "{target}");
        }
    }
}
