//! The Gateway API, and what a node may do with it.

use serde_json::{Value, json};

use super::harness::{Answer, TestServer, request};
use super::ingresses::node;

const API: &str = "/apis/gateway.networking.k8s.io/v1";
const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1beta1/namespaces/vault/referencegrants";
const MERGE: &str = "application/merge-patch+json";

fn in_default(plural: &str) -> String {
    format!("{API}/namespaces/default/{plural}")
}

fn class(name: &str, controller: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"controllerName": controller}})
}

fn gateway(name: &str, class: &str, secret: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"gatewayClassName": class, "listeners": [
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [secret]}}]}})
}

fn route(name: &str, gateway: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"parentRefs": [{"name": gateway}]}})
}

#[tokio::test]
async fn a_group_of_two_versions_is_one_group() {
    let s = TestServer::start().await;
    let groups = s.get("/apis").await;
    let ours: Vec<&Value> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|g| g["name"] == "gateway.networking.k8s.io")
        .collect();
    assert_eq!(ours.len(), 1);
    let versions: Vec<&Value> =
        ours[0]["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(
        (versions, &ours[0]["preferredVersion"]["version"]),
        (vec![&json!("v1"), &json!("v1beta1")], &json!("v1"))
    );
    assert_eq!(s.get("/apis/gateway.networking.k8s.io").await["versions"], ours[0]["versions"]);
    let grants = s.get("/apis/gateway.networking.k8s.io/v1beta1").await;
    assert_eq!(grants["resources"][0]["name"], "referencegrants");
    let schemas =
        s.get("/openapi/v3/apis/gateway.networking.k8s.io/v1").await["components"]["schemas"].clone();
    let rules = &schemas["io.k8s.api.gateway.v1.HTTPRouteSpec"]["properties"]["rules"];
    assert_eq!(rules["items"]["$ref"], "#/components/schemas/io.k8s.api.gateway.v1.HTTPRouteRule");
}

#[tokio::test]
async fn the_status_is_another_part_and_the_generation_counts_the_spec() {
    let s = TestServer::start().await;
    s.create(&format!("{API}/gatewayclasses"), class("warren", "warren.dev/gateway-controller")).await;
    let mut given = gateway("gw", "warren", json!({"name": "tls"}));
    given["status"] = json!({"conditions": []});
    let made = s.create(&in_default("gateways"), given).await;
    assert_eq!(made["status"]["conditions"][1]["type"], "Programmed");
    assert_eq!(
        (&made["status"]["conditions"][0]["status"], &made["metadata"]["generation"]),
        (&json!("Unknown"), &json!(1))
    );
    let path = format!("{}/gw", in_default("gateways"));
    let condition = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
    let body = json!({"status": {"conditions": [condition]}, "spec": {"gatewayClassName": "x"}});
    let told = s.patch(&format!("{path}/status"), MERGE, body).await;
    assert_eq!((told.code, &told.body["metadata"]["generation"]), (200, &json!(1)));
    assert_eq!(told.body["spec"]["gatewayClassName"], "warren");
    let bad = json!({"status": {"conditions": [{"type": "Accepted", "status": "Maybe"}]}});
    assert_eq!(s.patch(&format!("{path}/status"), MERGE, bad).await.code, 422);
    let changed = s.patch(&path, MERGE, json!({"spec": {"gatewayClassName": "x"}})).await;
    assert_eq!((changed.code, &changed.body["metadata"]["generation"]), (200, &json!(2)));
    assert_eq!(changed.body["status"]["conditions"][0], condition);
    let class = format!("{API}/gatewayclasses/warren");
    let other = s.patch(&class, MERGE, json!({"spec": {"controllerName": "a.b/c"}})).await;
    assert_eq!(other.code, 422, "immutable");
}

