use super::*;
mod certificates;
mod fake;
mod gateways;
mod ingresses;
mod policies;
mod services;

use fake::FakeApi;
use serde_json::json;
use std::time::Instant;
use warren_store::tables::ONLY;
use warren_types::{
    Attachment, AttachmentKey, AttachmentPhase, BootId, ClusterConfig, ContainerId, IfName, LocalNode,
    NamedPort, Namespace, Node, NodeId, Pod, PodKey, PodName, Protocol, PublicKey,
};

#[test]
fn health_follows_the_api() {
    let (status, health) = (SourceStatus::default(), HealthCell::default());
    status.synced("Node", false);
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Starting);
    status.lost("connection refused");
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Degraded);
    status.contact();
    status.synced("Node", true);
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Ready);
    status.write_result("Node n1", Some("forbidden".into()));
    say(&status.report(), &health);
    assert_eq!(health.get().message, "Node n1: forbidden");
}

/// A store, a fake API and a source between them.
struct Bench {
    _dir: tempfile::TempDir,
    store: Store,
    status: SourceStatus,
    stop: CancellationToken,
    task: tokio::task::JoinSet<Result<(), SourceError>>,
}

impl Bench {
    async fn start(api: &FakeApi, register: bool) -> Self {
        Self::with(api, register, false).await
    }

    async fn with(api: &FakeApi, register: bool, issue_certificates: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap().store;
        let (status, stop) = (SourceStatus::default(), CancellationToken::new());
        let config = SourceConfig {
            access: ApiAccess::Kubeconfig(kubeconfig),
            node_name: NodeName::new("n1").unwrap(),
            register_node: register,
            cluster_from_flags: false,
            issue_certificates,
        };
        let mut task = tokio::task::JoinSet::new();
        task.spawn(run(config, store.clone(), status.clone(), HealthCell::default(), stop.clone()));
        Self { _dir: dir, store, status, stop, task }
    }

    async fn end(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task.join_next()).await;
        ended.expect("the source stops when told to").unwrap().unwrap().unwrap();
    }

    fn nodes(&self) -> Vec<String> {
        self.store.table::<Node>().snapshot().rows.keys().cloned().collect()
    }
}

/// Waits until `check` holds.
async fn soon(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < Duration::from_secs(60), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn node(name: &str, cidr: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"podCIDRs": [cidr]}})
}

