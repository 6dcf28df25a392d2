use super::follow::Seen;
use super::*;
use clap::Parser as _;
use std::io::Write as _;
use warren_agent::policy::{CheckQuery, End};

#[derive(clap::Parser)]
struct Only {
    #[command(flatten)]
    args: CheckArgs,
}

fn asked(words: &[&str]) -> anyhow::Result<CheckQuery> {
    question::read(&Only::parse_from(["x"].iter().chain(words)).args)
}

fn end(end: &End) -> String {
    match end {
        End::Pod(key) => format!("pod {key}"),
        End::Service(key) => format!("svc {key}"),
        End::Address(address) => address.to_string(),
    }
}

#[test]
fn a_question_names_its_parts_in_full() {
    for (words, asks) in [
        (&["a", "b:80"][..], "pod default/a > pod default/b 80"),
        (&["-n", "s", "a", "b:80"], "pod s/a > pod s/b 80"),
        (&["s/a", "b:http/udp"], "pod s/a > pod s/b http/UDP"),
        (&["s/a", "t/b"], "pod s/a > pod t/b"),
        (&["s/a", "svc/web:53/udp"], "pod s/a > svc s/web 53/UDP"),
        (&["a", "svc/t/web"], "pod default/a > svc t/web"),
        (&["10.0.0.9", "b:80"], "10.0.0.9 > pod default/b 80"),
        (&["[fd00::1]", "10.0.0.9:80"], "fd00::1 > 10.0.0.9 80"),
        (&["fd00::1", "fd00::2"], "fd00::1 > fd00::2"),
        (&["a", "[fd00::2]"], "pod default/a > fd00::2"),
        (&["a", "[fd00::2]:53/udp"], "pod default/a > fd00::2 53/UDP"),
    ] {
        let query = asked(words).unwrap();
        let port = query.port.map(|port| {
            let protocol = port.protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
            format!(" {}{protocol}", port.port)
        });
        assert_eq!(format!("{} > {}{}", end(&query.from), end(&query.to), port.unwrap_or_default()), asks);
        assert_eq!(query.proposed, None);
    }
}

#[test]
fn what_is_no_question_is_a_usage_error() {
    for words in [
        &["svc/a", "b:80"][..],
        &["a", "b:"],
        &["a", "b:80/icmp"],
        &["a", "B:80"],
        &["a", "[fd00::1"],
        &["a", "[fd00::1]80"],
        &["a", "b:8&0"],
        &["a/b/c", "d:80"],
        &["a", "b", "--delete", "X"],
        &["a", "b", "--file", "/nonexistent/file"],
    ] {
        let error = asked(words).unwrap_err();
        assert_eq!(crate::failure::describe(&error).1, crate::failure::EXIT_USAGE, "{words:?}");
    }
}

#[test]
fn policies_that_would_be_are_read_from_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let deny = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";
    write!(file, "{deny}---\n{}", deny.replace("name: deny", "name: other, namespace: t")).unwrap();
    let query = asked(&["-n", "s", "a", "b", "--file", &path, "--delete", "old", "--delete", "t/x"]).unwrap();
    let proposed = query.proposed.unwrap();
    let put: Vec<String> = proposed.put.iter().map(|row| row.key.to_string()).collect();
    let delete: Vec<String> = proposed.delete.iter().map(ToString::to_string).collect();
    assert_eq!((put, delete), (vec!["s/deny".into(), "t/other".into()], vec!["s/old".into(), "t/x".into()]));

    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n").unwrap();
    let error = asked(&["a", "b", "--file", other.path().to_str().unwrap()]).unwrap_err();
    assert!(error.to_string().contains("only objects of kind NetworkPolicy"), "{error}");
    std::fs::write(other.path(), vec![b' '; (1 << 20) + 1]).unwrap();
    let error = asked(&["a", "b", "--file", other.path().to_str().unwrap()]).unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[test]
fn a_stream_tells_each_packet_once() {
    let denial =
        |source: &str, packets| DenialView { source: source.into(), packets, ..DenialView::default() };
    let mut seen = Seen::default();
    let told = |seen: &mut Seen, all: &[(&str, u64)]| -> Vec<(String, u64)> {
        let all = all.iter().map(|(source, packets)| denial(source, *packets)).collect();
        seen.untold(all).into_iter().map(|denial| (denial.source, denial.packets)).collect()
    };
    assert_eq!(told(&mut seen, &[("a", 3)]), [("a".to_owned(), 3)]);
    assert_eq!(told(&mut seen, &[("a", 3), ("b", 1)]), [("b".to_owned(), 1)]);
    assert_eq!(told(&mut seen, &[("a", 5), ("b", 1)]), [("a".to_owned(), 2)]);
    // Forgotten, and denied again.
    assert_eq!(told(&mut seen, &[("a", 2)]), [("a".to_owned(), 2)]);
    assert_eq!(told(&mut seen, &[("b", 1)]), [("b".to_owned(), 1)]);
}

#[test]
fn denials_are_found_by_the_namespace_of_either_end() {
    let denial = DenialView { destination_pod: Some("shop/db".into()), ..DenialView::default() };
    assert!(is_of(&denial, None) && is_of(&denial, Some("shop")));
    assert!(!is_of(&denial, Some("sho")) && !is_of(&DenialView::default(), Some("shop")));
}