#[tokio::test]
async fn a_node_says_what_has_become_of_warrens_own() {
    let s = TestServer::start().await;
    let node = node(&s).await;
    let ask = async |path: &str, body: &Value| -> Answer {
        request(&node, "PATCH", path, &[("content-type", MERGE)], body.clone()).await
    };
    s.create(&format!("{API}/gatewayclasses"), class("warren", "warren.dev/gateway-controller")).await;
    s.create(&format!("{API}/gatewayclasses"), class("other", "a.example/b")).await;
    for (name, class) in [("ours", "warren"), ("theirs", "other")] {
        s.create(&in_default("gateways"), gateway(name, class, json!({"name": "tls"}))).await;
        s.create(&in_default("httproutes"), route(name, name)).await;
        s.create(&in_default("grpcroutes"), route(name, name)).await;
    }
    let nothing = json!({"status": {"conditions": []}});
    let parent = |controller: &str| {
        json!({"parentRef": {"name": "ours", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
            "controllerName": controller, "conditions": []})
    };
    let parents = json!({"status": {"parents": [parent("warren.dev/gateway-controller")]}});
    for (path, body, code) in [
        (format!("{API}/gatewayclasses/warren/status"), &nothing, 200),
        (format!("{API}/gatewayclasses/other/status"), &nothing, 403),
        (format!("{API}/gatewayclasses/warren"), &nothing, 403),
        (format!("{}/ours/status", in_default("gateways")), &nothing, 200),
        (format!("{}/theirs/status", in_default("gateways")), &nothing, 403),
        (format!("{}/ours/status", in_default("httproutes")), &parents, 200),
        (format!("{}/theirs/status", in_default("httproutes")), &parents, 403),
        (format!("{}/ours/status", in_default("grpcroutes")), &parents, 200),
        (format!("{}/ours", in_default("grpcroutes")), &parents, 403),
    ] {
        let answer = ask(&path, body).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.body);
    }
    // What another controller says is not a node's to change.
    let path = format!("{}/ours/status", in_default("httproutes"));
    let both =
        json!({"status": {"parents": [parent("a.example/b"), parent("warren.dev/gateway-controller")]}});
    assert_eq!(ask(&path, &both).await.code, 403);
    assert_eq!(s.patch(&path, MERGE, both.clone()).await.code, 200);
    assert_eq!(ask(&path, &parents).await.code, 403);
    assert_eq!(ask(&path, &both).await.code, 200);
    let mut old = both;
    old["metadata"] = json!({"resourceVersion": "1"});
    assert_eq!(ask(&path, &old).await.code, 409, "made from another state");
}

#[tokio::test]
async fn a_node_reads_the_secrets_that_listeners_name_and_may() {
    let s = TestServer::start().await;
    let node = node(&s).await;
    let code = async |namespace: &str, name: &str| {
        let path = format!("/api/v1/namespaces/{namespace}/secrets?fieldSelector=metadata.name%3D{name}");
        request(&node, "GET", &path, &[], Value::Null).await.code
    };
    s.create("/api/v1/namespaces", json!({"metadata": {"name": "vault"}})).await;
    s.create(&format!("{API}/gatewayclasses"), class("warren", "warren.dev/gateway-controller")).await;
    s.create(&format!("{API}/gatewayclasses"), class("other", "a.example/b")).await;
    let gateways = in_default("gateways");
    s.create(&gateways, gateway("own", "warren", json!({"name": "own"}))).await;
    s.create(&gateways, gateway("far", "warren", json!({"name": "far", "namespace": "vault"}))).await;
    s.create(&gateways, gateway("theirs", "other", json!({"name": "theirs"}))).await;
    for (namespace, name, expected) in
        [("default", "own", 200), ("vault", "own", 403), ("vault", "far", 403), ("default", "theirs", 403)]
    {
        assert_eq!(code(namespace, name).await, expected, "{namespace}/{name}");
    }
    let grant = json!({"metadata": {"name": "g"}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "default"}],
        "to": [{"group": "", "kind": "Secret", "name": "far"}]}});
    s.create(GRANTS, grant).await;
    assert_eq!(code("vault", "far").await, 200);
    assert_eq!(s.ask("DELETE", &format!("{GRANTS}/g"), Value::Null).await.code, 200);
    assert_eq!(code("vault", "far").await, 403, "with the grant goes the right");
    assert_eq!(s.ask("DELETE", &format!("{gateways}/own"), Value::Null).await.code, 200);
    assert_eq!(code("default", "own").await, 403, "with the Gateway goes the right");
}
