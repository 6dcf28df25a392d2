use serde_json::{Value, json};

use super::harness::{TestServer, pod, request};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn first_objects_and_the_life_of_a_config_map() {
    let s = TestServer::start().await;
    let namespaces = s.get("/api/v1/namespaces").await;
    assert_eq!(names(&namespaces), ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let cluster = s.get("/api/v1/namespaces/kube-system/configmaps/warren-cluster").await;
    let config: warren_types::ClusterConfig =
        serde_json::from_str(cluster["data"]["config.json"].as_str().unwrap()).unwrap();
    assert_eq!(config.cluster_cidrs.len(), 2);

    let made = s.create(MAPS, json!({"metadata": {"name": "c"}, "data": {"a": "1"}, "nonsense": 1})).await;
    assert_eq!((made["kind"].as_str(), made["apiVersion"].as_str()), (Some("ConfigMap"), Some("v1")));
    assert!(made.get("nonsense").is_none());
    let path = format!("{MAPS}/c");
    assert_eq!(s.get(&path).await, made);
    let again = s.ask("POST", MAPS, json!({"metadata": {"name": "c"}})).await;
    assert_eq!((again.code, again.body["reason"].as_str()), (409, Some("AlreadyExists")));

    let mut new = made.clone();
    new["data"]["a"] = "2".into();
    let updated = s.ask("PUT", &path, new.clone()).await;
    assert_eq!(updated.code, 200, "{}", updated.body);
    assert_ne!(updated.body["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = s.ask("PUT", &path, new).await;
    assert_eq!((stale.code, stale.body["reason"].as_str()), (409, Some("Conflict")));
    let same = s.ask("PUT", &path, updated.body.clone()).await;
    assert_eq!(same.body, updated.body, "a write that changes nothing keeps its version");

    let wrong = s
        .ask(
            "DELETE",
            &path,
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "x"}}),
        )
        .await;
    assert_eq!(wrong.code, 409);
    let gone = s.ask("DELETE", &path, Value::Null).await;
    assert_eq!((gone.code, gone.body["status"].as_str()), (200, Some("Success")));
    let missing = s.ask("GET", &path, Value::Null).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.body["message"], "configmaps \"c\" not found");
    assert_eq!(missing.body["details"], json!({"name": "c", "kind": "configmaps"}));
}

