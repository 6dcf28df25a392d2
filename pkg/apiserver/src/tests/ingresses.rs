//! Ingresses, their classes, and what a node may do with them and their Secrets.

use serde_json::{Value, json};
use std::time::Duration;

use super::harness::{Answer, TestServer, request};
use super::joining::{client_with, join};

const NET: &str = "/apis/networking.k8s.io/v1";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MERGE: &str = "application/merge-patch+json";

fn ingress(name: &str, more: Value) -> Value {
    let mut spec = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

fn class(name: &str, controller: &str, default: &str) -> Value {
    json!({"metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": default}},
        "spec": {"controller": controller}})
}

pub(super) async fn node(s: &TestServer) -> kube::Client {
    let secret = s.token.expose().rsplit(':').next().unwrap().to_owned();
    let (_, body, key) = join(s, "n1", "0123456789abcdef", &secret).await;
    client_with(s, Some((body["certificate"].as_str().unwrap(), &key))).await
}

/// As the admission plugin `DefaultIngressClass` of Kubernetes is documented.
#[tokio::test]
async fn a_new_ingress_without_a_class_gets_the_default_one() {
    let s = TestServer::start().await;
    let classes = format!("{NET}/ingressclasses");
    let class_of = async |name: &str, body: Value| {
        let made = s.create(INGRESSES, body).await;
        assert_eq!(made["metadata"]["name"], name);
        made["spec"].get("ingressClassName").cloned()
    };
    assert_eq!(class_of("before", ingress("before", json!({}))).await, None);
    s.create(&classes, class("plain", "a.example/b", "false")).await;
    assert_eq!(class_of("none", ingress("none", json!({}))).await, None);
    s.create(&classes, class("one", "warren.dev/ingress", "true")).await;
    assert_eq!(class_of("a", ingress("a", json!({}))).await, Some(json!("one")));
    assert_eq!(class_of("b", ingress("b", json!({"ingressClassName": "x"}))).await, Some(json!("x")));
    let mut annotated = ingress("c", json!({}));
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "x"});
    assert_eq!(class_of("c", annotated).await, None);
    // The newest of several; its second is in the API's times.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    s.create(&classes, class("newer", "warren.dev/ingress", "true")).await;
    assert_eq!(class_of("d", ingress("d", json!({}))).await, Some(json!("newer")));
    // Nobody owns the field, and an object that is there keeps what it has.
    let made = s.get(&format!("{INGRESSES}/d")).await;
    assert!(!made["metadata"]["managedFields"].to_string().contains("ingressClassName"));
    let path = format!("{INGRESSES}/none");
    let changed = s.patch(&path, MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((changed.code, changed.body["spec"].get("ingressClassName")), (200, None));
    let cleared =
        s.patch(&format!("{INGRESSES}/d"), MERGE, json!({"spec": {"ingressClassName": null}})).await;
    assert_eq!((cleared.code, cleared.body["spec"].get("ingressClassName")), (200, None));
    // Also by server-side apply, and dry.
    let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "e"},
        "spec": ingress("e", json!({}))["spec"]});
    let path = format!("{INGRESSES}/e?fieldManager=x");
    let dry = s.patch(&format!("{path}&dryRun=All"), "application/apply-patch+yaml", body.clone()).await;
    assert_eq!((dry.code, &dry.body["spec"]["ingressClassName"]), (201, &json!("newer")), "{}", dry.body);
    let applied = s.patch(&path, "application/apply-patch+yaml", body.clone()).await;
    assert_eq!((applied.code, &applied.body["spec"]["ingressClassName"]), (201, &json!("newer")));
    let again = s.patch(&path, "application/apply-patch+yaml", body).await;
    assert_eq!((again.code, &again.body["spec"]["ingressClassName"]), (200, &json!("newer")), "it stays");
}

