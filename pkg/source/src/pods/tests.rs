use super::*;
use warren_types::{AttachmentKey, BootId, ContainerId, IfName, Namespace, PodName, Protocol};

fn attachment(container: &str, pod: Option<&str>, ip: &str, phase: AttachmentPhase) -> Attachment {
    Attachment {
        key: AttachmentKey {
            container_id: ContainerId::new(container).unwrap(),
            if_name: IfName::new("eth0").unwrap(),
        },
        pod: pod.map(key),
        pod_uid: None,
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        addresses: vec!["fd00::2".parse().unwrap(), ip.parse().unwrap()],
        netns: "/run/netns/x".into(),
        host_link: IfName::new("wrnp0").unwrap(),
        phase,
        host_ports: Vec::new(),
        named_ports: Vec::new(),
        boot_id: BootId::new("0".repeat(36)).unwrap(),
    }
}

fn key(name: &str) -> PodKey {
    PodKey { namespace: Namespace::new("default").unwrap(), name: PodName::new(name).unwrap() }
}

fn shown(want: &DesiredPod) -> ObservedPod {
    ObservedPod {
        uid: "u".into(),
        labels: want.labels.clone(),
        ips: want.ips.clone(),
        container_id: Some(want.container_id.clone()),
        running: true,
        named_ports: want.named_ports.clone(),
        ending: false,
    }
}

#[test]
fn live_attachments_with_a_pod_become_pods() {
    let rows = [
        attachment("c1", Some("a"), "10.42.0.2", AttachmentPhase::Live),
        attachment("c2", None, "10.42.0.3", AttachmentPhase::Live),
        attachment("c3", Some("b"), "10.42.0.4", AttachmentPhase::Adding),
        attachment("c4", Some("c"), "10.42.0.5", AttachmentPhase::Deleting),
    ];
    let want = desired(&rows);
    assert_eq!(want.keys().collect::<Vec<_>>(), [&key("a")]);
    assert!(want[&key("a")].ips[0].is_ipv4(), "IPv4 comes first");
}

#[test]
fn what_the_api_shows_right_is_left_alone_and_only_ours_are_deleted() {
    let want = desired(&[attachment("c1", Some("a"), "10.42.0.2", AttachmentPhase::Live)]);
    let right = BTreeMap::from([(key("a"), shown(&want[&key("a")]))]);
    assert!(plan(&want, &right).is_empty());
    assert!(matches!(plan(&want, &BTreeMap::new())[&key("a")], Action::Create(_)));
    let mut pending = right.clone();
    pending.get_mut(&key("a")).unwrap().running = false;
    assert!(matches!(plan(&want, &pending)[&key("a")], Action::Update { metadata: false, status: true, .. }));
    assert_eq!(plan(&BTreeMap::new(), &right)[&key("a")], Action::Delete { uid: "u".into() });
    let mut foreign = BTreeMap::from([(key("x"), ObservedPod { uid: "f".into(), ..ObservedPod::default() })]);
    assert!(plan(&BTreeMap::new(), &foreign).is_empty());
    foreign.get_mut(&key("x")).unwrap().ending = true;
    assert_eq!(plan(&BTreeMap::new(), &foreign)[&key("x")], Action::Delete { uid: "f".into() });
}

#[test]
fn a_pod_with_other_ports_is_made_anew_but_the_ports_of_somebody_elses_stay() {
    let port = |port| NamedPort { name: "http".into(), protocol: Protocol::Tcp, port };
    let mut row = attachment("c1", Some("a"), "10.42.0.2", AttachmentPhase::Live);
    row.named_ports = vec![port(8080)];
    let want = desired(&[row.clone()]);
    let mut have = BTreeMap::from([(key("a"), shown(&want[&key("a")]))]);
    assert!(plan(&want, &have).is_empty());
    have.get_mut(&key("a")).unwrap().named_ports = vec![port(80)];
    assert_eq!(plan(&want, &have)[&key("a")], Action::Delete { uid: "u".into() });
    row.named_ports.clear();
    assert!(plan(&desired(&[row]), &have).is_empty());
    have.get_mut(&key("a")).unwrap().container_id = None;
    assert!(matches!(plan(&want, &have)[&key("a")], Action::Update { metadata: true, .. }));
}

#[test]
fn a_second_sandbox_of_a_pod_takes_over() {
    let rows = [
        attachment("c1", Some("a"), "10.42.0.2", AttachmentPhase::Live),
        attachment("c2", Some("a"), "10.42.0.3", AttachmentPhase::Live),
    ];
    let want = desired(&rows);
    assert_eq!(want[&key("a")].container_id, "c2");
    assert_eq!(want[&key("a")].ips[0], "10.42.0.3".parse::<IpAddr>().unwrap());
}

#[test]
fn a_pod_that_the_server_marked_as_not_ready_is_written_again() {
    let pod = |ready: &str| {
        let value = json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        let object: Object = serde_json::from_value(value).unwrap();
        observe(&object, "n").unwrap().1.unwrap().running
    };
    assert!(pod("True") && !pod("False") && !pod("Unknown"));
}