#[tokio::test]
async fn faults_are_told_as_kubernetes_does() {
    let s = TestServer::start().await;
    let tell = async |method: &str, path: &str, body: Value| {
        let a = s.ask(method, path, body).await;
        assert_eq!(a.body["kind"], "Status", "{}", a.body);
        (a.code, a.body["reason"].as_str().unwrap_or_default().to_owned())
    };
    let is = |code, reason: &str| (code, reason.to_owned());
    assert_eq!(tell("POST", MAPS, json!({"metadata": {"name": "UP"}})).await, is(422, "Invalid"));
    assert_eq!(tell("POST", MAPS, json!({"metadata": {}})).await, is(422, "Invalid"));
    assert_eq!(tell("POST", MAPS, json!("not an object")).await, is(400, "BadRequest"));
    assert_eq!(tell("POST", MAPS, json!("{".repeat(9000))).await, is(400, "BadRequest"));
    assert_eq!(
        tell("POST", MAPS, json!({"kind": "Pod", "metadata": {"name": "a"}})).await,
        is(400, "BadRequest")
    );
    assert_eq!(
        tell("POST", MAPS, json!({"metadata": {"name": "a", "namespace": "other"}})).await,
        is(400, "BadRequest")
    );
    assert_eq!(
        tell("POST", "/api/v1/namespaces/none/configmaps", json!({"metadata": {"name": "a"}})).await,
        is(404, "NotFound")
    );
    assert_eq!(
        tell("POST", MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(4 << 20)}})).await,
        is(413, "RequestEntityTooLarge")
    );
    assert_eq!(
        tell("POST", MAPS, json!({"metadata": {"name": "a"}, "data": {"a": "x".repeat(2 << 20)}})).await,
        is(422, "Invalid")
    );
    assert_eq!(tell("GET", "/api/v1/things", Value::Null).await, is(404, "NotFound"));
    assert_eq!(tell("PUT", MAPS, json!({})).await, is(405, "MethodNotAllowed"));
    assert_eq!(
        tell("GET", "/api/v1/pods?fieldSelector=spec.x%3D1", Value::Null).await,
        is(400, "BadRequest")
    );
    assert_eq!(tell("GET", "/api/v1/pods?resourceVersion=99999999", Value::Null).await, is(504, "Timeout"));
    assert_eq!(tell("DELETE", "/api/v1/namespaces/kube-system", Value::Null).await, is(403, "Forbidden"));
    assert_eq!(
        tell(
            "POST",
            &format!("{MAPS}?fieldValidation=Strict"),
            json!({"metadata": {"name": "a"}, "dat": {}, "x": 1})
        )
        .await,
        is(400, "BadRequest")
    );
    let apply = s.patch(&format!("{MAPS}/a"), "application/apply-patch+yaml", json!({})).await;
    assert_eq!(apply.code, 400, "an apply needs a fieldManager");
    assert_eq!(s.patch(&format!("{MAPS}/a"), "application/x", json!({})).await.code, 415);
    let warned = s.ask("POST", MAPS, json!({"metadata": {"name": "w"}, "x": 1})).await;
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"x\"""#);
    let twice = json!(r#"{"metadata": {"name": "t"}, "data": {"a": "1", "a": "2"}}"#);
    let strict = s.ask("POST", &format!("{MAPS}?fieldValidation=Strict"), twice.clone()).await;
    assert!(
        strict.body["message"]
            .as_str()
            .unwrap()
            .contains(r#"strict decoding error: duplicate field "data.a""#),
        "{}",
        strict.body
    );
    let warned = s.ask("POST", MAPS, twice).await;
    assert_eq!(warned.headers["warning"], r#"299 - "duplicate field \"data.a\"""#);
    let invalid = s.ask("POST", PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": []}})).await;
    assert_eq!(invalid.body["message"], "Pod \"p\" is invalid: spec.containers: Required value");
    assert_eq!(invalid.body["details"]["causes"][0]["field"], "spec.containers");
}

#[tokio::test]
async fn status_is_written_apart_and_the_spec_is_kept() {
    let s = TestServer::start().await;
    let made = s.create(PODS, pod("p", "n1", "web")).await;
    assert_eq!(
        (&made["status"]["phase"], &made["spec"]["restartPolicy"]),
        (&json!("Pending"), &json!("Always"))
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let (path, status) = (format!("{PODS}/p"), format!("{PODS}/p/status"));
    let r = s.patch(&status, MERGE, json!({"metadata": {"labels": {"x": "y"}}, "spec": {"nodeName": "n2"}, "status": {"phase": "Running", "podIP": "10.42.0.5", "podIPs": [{"ip": "10.42.0.5"}]}})).await;
    assert_eq!(r.code, 200, "{}", r.body);
    assert_eq!(
        (&r.body["status"]["phase"], &r.body["spec"]["nodeName"], &r.body["metadata"]["labels"]),
        (&json!("Running"), &json!("n1"), &json!({"app": "web"}))
    );
    let r = s
        .patch(&path, MERGE, json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Failed"}}))
        .await;
    assert_eq!(
        (&r.body["status"]["phase"], &r.body["metadata"]["labels"]["x"]),
        (&json!("Running"), &json!("y"))
    );
    let r = s.patch(&path, MERGE, json!({"spec": {"nodeName": "n2"}})).await;
    assert_eq!(r.code, 422, "{}", r.body);
    let r = s.patch(&status, MERGE, json!({"status": {"podIPs": [{"ip": "nonsense"}]}})).await;
    assert_eq!(r.code, 422, "{}", r.body);
    let r = s
        .patch(
            &path,
            "application/strategic-merge-patch+json",
            json!({"spec": {"containers": [{"name": "main", "image": "new:1"}]}}),
        )
        .await;
    assert_eq!(
        (&r.body["spec"]["containers"][0]["image"], &r.body["metadata"]["generation"]),
        (&json!("new:1"), &json!(2))
    );
    let r = s
        .patch(
            &path,
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]),
        )
        .await;
    assert_eq!(r.body["metadata"]["annotations"]["a"], "b");
    let gone = s.ask("DELETE", &path, Value::Null).await;
    assert_eq!(gone.body["kind"], "Pod");
}

#[tokio::test]
async fn nodes_get_their_own_pod_cidrs() {
    let s = TestServer::start().await;
    let cidrs = |o: &Value| o["spec"]["podCIDRs"].clone();
    let node = |name: &str| json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let n1 = s.create("/api/v1/nodes", node("n1")).await;
    assert_eq!(cidrs(&n1), json!(["10.42.0.0/24", "fd57:4e00:42::/64"]));
    assert_eq!(
        (&n1["spec"]["podCIDR"], &n1["status"]["addresses"][0]["address"]),
        (&json!("10.42.0.0/24"), &json!("192.0.2.1"))
    );
    let n2 = s.create("/api/v1/nodes", node("n2")).await;
    assert_eq!(cidrs(&n2), json!(["10.42.1.0/24", "fd57:4e00:42:1::/64"]));
    let clash = s
        .ask(
            "POST",
            "/api/v1/nodes",
            json!({"metadata": {"name": "n3"}, "spec": {"podCIDR": "10.42.0.0/25"}}),
        )
        .await;
    assert_eq!(clash.code, 403, "{}", clash.body);
    let change = s
        .patch(
            "/api/v1/nodes/n1",
            MERGE,
            json!({"spec": {"podCIDRs": ["10.42.9.0/24"], "podCIDR": "10.42.9.0/24"}}),
        )
        .await;
    assert_eq!(change.code, 422, "{}", change.body);
    s.ask("DELETE", "/api/v1/nodes/n1", Value::Null).await;
    let n3 = s.create("/api/v1/nodes", node("n3")).await;
    assert_eq!(cidrs(&n3), json!(["10.42.2.0/24", "fd57:4e00:42:2::/64"]));
    let s = TestServer::start_in(s.stop().await).await;
    let n4 = s.create("/api/v1/nodes", node("n4")).await;
    assert_eq!(cidrs(&n4), json!(["10.42.3.0/24", "fd57:4e00:42:3::/64"]));
}

#[tokio::test]
async fn selectors_pages_and_collections() {
    let s = TestServer::start().await;
    for i in 0..5 {
        let app = if i % 2 == 0 { "even" } else { "odd" };
        s.create(PODS, pod(&format!("p{i}"), &format!("n{i}"), app)).await;
    }
    s.create("/api/v1/namespaces", json!({"metadata": {"name": "a"}})).await;
    s.create("/api/v1/namespaces/a/pods", pod("p0", "n0", "even")).await;
    assert_eq!(names(&s.get("/api/v1/pods").await).len(), 6);
    assert_eq!(names(&s.get(&format!("{PODS}?labelSelector=app%3Deven")).await), ["p0", "p2", "p4"]);
    assert_eq!(names(&s.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn0").await), ["p0", "p0"]);
    assert_eq!(
        names(&s.get("/api/v1/pods?fieldSelector=metadata.namespace%3Da,status.phase%3DPending").await),
        ["p0"]
    );
    assert_eq!(names(&s.get(&format!("{PODS}?fieldSelector=metadata.name%3Dp3")).await), ["p3"]);

    let first = s.get(&format!("{PODS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["p0", "p1"], &json!(3)));
    s.create(PODS, pod("p2a", "n", "late")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = s.get(&format!("{PODS}?limit=9&continue={token}")).await;
    assert_eq!(names(&rest), ["p2", "p3", "p4"], "the list goes on in the state it began with");
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let bad =
        s.ask("GET", &format!("{PODS}?limit=9&continue=eyJydiI6MSwiYWZ0ZXIiOiJhIn0"), Value::Null).await;
    assert_eq!((bad.code, bad.body["reason"].as_str()), (410, Some("Expired")));

    let generated = s.create(PODS, json!({"metadata": {"generateName": "g-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})).await;
    assert!(generated["metadata"]["name"].as_str().unwrap().starts_with("g-"));
    let dry = s.ask("POST", &format!("{PODS}?dryRun=All"), pod("dry", "n", "x")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(s.ask("GET", &format!("{PODS}/dry"), Value::Null).await.code, 404);

    let deleted = s.ask("DELETE", &format!("{PODS}?labelSelector=app%3Deven"), Value::Null).await;
    assert_eq!(names(&deleted.body), ["p0", "p2", "p4"]);
    let ending = s.ask("DELETE", "/api/v1/namespaces/a", Value::Null).await;
    assert_eq!((ending.code, &ending.body["status"]["phase"]), (200, &json!("Terminating")));
    // As the pod's node does when the pod has ended.
    let pod = "/api/v1/namespaces/a/pods/p0";
    s.until(pod, |a| a.body["metadata"]["deletionTimestamp"].is_string()).await;
    s.ask("DELETE", &format!("{pod}?gracePeriodSeconds=0"), Value::Null).await;
    s.until("/api/v1/namespaces/a", |a| a.code == 404).await;
    assert_eq!(s.ask("GET", pod, Value::Null).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let s = TestServer::start().await;
    s.create(MAPS, json!({"metadata": {"name": "f", "finalizers": ["example.com/x"]}})).await;
    let path = format!("{MAPS}/f");
    let held = s.ask("DELETE", &path, Value::Null).await;
    assert!(held.body["metadata"]["deletionTimestamp"].is_string(), "{}", held.body);
    assert!(s.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    let r = s.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(r.code, 200, "{}", r.body);
    assert_eq!(s.ask("GET", &path, Value::Null).await.code, 404);
}

#[tokio::test]
async fn objects_and_versions_survive_a_restart() {
    let s = TestServer::start().await;
    let made = s.create(MAPS, json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await;
    s.create(MAPS, json!({"metadata": {"name": "d"}})).await;
    s.ask("DELETE", &format!("{MAPS}/d"), Value::Null).await;
    let before = s.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let (ca, token) = (s.ca_pem.clone(), s.token.clone());
    let s = TestServer::start_in(s.stop().await).await;
    assert_eq!((&s.ca_pem, &s.token), (&ca, &token));
    assert_eq!(s.get(&format!("{MAPS}/c")).await, made);
    let after = s.create(MAPS, json!({"metadata": {"name": "e"}})).await;
    assert!(after["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > before);
}

#[tokio::test]
async fn many_writers_at_once_get_versions_of_their_own() {
    let s = TestServer::start().await;
    let writes = (0..64).map(|i| s.create(MAPS, json!({"metadata": {"name": format!("c{i}")}})));
    let made = futures::future::join_all(writes).await;
    let versions: std::collections::BTreeSet<&str> =
        made.iter().map(|o| o["metadata"]["resourceVersion"].as_str().unwrap()).collect();
    assert_eq!(versions.len(), 64);
    s.create(MAPS, json!({"metadata": {"name": "count"}, "data": {}})).await;
    let path = format!("{MAPS}/count");
    let patches = (0..20).map(|i| s.patch(&path, MERGE, json!({"data": {format!("k{i}"): "x"}})));
    for p in futures::future::join_all(patches).await {
        assert_eq!(p.code, 200, "{}", p.body);
    }
    assert_eq!(s.get(&path).await["data"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn tables_for_people() {
    let s = TestServer::start().await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/edge": ""}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": "True"}]}})).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let before = s.get("/api/v1/nodes").await;
    let t = request(&s.client, "GET", "/api/v1/nodes", &accept, Value::Null).await.body;
    let columns: Vec<&str> =
        t["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        columns,
        [
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "Internal-IP",
            "External-IP",
            "OS-Image",
            "Kernel-Version",
            "Container-Runtime"
        ]
    );
    let row = &t["rows"][0];
    assert_eq!(
        row["cells"],
        json!([
            "n1",
            "Ready",
            "edge",
            row["cells"][3],
            "",
            "192.0.2.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ])
    );
    assert_eq!(
        (&row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("PartialObjectMetadata"), &json!("n1"))
    );
    let version =
        |list: &Value| list["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&before) <= version(&t) && version(&t) <= version(&s.get("/api/v1/nodes").await));
}
