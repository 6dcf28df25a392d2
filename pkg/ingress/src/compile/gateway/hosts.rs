//! Hosts of listeners and routes: where they meet, and which is the more exact. A wildcard of the Gateway API stands for one
//! or more labels.

use crate::route::HostMatch;
use warren_types::HostPattern;

/// What a table finds it by; none is every host.
pub(super) fn host_match(host: Option<&HostPattern>) -> HostMatch {
    match host {
        None => HostMatch::Any,
        Some(host) => match host.wildcard() {
            None => HostMatch::Exact(host.as_str().into()),
            Some(parent) => HostMatch::Below(parent.into()),
        },
    }
}

/// Whether every host that `inner` means is one of `outer`'s.
fn covers(outer: &HostPattern, inner: &HostPattern) -> bool {
    match outer.wildcard() {
        None => outer == inner,
        Some(parent) => {
            let rest = inner.wildcard().map_or_else(|| inner.as_str().split_once('.').map(|s| s.1), Some);
            rest.is_some_and(|rest| is_within(rest, parent))
        }
    }
}

/// Whether a name is `parent`, or below it.
fn is_within(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether `inner` means some of the hosts of `outer`, and not all. None is every host.
pub(super) fn is_narrower(inner: Option<&HostPattern>, outer: Option<&HostPattern>) -> bool {
    match (inner, outer) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(inner), Some(outer)) => inner != outer && covers(outer, inner),
    }
}

/// Whether `outer` means all hosts of `inner`. None is every host.
pub(super) fn contains(outer: Option<&HostPattern>, inner: Option<&HostPattern>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => covers(outer, inner),
    }
}

/// The hosts of a route at a listener; none when they have none in common.
pub(super) fn common(
    listener: Option<&HostPattern>,
    route: &[HostPattern],
) -> Option<Vec<Option<HostPattern>>> {
    if route.is_empty() {
        return Some(vec![listener.cloned()]);
    }
    let meet = |host: &HostPattern| match listener {
        None => Some(Some(host.clone())),
        Some(of) if covers(of, host) => Some(Some(host.clone())),
        Some(of) if covers(host, of) => Some(Some(of.clone())),
        Some(_) => None,
    };
    let mut met: Vec<Option<HostPattern>> = route.iter().filter_map(meet).collect();
    met.sort();
    met.dedup();
    (!met.is_empty()).then_some(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostPattern {
        HostPattern::new(name).unwrap()
    }

    /// The examples of the field `hostnames` of HTTPRoute, and of `hostname` of Listener.
    #[test]
    fn hosts_meet_as_the_specification_says() {
        for (listener, route, expected) in [
            ("test.example.com", &["test.example.com", "test.example.net"][..], &["test.example.com"][..]),
            ("test.example.com", &["*.example.com"], &["test.example.com"]),
            (
                "*.example.com",
                &["test.example.com", "foo.test.example.com"],
                &["foo.test.example.com", "test.example.com"],
            ),
            ("*.example.com", &["*.example.com"], &["*.example.com"]),
            ("*.example.com", &["*.test.example.com"], &["*.test.example.com"]),
            ("*.test.example.com", &["*.example.com"], &["*.test.example.com"]),
            ("*.example.com", &["example.com"], &[]),
            ("*.example.com", &["test.example.net"], &[]),
            ("example.com", &["test.example.com", "myexample.com"], &[]),
            ("*.example.com", &["a.myexample.com"], &[]),
            ("test.example.com", &[], &["test.example.com"]),
        ] {
            let route: Vec<HostPattern> = route.iter().map(|name| host(name)).collect();
            let met = common(Some(&host(listener)), &route).unwrap_or_default();
            let met: Vec<&str> = met.iter().flatten().map(HostPattern::as_str).collect();
            assert_eq!(met, expected, "{listener} {route:?}");
        }
        assert_eq!(common(None, &[]), Some(vec![None]));
        assert_eq!(common(None, &[host("*.a")]), Some(vec![Some(host("*.a"))]));
    }

    #[test]
    fn the_more_exact_host_is_narrower() {
        let (exact, deep, wide) = (host("a.b.example.com"), host("*.b.example.com"), host("*.example.com"));
        for (inner, outer) in [(&exact, &deep), (&exact, &wide), (&deep, &wide)] {
            assert!(is_narrower(Some(inner), Some(outer)) && !is_narrower(Some(outer), Some(inner)));
            assert!(is_narrower(Some(inner), None) && !is_narrower(None, Some(inner)));
        }
        assert!(!is_narrower(Some(&wide), Some(&wide)) && !is_narrower(None, None));
    }
}