#[tokio::test]
async fn the_status_of_an_ingress_is_written_alone() {
    let s = TestServer::start().await;
    let made = s.create(INGRESSES, ingress("i", json!({}))).await;
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let path = format!("{INGRESSES}/i");
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ports": ports}, {"hostname": "lb.example"}]}}});
    let both = json!({"spec": {"ingressClassName": "x"}, "status": status["status"]});
    let written = s.patch(&format!("{path}/status"), MERGE, both).await;
    assert_eq!(written.code, 200, "{}", written.body);
    assert_eq!(written.body["status"], status["status"]);
    assert_eq!((&written.body["spec"], &written.body["metadata"]["generation"]), (&made["spec"], &json!(1)));
    let spec = s
        .patch(&path, MERGE, json!({"spec": {"ingressClassName": "x"}, "status": {"loadBalancer": {}}}))
        .await;
    assert_eq!((&spec.body["status"], &spec.body["metadata"]["generation"]), (&status["status"], &json!(2)));
    for bad in [json!({"ip": "192.0.2"}), json!({"hostname": "192.0.2.1"}), json!({"hostname": "A"})] {
        let bad = json!({"status": {"loadBalancer": {"ingress": [bad]}}});
        assert_eq!(s.patch(&format!("{path}/status"), MERGE, bad.clone()).await.code, 422, "{bad}");
    }
}

#[tokio::test]
async fn a_node_writes_addresses_and_events_of_the_ingresses_that_warren_serves() {
    let s = TestServer::start().await;
    let node = node(&s).await;
    let ask = async |method: &str, path: &str, media: &str, body: Value| -> Answer {
        request(&node, method, path, &[("content-type", media)], body).await
    };
    s.create(&format!("{NET}/ingressclasses"), class("other", "a.example/b", "false")).await;
    s.create(INGRESSES, ingress("ours", json!({"ingressClassName": "warren"}))).await;
    s.create(INGRESSES, ingress("theirs", json!({"ingressClassName": "other"}))).await;
    s.create(INGRESSES, ingress("nobodys", json!({"ingressClassName": "gone"}))).await;
    s.create(INGRESSES, ingress("plain", json!({}))).await;
    let mut annotated = ingress("annotated", json!({}));
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "warren"});
    s.create(INGRESSES, annotated).await;
    for path in ["ingresses", "ingressclasses", "ingresses?watch=true&timeoutSeconds=1"] {
        assert_eq!(ask("GET", &format!("{NET}/{path}"), MERGE, Value::Null).await.code, 200, "{path}");
    }
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    for (name, code) in [
        ("ours/status", 200),
        ("annotated/status", 200),
        ("theirs/status", 403),
        ("nobodys/status", 403),
        ("plain/status", 403),
        ("ours", 403),
    ] {
        let answer = ask("PATCH", &format!("{INGRESSES}/{name}"), MERGE, status.clone()).await;
        assert_eq!(answer.code, code, "{name}: {}", answer.body);
    }
    let shown = s.get(&format!("{INGRESSES}/ours")).await;
    assert_eq!(shown["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1"}]));
    let mut uid = status.clone();
    uid["metadata"] = json!({"uid": "another"});
    assert_eq!(ask("PATCH", &format!("{INGRESSES}/ours/status"), MERGE, uid).await.code, 409);
    let event = json!({"apiVersion": "v1", "kind": "Event", "type": "Warning", "metadata": {"name": "ours.1", "namespace": "default"},
        "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "ours", "namespace": "default",
            "uid": shown["metadata"]["uid"]},
        "reason": "NoService", "message": "no Service", "source": {"component": "warren", "host": "n1"}, "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z"});
    let made = ask("POST", "/api/v1/namespaces/default/events", "application/json", event).await;
    assert_eq!(made.code, 201, "{}", made.body);
}

