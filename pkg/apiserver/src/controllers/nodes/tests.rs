use super::*;
use crate::controllers::testing::World;

const LIFE: NodeLife = NodeLife { grace: Duration::from_secs(40), eviction: Duration::from_secs(300) };

async fn world() -> World {
    let mut w = World::new().await;
    w.start(Nodes::new(w.api.clone(), LIFE));
    w
}

async fn node(w: &World, name: &str) -> Arc<Object> {
    let body = json!({"metadata": {"name": name}, "status": {"conditions":
        [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}});
    w.create_with_status(NODE, "", body).await
}

async fn pod(w: &World, name: &str, node: &str, tolerations: Value) {
    let body = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "tolerations": tolerations,
            "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    w.create_with_status(POD, "default", body).await;
}

/// Renews the Lease every ten seconds, for as long.
async fn beat(w: &World, node: &str, seconds: u64) {
    for _ in 0..seconds / 10 {
        beat_once(w, node).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

async fn beat_once(w: &World, node: &str) {
    let at = format!("2026-01-01T00:00:00.{:06}Z", w.cache().revision());
    match w.find(LEASE, LEASES, node) {
        Some(lease) => {
            w.change(&lease, Part::Main, |o| o["spec"]["renewTime"] = at.clone().into()).await;
        }
        None => {
            let body = json!({"metadata": {"name": node}, "spec": {"holderIdentity": node, "renewTime": at}});
            w.create(LEASE, LEASES, body).await;
        }
    }
}

fn ready(w: &World, kind: KindId, namespace: &str, name: &str) -> String {
    text(ready_condition(&w.get(kind, namespace, name).value).unwrap(), "/status").to_owned()
}

fn taints(w: &World, node: &str) -> Vec<String> {
    let node = w.get(NODE, "", node);
    list(&node.value, "/spec/taints")
        .iter()
        .map(|t| format!("{}:{}", text(t, "/key"), text(t, "/effect")))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_marked_and_its_pods_leave_in_their_time() {
    let w = world().await;
    node(&w, "dead").await;
    node(&w, "alive").await;
    let seconds = |n: i64| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": n}]);
    pod(&w, "plain", "dead", json!([])).await;
    pod(&w, "hasty", "dead", seconds(20)).await;
    pod(&w, "faithful", "dead", json!([{"operator": "Exists"}])).await;
    pod(&w, "elsewhere", "alive", json!([])).await;
    beat_once(&w, "dead").await;
    beat(&w, "alive", 30).await;
    assert_eq!(
        (ready(&w, NODE, "", "dead"), ready(&w, POD, "default", "plain")),
        ("True".into(), "True".into())
    );
    beat(&w, "alive", 20).await;
    let condition = ready_condition(&w.get(NODE, "", "dead").value).unwrap().clone();
    assert_eq!((text(&condition, "/status"), text(&condition, "/reason")), ("Unknown", "NodeStatusUnknown"));
    assert_eq!(text(&condition, "/lastHeartbeatTime"), "2026-01-01T00:00:00Z");
    assert_eq!(
        taints(&w, "dead"),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    for name in ["plain", "hasty", "faithful"] {
        assert_eq!(ready(&w, POD, "default", name), "False");
    }
    assert_eq!((ready(&w, POD, "default", "elsewhere"), taints(&w, "alive").len()), ("True".into(), 0));
    beat(&w, "alive", 20).await;
    assert!(w.find(POD, "default", "hasty").is_none() && w.find(POD, "default", "plain").is_some());
    beat(&w, "alive", 260).await;
    assert!(w.find(POD, "default", "plain").is_some());
    beat(&w, "alive", 30).await;
    assert!(w.find(POD, "default", "plain").is_none());
    assert!(w.find(POD, "default", "faithful").is_some() && w.find(POD, "default", "elsewhere").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_loses_its_marks_and_keeps_its_pods() {
    let w = world().await;
    let n = node(&w, "n").await;
    node(&w, "other").await;
    pod(&w, "p", "n", json!([])).await;
    beat(&w, "other", 60).await;
    assert_eq!((ready(&w, NODE, "", "n"), taints(&w, "n").len()), ("Unknown".into(), 2));
    for _ in 0..60 {
        beat_once(&w, "n").await;
        beat(&w, "other", 10).await;
    }
    assert!(w.find(POD, "default", "p").is_some(), "it beats again");
    assert_eq!(ready(&w, NODE, "", "n"), "Unknown", "only the node itself says that it is ready");
    w.change(&n, Part::Status, |o| o["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]))
        .await;
    beat_once(&w, "n").await;
    w.settle().await;
    assert_eq!((ready(&w, NODE, "", "n"), taints(&w, "n").len()), ("True".into(), 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_start_nobody_is_dead_for_a_while_and_dead_ones_stay_so() {
    let mut w = World::new().await;
    let dead = node(&w, "was-dead").await;
    w.change(&dead, Part::Status, |o| o["status"]["conditions"][0]["status"] = "Unknown".into()).await;
    node(&w, "n").await;
    beat_once(&w, "n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    w.start(Nodes::new(w.api.clone(), LIFE));
    tokio::time::sleep(Duration::from_secs(39)).await;
    assert_eq!(
        (ready(&w, NODE, "", "n"), ready(&w, NODE, "", "was-dead")),
        ("True".into(), "Unknown".into())
    );
    assert_eq!(taints(&w, "was-dead").len(), 2);
    beat(&w, "n", 60).await;
    assert_eq!(ready(&w, NODE, "", "n"), "True");
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert_eq!(ready(&w, NODE, "", "n"), "Unknown");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_slept_forgives_the_pause() {
    let w = world().await;
    node(&w, "n").await;
    beat(&w, "n", 30).await;
    // All timers are late, as after a suspended machine.
    tokio::time::advance(Duration::from_secs(600)).await;
    w.settle().await;
    assert_eq!(ready(&w, NODE, "", "n"), "True");
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert_eq!(ready(&w, NODE, "", "n"), "Unknown");
}

#[tokio::test(start_paused = true)]
async fn when_no_node_is_heard_nobody_is_evicted() {
    let w = world().await;
    for name in ["a", "b"] {
        node(&w, name).await;
        pod(&w, &format!("on-{name}"), name, json!([])).await;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        (ready(&w, NODE, "", "a"), ready(&w, POD, "default", "on-a")),
        ("Unknown".into(), "False".into())
    );
    assert!(w.find(POD, "default", "on-a").is_some());
    beat(&w, "b", 120).await;
    assert!(w.find(POD, "default", "on-a").is_none(), "one is heard again, the other is dead");
    assert!(w.find(POD, "default", "on-b").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_says_so_and_keeps_its_pods() {
    let w = world().await;
    let n = node(&w, "n").await;
    pod(&w, "p", "n", json!([])).await;
    w.change(&n, Part::Status, |o| o["status"]["conditions"][0]["status"] = "False".into()).await;
    beat(&w, "n", 600).await;
    assert_eq!(
        taints(&w, "n"),
        ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"]
    );
    assert_eq!(ready(&w, POD, "default", "p"), "True");
}

#[tokio::test(start_paused = true)]
async fn pods_of_nodes_that_do_not_exist_go() {
    let w = world().await;
    let n = node(&w, "n").await;
    pod(&w, "early", "coming", json!([])).await;
    pod(&w, "late", "n", json!([])).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    node(&w, "coming").await;
    w.api.delete(&n).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(w.find(POD, "default", "late").is_some());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(w.find(POD, "default", "late").is_none() && w.find(POD, "default", "early").is_some());
    let before = w.cache().revision();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(w.cache().revision() <= before + 10, "at rest nothing is written");
}
