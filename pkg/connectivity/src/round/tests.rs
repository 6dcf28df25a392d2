use super::*;
use warren_types::connectivity::ConnectivityTarget;

fn ips(words: &[&str]) -> Vec<IpAddr> {
    words.iter().map(|w| w.parse().unwrap()).collect()
}

fn round(phase: RunPhase) -> Round {
    let target = |n: u8| ConnectivityTarget {
        pod: ips(&[&format!("10.42.{n}.2"), &format!("fd42:{n}::2")]),
        service: ips(&[&format!("10.43.0.{}", n + 20)]),
        node: ips(&[&format!("192.0.2.{}", n + 1)]),
        node_port: Some(30_001),
        ingress_port: (n == 0).then_some(80),
    };
    let targets = ["a", "b"].iter().zip(0..).map(|(name, n)| (NodeName::new(*name).unwrap(), target(n)));
    Round {
        run: ConnectivityRun {
            id: "r".into(),
            phase,
            timeout_ms: 100,
            outside: None,
            targets: targets.collect(),
        },
        own: ips(&["10.42.0.3"]),
        mtu: 1420,
        dns: ips(&["10.43.0.10", "fd43::a"]),
        domain: "cluster.local".into(),
        offline: false,
    }
}

fn count(items: &[Item], kind: CheckKind) -> usize {
    items.iter().filter(|i| i.kind == kind).count()
}

#[test]
fn everybody_is_asked_in_every_way_and_in_the_families_that_the_pod_has() {
    let items = round(RunPhase::Ask).plan();
    for (kind, expected) in [
        (CheckKind::Tcp, 2),
        (CheckKind::Udp, 2),
        (CheckKind::Open, 2),
        (CheckKind::Mtu, 2),
        (CheckKind::Service, 2),
        (CheckKind::NodePort, 2),
        (CheckKind::Ingress, 2),
        (CheckKind::Dns, 3),
        (CheckKind::DnsOutside, 1),
        (CheckKind::Denied, 0),
    ] {
        assert_eq!(count(&items, kind), expected, "{kind:?}");
    }
    assert!(items.iter().all(|i| i.address.is_none_or(|a| a.is_ipv4())));
    let skipped: Vec<_> =
        items.iter().filter(|i| i.question.is_err()).map(|i| (i.kind, i.to.clone())).collect();
    let b = NodeName::new("b").ok();
    assert_eq!(skipped, [(CheckKind::Ingress, b), (CheckKind::DnsOutside, None)]);
}

#[test]
fn what_a_node_without_addresses_cannot_be_asked_is_told() {
    let mut round = round(RunPhase::Ask);
    for target in round.run.targets.values_mut() {
        target.node.clear();
    }
    let items = round.plan();
    for kind in [CheckKind::NodePort, CheckKind::Ingress] {
        assert_eq!(items.iter().filter(|i| i.kind == kind && i.question.is_err()).count(), 2, "{kind:?}");
    }
}

#[test]
fn under_the_policy_one_port_is_allowed_and_one_denied() {
    let items = round(RunPhase::Policy).plan();
    assert_eq!((count(&items, CheckKind::Allowed), count(&items, CheckKind::Denied), items.len()), (2, 2, 4));
}

#[test]
fn who_answers_and_who_was_seen_is_told() {
    let answer = |seen: &str| Answer {
        name: "answer-1".into(),
        seen: seen.parse().unwrap(),
        own: "10.42.0.3".parse().unwrap(),
    };
    assert!(right(&answer("10.42.0.3"), "answer-1", true).is_ok());
    assert!(right(&answer("10.42.0.1"), "answer-1", false).is_ok());
    assert!(right(&answer("10.42.0.1"), "answer-1", true).unwrap_err().why.contains("seen as"));
    assert!(right(&answer("10.42.0.3"), "answer-0", true).unwrap_err().why.contains("instead of answer-0"));
}

/// The echo server and the questions to it, over a narrow loopback of a namespace of their own.
#[test]
fn an_echo_is_reached_measured_and_its_silence_seen() {
    let ns = warren_netlink::NetNs::fresh().unwrap();
    let done = ns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = warren_netlink::Netlink::current().unwrap();
            netlink.set_mtu("lo", 1400).await.unwrap();
            netlink.set_up("lo", true).await.unwrap();
            let mut server = JoinSet::new();
            server.spawn(async { crate::echo::serve("answer-0").await });
            let limit = Duration::from_secs(5);
            for ip in ips(&["127.0.0.1", "::1"]) {
                let to = SocketAddr::new(ip, PORT);
                let tcp = Question::Tcp { to, name: "answer-0".into(), seen: true };
                held(&tcp, limit).await.unwrap();
                held(&Question::Udp { to, name: "answer-0".into() }, limit).await.unwrap();
                assert_eq!(held(&Question::Mtu { to, mtu: 1400 }, limit).await.unwrap(), Some(1400));
                let (least, median) = latency(to).await.unwrap();
                assert!(least <= median && median > 0);
                let short = Duration::from_millis(300);
                // What is larger than the way is refused with a word, which is no fault.
                assert_eq!(held(&Question::Mtu { to, mtu: 1440 }, limit).await.unwrap(), Some(1400));
                assert!(!is_closed(SocketAddr::new(ip, HTTP_PORT), short).await);
                assert!(is_closed(SocketAddr::new(ip, HTTP_PORT + 1), limit).await);
                let other = Question::Tcp { to, name: "answer-1".into(), seen: true };
                assert!(held(&other, short).await.unwrap_err().why.contains("instead"));
            }
        });
    });
    done.unwrap();
}
