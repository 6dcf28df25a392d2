use base64::Engine as _;
use serde_json::{Value, json};
use std::time::Duration;

use super::harness::{Answer, TestServer, client, pod, request};
use super::joining::{client_with, csr, join};

/// A client with a bearer token.
async fn bearer(s: &TestServer, token: &str) -> kube::Client {
    let ca = base64::engine::general_purpose::STANDARD.encode(&s.ca_pem);
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": s.url, "certificate-authority-data": ca}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    client(&config.to_string()).await
}

async fn token(s: &TestServer, wanted: Value) -> Value {
    s.create("/v1-warren/tokens", wanted).await
}

const REVIEW: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn a_viewer_reads_all_but_secrets_until_its_token_is_revoked() {
    let s = TestServer::start().await;
    s.create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "c"}})).await;
    let made = token(&s, json!({"role": "viewer", "ttlSeconds": 3600, "description": "a screen"})).await;
    let viewer = bearer(&s, made["token"].as_str().unwrap()).await;
    let ask = async |method: &str, path: &str, body: Value| -> Answer {
        request(&viewer, method, path, &[], body).await
    };
    for path in [
        "/api/v1/nodes",
        "/api/v1/configmaps",
        "/api/v1/namespaces/default/configmaps/c",
        "/api",
        "/openapi/v3",
    ] {
        assert_eq!(ask("GET", path, Value::Null).await.code, 200, "{path}");
    }
    let secrets = ask("GET", "/api/v1/secrets", Value::Null).await;
    assert!(
        secrets.code == 403 || crate::registry::lookup("", "v1", "secrets").is_none(),
        "{}",
        secrets.body
    );
    for (method, path) in [
        ("POST", "/api/v1/namespaces"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/c"),
        ("DELETE", "/api/v1/namespaces/default/configmaps"),
        ("PUT", "/api/v1/namespaces/default/configmaps/c"),
        ("GET", "/v1-warren/tokens"),
        ("GET", "/v1-warren/backup"),
        ("POST", "/v1-warren/renew"),
    ] {
        let answer = ask(method, path, json!({"metadata": {"name": "c"}})).await;
        assert_eq!(
            (answer.code, &answer.body["kind"]),
            (403, &json!("Status")),
            "{method} {path}: {}",
            answer.body
        );
    }
    let can = async |verb: &str| {
        let spec = json!({"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}});
        ask("POST", REVIEW, json!({"spec": spec})).await.body["status"]["allowed"].clone()
    };
    assert_eq!((can("list").await, can("delete").await), (json!(true), json!(false)));
    let who = ask("POST", WHO, json!({})).await;
    assert_eq!(
        who.body["status"]["userInfo"]["username"],
        format!("warren:token:{}", made["id"].as_str().unwrap())
    );
    assert_eq!(s.ask("POST", WHO, json!({})).await.body["status"]["userInfo"]["groups"][0], "system:masters");

    let listed = s.get("/v1-warren/tokens").await;
    assert_eq!(listed["tokens"][0]["description"], "a screen");
    let path = format!("/v1-warren/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(s.ask("DELETE", &path, Value::Null).await.code, 200);
    let refused = ask("GET", "/api/v1/nodes", Value::Null).await;
    assert_eq!((refused.code, &refused.body["reason"]), (401, &json!("Unauthorized")));
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_administrators_may_all() {
    let s = TestServer::start().await;
    let made = token(&s, json!({"role": "admin"})).await;
    let (secret, directory) = (made["token"].as_str().unwrap().to_owned(), s.stop().await);
    let s = TestServer::start_in(directory).await;
    let admin = bearer(&s, &secret).await;
    let answer = request(&admin, "POST", "/api/v1/namespaces", &[], json!({"metadata": {"name": "x"}})).await;
    assert_eq!(answer.code, 201, "{}", answer.body);
    for wrong in ["", "x", "x.y", &secret[1..], &format!("{secret}0"), "é"] {
        let value = format!("Bearer {wrong}");
        let nobody = client_with(&s, None).await;
        let answer =
            request(&nobody, "GET", "/api/v1/nodes", &[("authorization", &value)], Value::Null).await;
        assert_eq!((answer.code, &answer.body["kind"]), (401, &json!("Status")), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_node_token_joins_and_no_more_and_a_node_renews_its_certificate() {
    let s = TestServer::start().await;
    let made = token(&s, json!({"role": "node", "ttlSeconds": 60})).await;
    let whole = made["token"].as_str().unwrap();
    let secret = whole.rsplit(':').next().unwrap();
    assert_eq!(request(&bearer(&s, secret).await, "GET", "/api/v1/nodes", &[], Value::Null).await.code, 401);
    let (code, body, key) = join(&s, "n1", "0123456789abcdef", secret).await;
    assert_eq!(code, 200, "{body}");
    let node = client_with(&s, Some((body["certificate"].as_str().unwrap(), &key))).await;
    let (request_pem, new_key) = csr();
    let renewal = json!({"csr": request_pem});
    let renewed = request(&node, "POST", "/v1-warren/renew", &[], renewal.clone()).await;
    assert_eq!(renewed.code, 200, "{}", renewed.body);
    let again = client_with(&s, Some((renewed.body["certificate"].as_str().unwrap(), &new_key))).await;
    let who = request(&again, "POST", WHO, &[], json!({})).await;
    assert_eq!(who.body["status"]["userInfo"]["username"], "system:node:n1");
    assert_eq!(
        s.ask("POST", "/v1-warren/renew", renewal.clone()).await.code,
        403,
        "administrators are no nodes"
    );
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!(s.ask("DELETE", "/api/v1/nodes/n1", Value::Null).await.code, 200);
    assert_eq!(request(&again, "POST", "/v1-warren/renew", &[], renewal).await.code, 403);
    let id = made["id"].as_str().unwrap();
    assert_eq!(s.ask("DELETE", &format!("/v1-warren/tokens/{id}"), Value::Null).await.code, 200);
    assert_eq!(join(&s, "n2", "0123456789abcdef", secret).await.0, 401);
}

#[tokio::test]
async fn every_write_has_its_audit_line_and_no_line_has_a_body() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let s = TestServer::start_with(directory, |c| c.audit_log = Some(path.clone())).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    s.create(maps, json!({"metadata": {"name": "c"}, "data": {"k": "hunter2"}})).await;
    assert_eq!(s.ask("POST", maps, json!({"metadata": {"name": "c"}})).await.code, 409);
    s.get(maps).await;
    let made = token(&s, json!({"role": "viewer"})).await;
    let secret = made["token"].as_str().unwrap();
    let viewer = bearer(&s, secret).await;
    assert_eq!(request(&viewer, "DELETE", &format!("{maps}/c"), &[], Value::Null).await.code, 403);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hunter2") && !text.contains(secret.split_once('.').unwrap().1));
    let seen: Vec<(String, String, String, u64)> = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap())
        .map(|l| {
            assert_eq!((&l["from"], l["time"].is_string()), (&json!("127.0.0.1"), true));
            let text = |k: &str| l[k].as_str().unwrap().to_owned();
            (text("verb"), text("resource"), text("name"), l["code"].as_u64().unwrap())
        })
        .collect();
    let line = |a: &str, b: &str, c: &str, d| (a.to_owned(), b.to_owned(), c.to_owned(), d);
    assert_eq!(
        seen,
        [
            line("create", "configmaps", "c", 201),
            line("create", "configmaps", "", 409),
            line("create", "warren/tokens", "", 201),
            line("delete", "configmaps", "c", 403),
        ]
    );
}

#[tokio::test]
async fn certificates_are_renewed_while_connections_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let life = Duration::from_secs(12);
    let s = TestServer::start_with(directory, |c| c.certificate_life = life).await;
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let before = std::fs::read_to_string(&path).unwrap();
    let mut watch = {
        let uri = "/api/v1/namespaces/default/pods?watch=1&resourceVersion=1";
        let request = ::http::Request::get(uri).body(kube::client::Body::empty()).unwrap();
        s.client.send(request).await.unwrap().into_body()
    };
    let deadline = tokio::time::Instant::now() + 2 * life;
    // Both certificates have ended when this is over; who reads the new kubeconfig is served all the time.
    let mut renewed = before.clone();
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(300)).await;
        renewed = std::fs::read_to_string(&path).unwrap();
        let answer = request(&client(&renewed).await, "GET", "/api/v1/nodes", &[], Value::Null).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
    }
    assert_ne!(before, renewed);
    // A connection that was made with the first certificates is still served.
    s.create("/api/v1/namespaces/default/pods", pod("p", "n", "a")).await;
    use http_body_util::BodyExt as _;
    let frame = tokio::time::timeout(Duration::from_secs(5), watch.frame()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(frame.data_ref().unwrap()).contains("\"ADDED\""));
}
