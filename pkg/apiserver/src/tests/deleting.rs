use serde_json::{Value, json};

use super::harness::{TestServer, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// A kind of which no controller makes any.
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test]
async fn a_pod_on_a_node_goes_when_the_node_says_so() {
    let s = TestServer::start().await;
    s.create(PODS, pod("bound", "n1", "x")).await;
    let path = format!("{PODS}/bound");
    let marked = s.ask("DELETE", &path, Value::Null).await;
    assert_eq!(marked.code, 200);
    let metadata = &marked.body["metadata"];
    assert_eq!(metadata["deletionGracePeriodSeconds"], 30);
    assert!(metadata["deletionTimestamp"].as_str() > metadata["creationTimestamp"].as_str(), "{metadata}");
    // Its node goes on writing its status; that does not end it.
    let status = s
        .patch(
            &format!("{path}/status"),
            "application/merge-patch+json",
            json!({"status": {"phase": "Running"}}),
        )
        .await;
    assert_eq!(status.code, 200);
    assert_eq!(s.get(&path).await["metadata"]["deletionTimestamp"], metadata["deletionTimestamp"]);
    let late =
        s.patch(&path, "application/merge-patch+json", json!({"metadata": {"finalizers": ["a/b"]}})).await;
    assert_eq!(late.code, 422, "{}", late.body);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    assert_eq!(s.ask("DELETE", &path, wrong).await.code, 409);
    assert_eq!(s.ask("DELETE", &path, json!({"gracePeriodSeconds": 0})).await.code, 200);
    assert_eq!(s.ask("GET", &path, Value::Null).await.code, 404);

    let free = json!({"metadata": {"name": "free"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    s.create(PODS, free).await;
    s.ask("DELETE", &format!("{PODS}/free"), Value::Null).await;
    assert_eq!(s.ask("GET", &format!("{PODS}/free"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn policies_and_dry_runs() {
    let s = TestServer::start().await;
    for name in ["f", "o", "b"] {
        s.create(MAPS, json!({"metadata": {"name": name}})).await;
    }
    let ask = async |name: &str, options: Value| s.ask("DELETE", &format!("{MAPS}/{name}"), options).await;
    assert_eq!(ask("f", json!({"propagationPolicy": "Nonsense"})).await.code, 422);
    assert_eq!(ask("f", json!({"dryRun": ["All"], "propagationPolicy": "Foreground"})).await.code, 200);
    assert!(s.get(&format!("{MAPS}/f")).await["metadata"].get("deletionTimestamp").is_none());
    let held = ask("f", json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(held.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let held = s.ask("DELETE", &format!("{MAPS}/o?propagationPolicy=Orphan"), Value::Null).await;
    assert_eq!(held.body["metadata"]["finalizers"], json!(["orphan"]));
    ask("b", json!({"propagationPolicy": "Background"})).await;
    assert_eq!(s.ask("GET", &format!("{MAPS}/b"), Value::Null).await.code, 404);
}

#[tokio::test]
async fn versions_of_lists_and_reads() {
    let s = TestServer::start().await;
    let tell = async |path: &str| {
        let a = s.ask("GET", path, Value::Null).await;
        (a.code, a.body["message"].as_str().unwrap_or_default().to_owned())
    };
    for i in 0..3 {
        s.create(SECRETS, json!({"metadata": {"name": format!("m{i}")}})).await;
    }
    let page = s.get(&format!("{SECRETS}?limit=1")).await;
    let at = page["metadata"]["resourceVersion"].as_str().unwrap();
    let token = page["metadata"]["continue"].as_str().unwrap();
    s.create(SECRETS, json!({"metadata": {"name": "later"}})).await;
    let exact = s.get(&format!("{SECRETS}?resourceVersion={at}&resourceVersionMatch=Exact")).await;
    assert_eq!(
        (exact["items"].as_array().unwrap().len(), &exact["metadata"]["resourceVersion"]),
        (3, &json!(at))
    );
    assert_eq!(tell(&format!("{SECRETS}?resourceVersion=2&resourceVersionMatch=Exact")).await.0, 410);
    assert_eq!(tell(&format!("{SECRETS}?resourceVersionMatch=Exact")).await.0, 422);
    assert_eq!(tell(&format!("{SECRETS}?resourceVersion=1&resourceVersionMatch=Nonsense")).await.0, 422);
    assert_eq!(tell(&format!("{SECRETS}?continue={token}&resourceVersion=1")).await.0, 400);
    assert_eq!(
        tell(&format!("{SECRETS}?continue={token}&resourceVersionMatch=Exact&resourceVersion=1")).await.0,
        422
    );
    assert_eq!(
        tell(&format!("{SECRETS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan")).await.0,
        422
    );
    assert_eq!(tell(&format!("{SECRETS}?watch=1&sendInitialEvents=true")).await.0, 422);
    assert_eq!(
        tell(&format!("{SECRETS}?watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1")).await.0,
        422
    );
    assert_eq!(tell(&format!("{SECRETS}/m0?resourceVersion=99999")).await.0, 504);
    assert_eq!(tell(&format!("{SECRETS}/m0?resourceVersion=0")).await.0, 200);
}

#[tokio::test]
async fn documents_for_clients() {
    let s = TestServer::start().await;
    let index = s.get("/openapi/v3").await;
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let core = s.get(url).await;
    assert_eq!(core["openapi"], "3.0.0");
    assert!(core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"].is_object());
    let v2 = s.get("/openapi/v2").await;
    assert_eq!(v2["definitions"]["io.k8s.api.core.v1.Pod"]["type"], "object");
    let accept = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let old = super::harness::request(&s.client, "GET", "/openapi/v2", &accept, Value::Null).await;
    assert_eq!(old.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let tag = old.headers["etag"].to_str().unwrap().to_owned();
    let known = [accept[0], ("if-none-match", tag.as_str())];
    assert_eq!(super::harness::request(&s.client, "GET", "/openapi/v2", &known, Value::Null).await.code, 304);
    let ready = s.get("/readyz?verbose").await;
    assert!(ready.as_str().unwrap().ends_with("readyz check passed\n"), "{ready}");
    let review = json!({"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "default"}}});
    let may = s.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await;
    assert_eq!((may.code, &may.body["status"]["allowed"]), (201, &json!(true)));
}
