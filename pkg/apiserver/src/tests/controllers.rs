//! The controllers as clients see them.

use serde_json::{Value, json};
use std::time::Duration;

use super::harness::{TestServer, pod};
use crate::NodeLife;

const MERGE: &str = "application/merge-patch+json";

#[tokio::test]
async fn a_namespace_that_ends_takes_nothing_new_and_waits_for_finalizers() {
    let s = TestServer::start().await;
    s.create("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await;
    let maps = "/api/v1/namespaces/a/configmaps";
    s.until(&format!("{maps}/kube-root-ca.crt"), |a| a.body["data"]["ca.crt"] == s.ca_pem.as_str()).await;
    s.create(maps, json!({"metadata": {"name": "held", "finalizers": ["example.com/x"]}})).await;
    s.create(maps, json!({"metadata": {"name": "free"}})).await;
    assert_eq!(s.ask("DELETE", "/api/v1/namespaces/a", Value::Null).await.code, 200);
    let late = s.ask("POST", maps, json!({"metadata": {"name": "late"}})).await;
    assert_eq!((late.code, &late.body["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        late.body["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace a is being terminated", "field": "metadata.namespace"}])
    );
    assert_eq!(
        late.body["message"],
        "configmaps \"late\" is forbidden: unable to create new content in namespace a because it is being terminated"
    );
    s.until(&format!("{maps}/free"), |a| a.code == 404).await;
    s.until("/api/v1/namespaces/a", |a| {
        let conditions = a.body["status"]["conditions"].as_array();
        conditions.is_some_and(|c| {
            c.iter().any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
        })
    })
    .await;
    s.patch(&format!("{maps}/held"), MERGE, json!({"metadata": {"finalizers": null}})).await;
    s.until("/api/v1/namespaces/a", |a| a.code == 404).await;
    // A new one of the same name begins empty.
    s.create("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await;
    assert_eq!(s.ask("GET", &format!("{maps}/held"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn only_finalize_writes_the_finalizers_of_a_namespace() {
    let s = TestServer::start().await;
    let path = "/api/v1/namespaces/b";
    let finalize = format!("{path}/finalize");
    let made = s
        .create(
            "/api/v1/namespaces",
            json!({"metadata": {"name": "b"}, "spec": {"finalizers": ["kubernetes", "example.com/mine"]}}),
        )
        .await;
    let patched = s.patch(path, MERGE, json!({"spec": {"finalizers": []}})).await;
    assert_eq!(patched.body["spec"]["finalizers"], made["spec"]["finalizers"]);
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(s.ask(method, &finalize, json!({})).await.code, 405, "{method}");
    }
    s.ask("DELETE", path, Value::Null).await;
    let held = s.until(path, |a| a.body["spec"]["finalizers"] == json!(["example.com/mine"])).await;
    let mut last = held.body;
    last["spec"]["finalizers"] = json!([]);
    // The conditions may have been written meanwhile.
    last["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(s.ask("PUT", &finalize, last).await.code, 200);
    assert_eq!(s.ask("GET", path, Value::Null).await.code, 404);
}

#[tokio::test]
async fn a_silent_node_is_marked_within_the_configured_time() {
    let life = NodeLife { grace: Duration::from_millis(300), eviction: Duration::from_millis(300) };
    let directory = tempfile::tempdir().unwrap();
    let s = TestServer::start_with(directory, |c| c.node_life = life).await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    s.create("/api/v1/namespaces/default/pods", pod("p", "n1", "web")).await;
    let unreachable = |v: &Value| {
        let taints = v["spec"]["taints"].as_array();
        taints.is_some_and(|t| {
            t.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == "NoExecute")
        })
    };
    let node = s.until("/api/v1/nodes/n1", |a| unreachable(&a.body)).await.body;
    let condition = &node["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("Unknown"), &json!("NodeStatusNeverUpdated"))
    );
    // No node at all is heard, so its pods stay until another one is.
    assert_eq!(s.ask("GET", "/api/v1/namespaces/default/pods/p", Value::Null).await.code, 200);
}

#[tokio::test]
async fn services_get_slices_and_endpoints() {
    let s = TestServer::start().await;
    let services = "/api/v1/namespaces/default/services";
    s.create(
        services,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080}]}}),
    )
    .await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    s.create(pods, pod("p", "n1", "web")).await;
    let status = json!({"status": {"phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(s.patch(&format!("{pods}/p/status"), MERGE, status).await.code, 200);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3Dweb";
    let has = |list: &Value| {
        let items = list["items"].as_array();
        items.is_some_and(|i| i.iter().any(|s| s["endpoints"][0]["addresses"][0] == "10.42.0.5"))
    };
    s.until(slices, |a| has(&a.body)).await;
    s.until("/api/v1/namespaces/default/endpoints/web", |a| {
        a.body["subsets"][0]["addresses"][0]["ip"] == "10.42.0.5"
    })
    .await;
    s.ask("DELETE", &format!("{services}/web"), Value::Null).await;
    s.until(slices, |a| a.body["items"].as_array().is_some_and(Vec::is_empty)).await;
    s.until("/api/v1/namespaces/default/endpoints/web", |a| a.code == 404).await;
}
