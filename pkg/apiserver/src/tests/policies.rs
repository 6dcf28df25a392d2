//! Namespaces and NetworkPolicies as an agent needs them.

use serde_json::{Value, json};

use super::harness::{TestServer, pod};
use super::watches::Watching;

const MERGE: &str = "application/merge-patch+json";
const SHOP: &str = "/api/v1/namespaces/shop";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";

async fn shop() -> TestServer {
    let s = TestServer::start().await;
    s.create("/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    s
}

#[tokio::test]
async fn a_namespace_always_has_its_name_as_a_label() {
    let s = TestServer::start().await;
    let false_name = json!({"kubernetes.io/metadata.name": "kube-system", "team": "a"});
    let own = json!({"kubernetes.io/metadata.name": "shop", "team": "a"});
    let made =
        s.create("/api/v1/namespaces", json!({"metadata": {"name": "shop", "labels": false_name}})).await;
    assert_eq!(made["metadata"]["labels"], own);
    for labels in [
        json!({"kubernetes.io/metadata.name": null}),
        json!({"kubernetes.io/metadata.name": "other"}),
        Value::Null,
    ] {
        let patch = json!({"metadata": {"labels": labels}});
        let patched = s.patch(SHOP, MERGE, patch).await;
        assert_eq!(
            (patched.code, &patched.body["metadata"]["labels"]["kubernetes.io/metadata.name"]),
            (200, &json!("shop"))
        );
    }
    let by_label = "/api/v1/namespaces?labelSelector=kubernetes.io%2Fmetadata.name%3Dshop";
    assert_eq!(s.get(by_label).await["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        s.get("/api/v1/namespaces/default").await["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "default"
    );
}

#[tokio::test]
async fn policies_are_listed_watched_and_judged() {
    let s = shop().await;
    let everywhere = "/apis/networking.k8s.io/v1/networkpolicies";
    let mut watch = Watching::open(&s, &format!("{everywhere}?watch=1"), "application/json").await;
    let from = |peer: Value| json!({"spec": {"podSelector": {}, "ingress": [{"from": [peer]}]}});
    let mut wanted = from(json!({"podSelector": {}}));
    wanted["metadata"] = json!({"name": "web.v1"});
    let made = s.create(POLICIES, wanted).await;
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress"]));
    let path = format!("{POLICIES}/web.v1");
    for (peer, field) in [
        (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), "spec.ingress[0].from[0].ipBlock.cidr"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
            "spec.ingress[0].from[0].ipBlock.except[0]",
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}),
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
        ),
        (
            json!({"podSelector": {"matchLabels": {"a": "b c"}}}),
            "spec.ingress[0].from[0].podSelector.matchLabels",
        ),
        (json!({}), "spec.ingress[0].from[0]"),
    ] {
        let refused = s.patch(&path, MERGE, from(peer)).await;
        assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{field}");
        assert_eq!(refused.body["details"]["causes"][0]["field"], field);
    }
    // Neither is what cannot be of the type.
    for bad in [json!({"from": "everyone"}), json!({"ports": [{"port": {"a": 1}}]})] {
        let refused = s.patch(&path, MERGE, json!({"spec": {"ingress": [bad]}})).await;
        assert!((400..500).contains(&refused.code), "{}", refused.body);
    }
    assert_eq!(s.patch(&path, MERGE, from(json!({"namespaceSelector": {}}))).await.code, 200);
    assert_eq!(s.get(everywhere).await["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(s.ask("DELETE", &path, Value::Null).await.code, 200);
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let event = watch.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!("web.v1")));
    }
}

#[tokio::test]
async fn policies_outlive_the_pods_of_a_namespace_that_ends() {
    let s = shop().await;
    let mut held = pod("web", "n1", "web");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    s.create(&format!("{SHOP}/pods"), held).await;
    s.create(POLICIES, json!({"metadata": {"name": "deny"}})).await;
    let mut watch =
        Watching::open(&s, "/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dshop", "*/*").await;
    watch.next().await.unwrap();
    assert_eq!(s.ask("DELETE", SHOP, Value::Null).await.code, 200);
    let ends = watch.next().await.unwrap();
    assert_eq!(
        (&ends["type"], &ends["object"]["status"]["phase"]),
        (&json!("MODIFIED"), &json!("Terminating"))
    );
    assert!(ends["object"]["metadata"]["deletionTimestamp"].is_string());
    // The pod is being deleted, and what guards it stays as long as it does.
    s.until(&format!("{SHOP}/pods/web"), |a| a.body["metadata"]["deletionTimestamp"].is_string()).await;
    let told = |a: &super::harness::Answer| a.body["status"]["conditions"].is_array();
    s.until(SHOP, told).await;
    assert_eq!(s.get(&format!("{POLICIES}/deny")).await["metadata"]["deletionTimestamp"], Value::Null);
    let free = s.patch(&format!("{SHOP}/pods/web"), MERGE, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(free.code, 200, "{}", free.body);
    assert_eq!(
        s.ask("DELETE", &format!("{SHOP}/pods/web"), json!({"gracePeriodSeconds": 0})).await.code,
        200
    );
    s.until(&format!("{POLICIES}/deny"), |a| a.code == 404).await;
    s.until(SHOP, |a| a.code == 404).await;
}
