//! Files of real systems, files that make no sense, and what is found in them.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Finds in files given as texts: etc, resolved, NetworkManager.
fn find(files: [Option<&str>; 3], own: &[&str], configured: &[&str]) -> HostResolver {
    let paths = Paths::default();
    let texts: HashMap<_, _> = paths.all().into_iter().map(Path::to_owned).zip(files).collect();
    let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
    let configured: Vec<Address> = configured.iter().map(|one| one.parse().unwrap()).collect();
    HostResolver::find_with(&configured, &own, &paths, |path| {
        texts[path].map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

fn upstreams(found: &HostResolver) -> Vec<String> {
    found.upstreams.iter().map(ToString::to_string).collect()
}

fn file(path: &Path) -> Source {
    Source::File(path.to_owned())
}

#[test]
fn a_plain_file_is_read_as_libc_does() {
    let text = "# a comment\n; another\nnameserver 10.0.0.1 # behind\n nameserver fd00::1\nnameserver\tfe80::1%eth0\n\
                domain old.example\nsearch corp.example lab.example.\noptions ndots:2\nnameserver 10.0.0.1\nnameserver dns\n";
    let found = find([Some(text), None, None], &[], &[]);
    assert_eq!(upstreams(&found), ["10.0.0.1", "fd00::1", "fe80::1%eth0"]);
    let search: Vec<_> = found.search.iter().map(ToString::to_string).collect();
    assert_eq!(search, ["corp.example.", "lab.example."]);
    assert_eq!(found.source, file(&Paths::default().etc));
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
    assert!(found.problems[0].contains("\"dns\"") && found.problems[0].contains("/etc/resolv.conf"));
}

#[test]
fn the_stub_of_resolved_is_replaced_by_what_it_asks() {
    let found = find(
        [
            Some("nameserver 127.0.0.53\noptions edns0 trust-ad\n"),
            Some("nameserver 192.168.1.1\nsearch home\n"),
            None,
        ],
        &["10.96.0.10"],
        &[],
    );
    assert_eq!(upstreams(&found), ["192.168.1.1"]);
    assert_eq!(found.source, file(&Paths::default().resolved));
    assert_eq!(found.search.len(), 1);
    assert!(found.left_out[0].to_string().starts_with("127.0.0.53 is the stub of systemd-resolved"));
}

#[test]
fn the_stub_stays_when_nothing_is_known_behind_it() {
    for behind in [None, Some(""), Some("# No DNS servers known.\n")] {
        let found = find([Some("nameserver 127.0.0.53\n"), behind, None], &[], &[]);
        assert_eq!(upstreams(&found), ["127.0.0.53"]);
        assert_eq!(found.source, file(&Paths::default().etc));
    }
}

/// Resolved asks us for the cluster's names: then neither we nor its stub, which would ask us again, are upstreams.
#[test]
fn a_loop_through_resolved_is_seen() {
    let files = [Some("nameserver 127.0.0.53\n"), Some("nameserver 10.96.0.10\n"), None];
    let found = find(files, &["10.96.0.10"], &[]);
    assert_eq!((upstreams(&found), found.source), (vec![], Source::None));
    assert_eq!(found.left_out.len(), 2);
    let mixed = [Some("nameserver 127.0.0.53\n"), Some("nameserver 10.96.0.10\nnameserver 9.9.9.9\n"), None];
    assert_eq!(upstreams(&find(mixed, &["10.96.0.10"], &[])), ["9.9.9.9"]);
}

#[test]
fn a_resolver_of_the_node_is_asked_unless_it_is_us() {
    let files = [Some("nameserver 127.0.0.1\n"), None, Some("nameserver 192.168.1.1\n")];
    assert_eq!(upstreams(&find(files, &["10.96.0.10"], &[])), ["127.0.0.1"]);
    let ours = find(files, &["127.0.0.1"], &[]);
    assert_eq!(
        (upstreams(&ours), ours.source),
        (vec!["192.168.1.1".to_owned()], file(&Paths::default().network_manager))
    );
    assert_eq!(ours.left_out[0].to_string(), "127.0.0.1 is Warren's own DNS address");
}

#[test]
fn what_is_configured_comes_first_and_search_is_the_nodes() {
    let files = [Some("nameserver 10.0.0.1\nsearch corp.example\n"), None, None];
    let found = find(files, &["10.96.0.10"], &["tls://1.1.1.1#one.one.one.one", "10.96.0.10"]);
    assert_eq!(upstreams(&found), ["tls://1.1.1.1#one.one.one.one"]);
    assert_eq!((found.source, found.search.len(), found.left_out.len()), (Source::Configured, 1, 1));
}

#[test]
fn with_nothing_at_all_it_says_so() {
    for etc in
        [None, Some(""), Some("\0\u{fffd} nameserver"), Some("nameserver 0.0.0.0\nnameserver ff02::fb\n")]
    {
        let found = find([etc, None, None], &[], &[]);
        assert_eq!((found.upstreams.len(), found.source), (0, Source::None));
    }
    assert_eq!(find([None, None, None], &[], &[]).problems.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_file_is_seen_also_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let paths = Paths { etc: at("etc"), resolved: at("resolved"), network_manager: at("nm") };
    std::fs::write(at("one"), "nameserver 10.0.0.1\n").unwrap();
    std::fs::write(at("two"), "nameserver 10.0.0.2\n").unwrap();
    std::os::unix::fs::symlink(at("one"), at("etc")).unwrap();
    let mut watch = Watch::new(paths.clone());
    let find = || upstreams(&HostResolver::find(&[], &[], &paths));
    assert_eq!(find(), ["10.0.0.1"]);
    assert!(tokio::time::timeout(EVERY * 10, watch.changed()).await.is_err(), "nothing changed");
    std::os::unix::fs::symlink(at("two"), at("new")).unwrap();
    std::fs::rename(at("new"), at("etc")).unwrap();
    watch.changed().await;
    assert_eq!(find(), ["10.0.0.2"]);
    std::fs::remove_file(at("two")).unwrap();
    watch.changed().await;
    assert!(find().is_empty());
    std::fs::write(at("resolved"), "nameserver 10.0.0.3\n").unwrap();
    watch.changed().await;
    assert!(!watch.look());
}

proptest! {
    /// Whatever the files say: no upstream is ourselves, none comes twice, and the lists are bounded.
    #[test]
    fn any_files_are_read_without_harm(
        etc in "(nameserver|search|domain|#|[ \t\n]|127\\.0\\.0\\.[0-9]{1,2}|10\\.96\\.0\\.10|[0-9a-f:%.]{1,9}|.){0,40}",
        resolved in "(nameserver (127\\.0\\.0\\.53|10\\.96\\.0\\.10|10\\.0\\.0\\.[0-9])\n|.){0,20}",
        manager in prop::option::of("(nameserver (10\\.96\\.0\\.10|fd00::[0-9])\n){0,3}"),
    ) {
        let found = find([Some(&etc), Some(&resolved), manager.as_deref()], &["10.96.0.10", "127.0.0.7"], &[]);
        for (n, upstream) in found.upstreams.iter().enumerate() {
            prop_assert!(!["10.96.0.10", "127.0.0.7"].contains(&upstream.ip.to_string().as_str()));
            prop_assert!(!found.upstreams[..n].contains(upstream));
        }
        prop_assert!(found.upstreams.len() <= 3 * MOST_UPSTREAMS && found.search.len() <= MOST_SEARCH);
        prop_assert_eq!(found.upstreams.is_empty(), found.source == Source::None);
    }
}
