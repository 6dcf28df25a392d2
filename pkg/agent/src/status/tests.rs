use super::*;
use warren_source::Refusal;

fn report() -> StatusReport {
    let subsystem = |name: &str, state, message: &str, restarts| SubsystemView {
        name: name.into(),
        state,
        message: message.into(),
        since_seconds: 192,
        restarts,
        last_failure: (restarts > 0)
            .then(|| FailureView { seconds_ago: 200, reason: "panicked: boom".into() }),
    };
    StatusReport {
        version: "0.1.0".into(),
        pid: 42,
        uptime_seconds: 18_120,
        ready: true,
        node: NodeView {
            name: "a".into(),
            addresses: vec!["192.0.2.1".into()],
            pod_cidrs: vec!["10.42.0.0/24".into(), "fd57:4e00:42::/64".into()],
            tunnel: "kernel".into(),
            ..NodeView::default()
        },
        subsystems: vec![
            subsystem("source", HealthState::Degraded, "the API does not answer", 0),
            subsystem("overlay", HealthState::Ready, "", 2),
            subsystem("cni", HealthState::Failed, "bind: address in use", 7),
        ],
        source: SourceReport {
            api: "https://192.0.2.9:6443".into(),
            connected: false,
            since_seconds: 61,
            last_contact_seconds: Some(65),
            refused: vec![Refusal {
                kind: "Node".into(),
                object: "c".into(),
                field: "spec.podCIDRs".into(),
                reason: "podCIDR \"x\" is not a prefix".into(),
            }],
            ..SourceReport::default()
        },
        nodes: vec![
            ClusterNodeView { name: "a".into(), own: true, ready: true, ..ClusterNodeView::default() },
            ClusterNodeView {
                name: "b".into(),
                ready: true,
                addresses: vec!["192.0.2.2".into()],
                pod_cidrs: vec!["10.42.1.0/24".into()],
                tunnel: Some(TunnelView {
                    endpoint: Some("192.0.2.2:51840".into()),
                    handshake_seconds: Some(12),
                    received_bytes: 1_500_000,
                    sent_bytes: 900,
                    note: String::new(),
                }),
                ..ClusterNodeView::default()
            },
            ClusterNodeView { name: "c".into(), ..ClusterNodeView::default() },
        ],
        pools: vec![PoolView {
            prefix: "10.42.0.0/24".into(),
            total: "253".into(),
            used: 3,
            quarantined: 1,
            held: 0,
            free: "249".into(),
        }],
        store: StoreView {
            path: "/var/lib/warren/agent/store".into(),
            revision: 77,
            rows: [("nodes".to_owned(), 3)].into(),
            set_aside: "torn; kept in /var/lib/warren/agent/store.torn-1".into(),
            ..StoreView::default()
        },
        cni: CniView::default(),
        services: ServicesReport {
            proxy: Some(crate::services::ProxyView { services: 4, ..Default::default() }),
            load_balancer: None,
        },
        dns: Some(crate::dns::DnsView {
            addresses: vec!["10.43.0.10".into()],
            domain: "cluster.local.".into(),
            services: 4,
            known: true,
            source: "/etc/resolv.conf".into(),
            upstreams: vec![crate::dns::UpstreamView {
                address: "192.0.2.53".into(),
                latency_micros: Some(1_250),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ingress: Some(crate::ingress::IngressView {
            listening: vec!["http://0.0.0.0:80".into()],
            failed: vec!["https://0.0.0.0:443 cannot be listened on: Address in use".into()],
            ingresses: 3,
            faulty: 1,
            routes: 5,
            connections: 12,
            answers: [0, 1_000, 10, 5, 1],
            ..Default::default()
        }),
        policy: Some(crate::policy::PolicyView {
            loaded: true,
            policies: 5,
            held: 1,
            isolated: 3,
            changes: 4,
            last_change_micros: 730,
            flows_ended: 2,
            denied_packets: 17,
            ..Default::default()
        }),
    }
}

#[test]
fn status_reads_well_without_colour() {
    insta::assert_snapshot!(render(&report(), false));
}

#[test]
fn colour_changes_no_letter() {
    let coloured = render(&report(), true);
    assert!(coloured.contains("\x1b[31mfailed\x1b[0m"));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some(at) = rest.find("\x1b[") {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = &rest[rest.find('m').unwrap() + 1..];
    }
    plain.push_str(rest);
    assert_eq!(plain, render(&report(), false));
}

#[test]
fn the_report_crosses_the_socket_unchanged() {
    let json = serde_json::to_string(&report()).unwrap();
    assert_eq!(serde_json::from_str::<StatusReport>(&json).unwrap(), report());
    assert_eq!(serde_json::from_str::<StatusReport>("{}").unwrap(), StatusReport::default());
}

#[test]
fn ages_and_sizes_are_short() {
    for (s, text) in
        [(0, "0s"), (59, "59s"), (60, "1m00s"), (3_599, "59m59s"), (3_600, "1h00m"), (100_000, "1d03h")]
    {
        assert_eq!(age(s), text);
    }
    for (n, text) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_500_000, "1.4 MiB"), (u64::MAX, "16383.9 PiB")]
    {
        assert_eq!(bytes(n), text);
    }
}