#[tokio::test]
async fn a_node_reads_the_secrets_of_ingresses_that_warren_serves_each_alone() {
    let s = TestServer::start().await;
    let node = node(&s).await;
    let code = async |path: String| request(&node, "GET", &path, &[], Value::Null).await.code;
    s.create(&format!("{NET}/ingressclasses"), class("other", "a.example/b", "false")).await;
    for name in ["tls", "auth", "theirs", "free"] {
        s.create(SECRETS, json!({"metadata": {"name": name}, "data": {"auth": "eA=="}})).await;
    }
    let tls = |class: &str, secret: &str| json!({"ingressClassName": class, "tls": [{"secretName": secret}]});
    let mut ours = ingress("ours", tls("warren", "tls"));
    ours["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/auth-secret": "default/auth"});
    s.create(INGRESSES, ours).await;
    s.create(INGRESSES, ingress("theirs", tls("other", "theirs"))).await;
    s.create(INGRESSES, ingress("early", tls("warren", "missing"))).await;
    for (name, may) in [("tls", true), ("auth", true), ("theirs", false), ("free", false), ("missing", true)]
    {
        let (open, get) = match (may, name) {
            (true, "missing") => (200, 404),
            (true, _) => (200, 200),
            _ => (403, 403),
        };
        assert_eq!(code(format!("{SECRETS}/{name}")).await, get, "{name}");
        let one = format!("fieldSelector=metadata.name%3D{name}");
        assert_eq!(code(format!("{SECRETS}?{one}")).await, open, "{name}");
        assert_eq!(code(format!("{SECRETS}?watch=true&timeoutSeconds=1&{one}")).await, open, "{name}");
        assert_eq!(code(format!("/api/v1/secrets?{one}")).await, 403, "{name}: of every namespace");
    }
    for all in [
        "",
        "?watch=true",
        "?fieldSelector=metadata.name!%3Dtls",
        "?fieldSelector=type%3DOpaque",
        "?labelSelector=a",
    ] {
        assert_eq!(code(format!("{SECRETS}{all}")).await, 403, "{all}");
    }
    let one = format!("{SECRETS}?fieldSelector=metadata.name%3Dtls");
    let listed = request(&node, "GET", &one, &[], Value::Null).await;
    let names: Vec<&Value> =
        listed.body["items"].as_array().unwrap().iter().map(|o| &o["metadata"]["name"]).collect();
    assert_eq!(names, ["tls"]);
    for (method, path) in [("PATCH", "/tls"), ("DELETE", "/tls"), ("PUT", "/tls"), ("POST", "")] {
        let headers = [("content-type", if method == "PATCH" { MERGE } else { "application/json" })];
        let body = json!({"metadata": {"name": "tls"}});
        assert_eq!(
            request(&node, method, &format!("{SECRETS}{path}"), &headers, body).await.code,
            403,
            "{method}"
        );
    }
    let answer = request(&node, "DELETE", &one, &[], Value::Null).await;
    assert_eq!(answer.code, 403, "a collection of one");
    // The default certificate of all of them too, and nothing else of its namespace.
    let system = SECRETS.replace("/default/", "/kube-system/");
    for (name, wanted) in [("warren-ingress-default", true), ("other", false)] {
        let found = code(format!("{system}/{name}")).await;
        assert_eq!(matches!(found, 200 | 404), wanted, "{name}: {found}");
    }
    assert_eq!(code(format!("{SECRETS}/warren-ingress-default")).await, 403, "of another namespace");
    // With the Ingress goes the right.
    assert_eq!(s.ask("DELETE", &format!("{INGRESSES}/ours"), Value::Null).await.code, 200);
    assert_eq!(code(format!("{SECRETS}/tls")).await, 403);
    assert_eq!(s.ask("DELETE", &format!("{INGRESSES}/early"), Value::Null).await.code, 200);
    assert_eq!(code(format!("{system}/warren-ingress-default")).await, 403, "none is served");
}

/// A server whose data directory is from before there was an authority for ingress gets one, and keeps it.
#[tokio::test]
async fn the_authority_for_ingress_outlives_restarts_and_issues_what_ingresses_ask_for() {
    let s = TestServer::start().await;
    let root = "/api/v1/namespaces/kube-system/configmaps/warren-ca";
    let first = s.until(root, |answer| answer.code == 200).await.body["data"].clone();
    let on_disk = crate::ingress_root(s.directory.path()).unwrap();
    assert_eq!(first["ca.crt"], on_disk.as_str());
    assert_ne!(s.ca_pem, on_disk);
    let mut wanted = ingress(
        "web",
        json!({"ingressClassName": "warren", "tls": [{"hosts": ["a.test"], "secretName": "web"}]}),
    );
    wanted["metadata"]["annotations"] = json!({"ingress.warren.dev/certificate": "private"});
    s.create(INGRESSES, wanted).await;
    let secret = format!("{SECRETS}/web");
    let made = s.until(&secret, |answer| answer.code == 200).await.body;
    let s = TestServer::start_in(s.stop().await).await;
    assert_eq!(s.until(root, |answer| answer.code == 200).await.body["data"], first);
    assert_eq!(s.get(&secret).await["data"], made["data"]);
    let directory = s.stop().await;
    for file in ["ingress-ca.crt", "ingress-ca.key"] {
        std::fs::remove_file(directory.path().join("server/tls").join(file)).unwrap();
    }
    let s = TestServer::start_in(directory).await;
    s.until(root, |answer| answer.code == 200 && answer.body["data"] != first).await;
    s.until(&secret, |answer| answer.body["data"] != made["data"]).await;
}
