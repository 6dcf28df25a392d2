use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn check(to: &str, kind: CheckKind, outcome: Outcome) -> Check {
    Check {
        to: Some(name(to)),
        kind,
        address: "10.42.1.2".parse().ok(),
        outcome,
        why: if outcome == Outcome::Held { String::new() } else { "no answer".into() },
        latency_micros: (kind == CheckKind::Udp && outcome == Outcome::Held).then_some((120, 1_230)),
        bytes: None,
    }
}

fn report(parts: &[(&str, Option<&str>, Vec<Check>)]) -> Report {
    let part = |absent: &Option<&str>, checks: &[Check]| Part {
        absent: absent.map(str::to_owned),
        asker: Vec::new(),
        checks: checks.to_vec(),
    };
    Report::new(parts.iter().map(|(node, absent, checks)| (name(node), part(absent, checks))).collect())
}

#[test]
fn what_holds_is_shown_with_its_latency() {
    let all = report(&[(
        "a",
        None,
        vec![check("a", CheckKind::Tcp, Outcome::Held), check("a", CheckKind::Udp, Outcome::Held)],
    )]);
    let text = all.render(false);
    assert!(all.ok && text.contains("0.12 / 1.23 ms") && text.contains("2/2"), "{text}");
    assert!(text.ends_with("Everything held: 2 of 2 checks, 1 nodes.\n"), "{text}");
    assert!(!text.contains('\x1b') && all.render(true).contains('\x1b'));
}

#[test]
fn a_failure_is_named_with_what_to_type_next() {
    let all = report(&[
        (
            "a",
            None,
            vec![check("b", CheckKind::Tcp, Outcome::Failed), check("b", CheckKind::Mtu, Outcome::Held)],
        ),
        ("b", Some("its agent did not answer"), Vec::new()),
    ]);
    let text = all.render(false);
    assert!(!all.ok);
    for expected in [
        "FAILED a -> b, pod, TCP 10.42.1.2: no answer\n       next: on a and b: warren doctor\n",
        "FAILED b: its agent did not answer\n",
        "Not everything held: 1 of 2 checks, 2 nodes.",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_denial_that_nothing_had_reached_before_proves_nothing() {
    let denied = |open: Outcome| {
        report(&[(
            "a",
            None,
            vec![check("b", CheckKind::Open, open), check("b", CheckKind::Denied, Outcome::Held)],
        )])
    };
    assert_eq!(denied(Outcome::Held).cells[1].check.outcome, Outcome::Held);
    let vain = denied(Outcome::Failed);
    assert_eq!(vain.cells[1].check.outcome, Outcome::NotChecked);
    assert!(vain.render(false).contains("not checked what the policy denies: it was not reached before"));
}

#[test]
fn absence_alone_is_a_failure() {
    assert!(!report(&[("a", Some("gone"), Vec::new())]).ok);
    assert!(report(&[("a", None, Vec::new())]).ok);
}