fn local() -> LocalNode {
    LocalNode {
        name: NodeName::new("n1").unwrap(),
        node_id: NodeId::new("0123456789abcdef0123456789abcdef").unwrap(),
        public_key: PublicKey([7; 32]),
        endpoints: vec!["192.0.2.1:51840".parse().unwrap()],
        held_ports: Vec::new(),
        ingress: Vec::new(),
        internal_ips: vec!["192.0.2.1".parse().unwrap()],
        served_ips: Vec::new(),
        ready: true,
        message: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_then_follows_additions_changes_and_deletions() {
    let api = FakeApi::start().await;
    api.put("nodes", node("a", "10.42.0.0/24"));
    api.put(
        "configmaps",
        json!({"metadata": {"name": "warren-cluster", "namespace": "kube-system"},
        "data": {"config.json": "{\"clusterCidrs\":[\"10.42.0.0/16\"]}"}}),
    );
    let bench = Bench::start(&api, false).await;
    soon("first list", || bench.nodes() == ["a"]).await;
    soon("loaded", || {
        bench.store.table::<Pod>().loaded() && bench.store.table::<ClusterConfig>().get(ONLY).is_some()
    })
    .await;
    api.put("nodes", node("b", "10.42.1.0/24"));
    api.put(
        "pods",
        json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "a"},
        "status": {"podIP": "10.42.0.2"}}),
    );
    soon("addition", || bench.nodes() == ["a", "b"] && bench.store.table::<Pod>().get("default/p").is_some())
        .await;
    api.put("nodes", node("b", "10.42.7.0/24"));
    soon("change", || {
        bench
            .store
            .table::<Node>()
            .get("b")
            .is_some_and(|n| n.pod_cidrs.v4.unwrap().to_string() == "10.42.7.0/24")
    })
    .await;
    api.delete("nodes", "a");
    api.delete("pods", "default/p");
    soon("deletion", || bench.nodes() == ["b"] && bench.store.table::<Pod>().snapshot().rows.is_empty())
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_410_leads_to_a_relist_that_drops_what_is_gone() {
    let api = FakeApi::start().await;
    api.put("nodes", node("a", "10.42.0.0/24"));
    api.put("nodes", node("b", "10.42.1.0/24"));
    let bench = Bench::start(&api, false).await;
    soon("first list", || bench.nodes() == ["a", "b"]).await;
    let lists = api.lists("nodes");
    // The object vanishes without an event; the history is cut; the watch is told so, in the stream or by the status.
    for in_stream in [true, false] {
        api.forget("nodes", if in_stream { "a" } else { "b" });
        api.expire(in_stream);
        let left: &[&str] = if in_stream { &["b"] } else { &[] };
        soon("relist", || bench.nodes() == left).await;
    }
    assert!(api.lists("nodes") > lists + 1);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_api_keeps_every_row_and_is_found_again() {
    let api = FakeApi::start().await;
    api.put("nodes", node("a", "10.42.0.0/24"));
    let bench = Bench::start(&api, false).await;
    soon("first list", || bench.nodes() == ["a"] && bench.status.report().connected).await;
    api.down().await;
    soon("loss noticed", || !bench.status.report().connected).await;
    assert_eq!(bench.nodes(), ["a"]);
    api.put("nodes", node("b", "10.42.1.0/24"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.nodes(), ["a"]);
    api.up().await;
    let back = Instant::now();
    soon("found again", || bench.nodes() == ["a", "b"] && bench.status.report().connected).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_away_at_start_is_waited_for() {
    let api = FakeApi::start().await;
    api.put("nodes", node("a", "10.42.0.0/24"));
    api.down().await;
    let bench = Bench::start(&api, false).await;
    soon("loss said", || !bench.status.report().error.is_empty()).await;
    assert!(!bench.store.table::<Node>().loaded(), "nothing was heard yet");
    api.up().await;
    soon("first list", || bench.nodes() == ["a"]).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_object_is_named_and_stops_nobody() {
    let api = FakeApi::start().await;
    api.put("nodes", node("bad", "10.42.0.7/24"));
    api.put("nodes", json!({"metadata": {"name": "worse"}, "spec": {"podCIDRs": {"a": [1]}}, "status": 7}));
    api.put("nodes", node("good", "10.42.1.0/24"));
    let bench = Bench::start(&api, false).await;
    soon("all nodes", || bench.nodes() == ["bad", "good", "worse"]).await;
    let refused = bench.status.report().refused;
    assert_eq!(refused.iter().map(|r| r.object.as_str()).collect::<Vec<_>>(), ["bad"]);
    api.put("nodes", node("bad", "10.42.0.0/24"));
    soon("refusal lifted", || bench.status.report().refused.is_empty()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_registered_kept_true_and_not_rewritten_when_it_matches() {
    let api = FakeApi::start().await;
    let bench = Bench::start(&api, true).await;
    bench.store.table::<LocalNode>().put(local(), warren_store::Durability::Flushed).await.unwrap();
    soon("registered", || {
        api.get("nodes", "n1").is_some_and(|n| n["status"]["addresses"][0]["address"] == "192.0.2.1")
    })
    .await;
    let n = api.get("nodes", "n1").unwrap();
    assert_eq!(n["metadata"]["annotations"]["warren.dev/public-key"], local().public_key.to_string());
    assert_eq!(n["metadata"]["labels"]["kubernetes.io/os"], "linux");
    assert!(
        n["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    );
    soon("heartbeat", || api.get("leases", "kube-node-lease/n1").is_some()).await;
    soon("own row", || bench.nodes() == ["n1"]).await;
    let writes = api.writes("nodes");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(api.writes("nodes"), writes, "nothing differs, so nothing is written");
    let changed = LocalNode { internal_ips: vec!["192.0.2.9".parse().unwrap()], ..local() };
    bench.store.table::<LocalNode>().put(changed, warren_store::Durability::Flushed).await.unwrap();
    soon("new address", || {
        api.get("nodes", "n1").unwrap()["status"]["addresses"][0]["address"] == "192.0.2.9"
    })
    .await;
    api.delete("nodes", "n1");
    soon("registered again", || api.get("nodes", "n1").is_some()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_registration_only_annotations_are_written() {
    let api = FakeApi::start().await;
    let bench = Bench::start(&api, false).await;
    bench.store.table::<LocalNode>().put(local(), warren_store::Durability::Flushed).await.unwrap();
    soon("list", || bench.store.table::<Node>().loaded()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(api.get("nodes", "n1"), None, "a kubelet makes the Node, not we");
    api.put("nodes", node("n1", "10.42.0.0/24"));
    soon("annotated", || {
        api.get("nodes", "n1").unwrap()["metadata"]["annotations"]["warren.dev/endpoints"]
            == "192.0.2.1:51840"
    })
    .await;
    let n = api.get("nodes", "n1").unwrap();
    assert!(n.get("status").is_none() && n["metadata"].get("labels").is_none(), "{n}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_appear_and_go_with_their_attachments() {
    let api = FakeApi::start().await;
    let ours = |name: &str, id: &str| {
        json!({"metadata": {"name": name, "namespace": "default", "uid": name,
            "annotations": {"warren.dev/container-id": id}}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}})
    };
    api.put("pods", ours("stale", "gone"));
    api.put(
        "pods",
        json!({"metadata": {"name": "foreign", "namespace": "default"}, "spec": {"nodeName": "n1"}}),
    );
    let bench = Bench::start(&api, true).await;
    let table = bench.store.table::<Attachment>();
    soon("list", || bench.store.table::<Pod>().loaded()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(api.get("pods", "default/stale").is_some(), "nothing is deleted before the journal is loaded");
    let attachment = Attachment {
        key: AttachmentKey {
            container_id: ContainerId::new("c1").unwrap(),
            if_name: IfName::new("eth0").unwrap(),
        },
        pod: Some(PodKey {
            namespace: Namespace::new("default").unwrap(),
            name: PodName::new("web").unwrap(),
        }),
        pod_uid: None,
        labels: [("app".to_owned(), "web".to_owned())].into(),
        addresses: vec!["10.42.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        netns: "/run/netns/x".into(),
        host_link: IfName::new("wrnp0").unwrap(),
        phase: AttachmentPhase::Live,
        host_ports: Vec::new(),
        named_ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
        boot_id: BootId::new("0".repeat(36)).unwrap(),
    };
    table.put(attachment.clone(), warren_store::Durability::Flushed).await.unwrap();
    table.mark_loaded().await.unwrap();
    soon("pod shown", || {
        api.get("pods", "default/web").is_some_and(|p| p["status"]["podIPs"][1]["ip"] == "fd00::2")
    })
    .await;
    let pod = api.get("pods", "default/web").unwrap();
    assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["labels"]["app"]), (&json!("n1"), &json!("web")));
    assert_eq!(
        pod["spec"]["containers"][0]["ports"],
        json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"}])
    );
    soon("its row", || {
        bench.store.table::<Pod>().get("default/web").is_some_and(|p| p.named_ports == attachment.named_ports)
    })
    .await;
    assert_eq!((&pod["status"]["phase"], &pod["status"]["podIP"]), (&json!("Running"), &json!("10.42.0.2")));
    soon("stale pod deleted", || api.get("pods", "default/stale").is_none()).await;
    assert!(api.get("pods", "default/foreign").is_some(), "what is not ours stays");
    table.delete(&attachment.key.to_string(), warren_store::Durability::Flushed).await.unwrap();
    soon("pod gone", || api.get("pods", "default/web").is_none()).await;
    bench.end().await;
}
