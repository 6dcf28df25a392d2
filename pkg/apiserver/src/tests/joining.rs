use base64::Engine as _;
use serde_json::{Value, json};

use super::harness::{TestServer, client, pod, request};

pub(super) fn csr() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:admin");
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

/// A client of this server with, or without, a certificate.
pub(super) async fn client_with(s: &TestServer, identity: Option<(&str, &str)>) -> kube::Client {
    let encode = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
    let user = match identity {
        Some((cert, key)) => json!({"client-certificate-data": encode(cert), "client-key-data": encode(key)}),
        None => json!({}),
    };
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": s.url, "certificate-authority-data": encode(&s.ca_pem)}}],
        "users": [{"name": "u", "user": user}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    client(&config.to_string()).await
}

pub(super) async fn join(s: &TestServer, name: &str, password: &str, secret: &str) -> (u16, Value, String) {
    let (csr, key) = csr();
    let anonymous = client_with(s, None).await;
    let bearer = format!("Bearer {secret}");
    let body = json!({"nodeName": name, "nodePassword": password, "csr": csr});
    let a = request(&anonymous, "POST", "/v1-warren/join", &[("authorization", &bearer)], body).await;
    (a.code, a.body, key)
}

#[tokio::test]
async fn a_node_joins_and_writes_only_its_own() {
    let s = TestServer::start().await;
    let secret = s.token.expose().rsplit(':').next().unwrap().to_owned();
    let password = "0123456789abcdef";
    assert_eq!(join(&s, "n1", password, "wrong").await.0, 401);
    let (code, body, key) = join(&s, "n1", password, &secret).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(body["ca"], s.ca_pem);
    assert_eq!(join(&s, "n1", "another-password-x", &secret).await.0, 403);
    assert_eq!(join(&s, "n1", password, &secret).await.0, 200);
    assert_eq!(join(&s, "../n", password, &secret).await.0, 400);

    let node = client_with(&s, Some((body["certificate"].as_str().unwrap(), &key))).await;
    let ask = async |method: &str, path: &str, body: Value| {
        let headers: &[(&str, &str)] =
            if method == "PATCH" { &[("content-type", "application/merge-patch+json")] } else { &[] };
        request(&node, method, path, headers, body).await
    };
    let made = ask("POST", "/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    assert_eq!((made.code, &made.body["spec"]["podCIDR"]), (201, &json!("10.42.0.0/24")), "{}", made.body);
    assert_eq!(ask("POST", "/api/v1/nodes", json!({"metadata": {"name": "n2"}})).await.code, 403);
    let annotate = json!({"metadata": {"annotations": {"warren.dev/node-id": "x"}}});
    assert_eq!(ask("PATCH", "/api/v1/nodes/n1", annotate.clone()).await.code, 200);
    s.create("/api/v1/nodes", json!({"metadata": {"name": "n2"}})).await;
    assert_eq!(ask("PATCH", "/api/v1/nodes/n2", annotate).await.code, 403);
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(ask("PATCH", "/api/v1/nodes/n1/status", status).await.code, 200);
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(ask("POST", pods, pod("mine", "n1", "a")).await.code, 201);
    assert_eq!(ask("POST", pods, pod("other", "n2", "a")).await.code, 403);
    s.create(pods, pod("theirs", "n2", "a")).await;
    assert_eq!(
        ask("PATCH", &format!("{pods}/theirs/status"), json!({"status": {"phase": "Running"}})).await.code,
        403
    );
    assert_eq!(ask("DELETE", &format!("{pods}/theirs"), Value::Null).await.code, 403);
    assert_eq!(
        ask("PATCH", &format!("{pods}/mine/status"), json!({"status": {"phase": "Running"}})).await.code,
        200
    );
    assert_eq!(ask("GET", "/api/v1/pods", Value::Null).await.code, 200);
    assert_eq!(ask("GET", "/api/v1/namespaces/default/configmaps", Value::Null).await.code, 403);
    assert_eq!(
        ask("GET", "/api/v1/namespaces/kube-system/configmaps/warren-cluster", Value::Null).await.code,
        200
    );
    let lease =
        json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(ask("POST", leases, lease.clone()).await.code, 201);
    assert_eq!(ask("POST", leases, json!({"metadata": {"name": "n2"}})).await.code, 403);
    let renew = json!({"spec": {"renewTime": "2026-01-02T03:04:05.678901Z"}});
    let renewed = ask("PATCH", &format!("{leases}/n1"), renew).await;
    assert_eq!(renewed.body["spec"]["renewTime"], "2026-01-02T03:04:05.678901Z");

    // With the Node goes the hold on its name.
    assert_eq!(ask("DELETE", "/api/v1/nodes/n1", Value::Null).await.code, 200);
    assert_eq!(join(&s, "n1", "another-password-x", &secret).await.0, 200);
}

#[tokio::test]
async fn a_node_writes_load_balancer_addresses_and_events_of_services() {
    let s = TestServer::start().await;
    let secret = s.token.expose().rsplit(':').next().unwrap().to_owned();
    let (_, body, key) = join(&s, "n1", "0123456789abcdef", &secret).await;
    let node = client_with(&s, Some((body["certificate"].as_str().unwrap(), &key))).await;
    let ask = async |method: &str, path: &str, media: &str, body: Value| {
        request(&node, method, path, &[("content-type", media)], body).await
    };
    const MERGE: &str = "application/merge-patch+json";
    let services = "/api/v1/namespaces/default/services";
    let spec = |more: Value| {
        let mut spec = json!({"ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (name, more) in [
        ("ours", json!({"type": "LoadBalancer"})),
        ("theirs", json!({"type": "LoadBalancer", "loadBalancerClass": "example.org/lb"})),
        ("plain", json!({})),
    ] {
        s.create(services, json!({"metadata": {"name": name}, "spec": spec(more)})).await;
    }
    let made = s.get(&format!("{services}/ours")).await;
    let uid = made["metadata"]["uid"].clone();
    let status = |uid: &Value| {
        json!({"metadata": {"uid": uid, "labels": {"x": "y"}}, "spec": {"externalIPs": ["192.0.2.66"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}}})
    };
    let path = format!("{services}/ours/status");
    let written = ask("PATCH", &path, MERGE, status(&uid)).await;
    assert_eq!(written.code, 200, "{}", written.body);
    let now = s.get(&format!("{services}/ours")).await;
    assert_eq!(now["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
    assert_eq!((&now["spec"], now["metadata"].get("labels")), (&made["spec"], None), "the status alone");
    let namesake = ask("PATCH", &path, MERGE, status(&json!("another"))).await;
    assert_eq!(namesake.code, 409, "{}", namesake.body);
    let removed = json!({"status": {"loadBalancer": {"ingress": null}}});
    assert_eq!(ask("PATCH", &path, MERGE, removed).await.code, 200);
    let now = s.get(&format!("{services}/ours")).await;
    assert_eq!(now["status"]["loadBalancer"].get("ingress"), None);
    for other in ["theirs/status", "plain/status", "ours", "plain"] {
        let refused = ask("PATCH", &format!("{services}/{other}"), MERGE, json!({"status": {}})).await;
        assert_eq!(refused.code, 403, "{other}: {}", refused.body);
    }
    let apply = format!("{services}/new/status?fieldManager=x");
    let new = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "new"}, "spec": spec(json!({"type": "LoadBalancer"}))});
    let refused = ask("PATCH", &apply, "application/apply-patch+yaml", new).await;
    assert_eq!(refused.code, 404, "{}", refused.body);

    let events = "/api/v1/namespaces/default/events";
    let event = |host: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"name": "ours.0123456789abcdef", "namespace": "default"},
            "involvedObject": {"apiVersion": "v1", "kind": "Service", "name": "ours", "namespace": "default", "uid": uid},
            "reason": "NodePortTaken", "message": "choose another", "source": {"component": "warren", "host": host},
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1})
    };
    const JSON: &str = "application/json";
    assert_eq!(ask("POST", events, JSON, event("n2")).await.code, 403);
    let created = ask("POST", events, JSON, event("n1")).await;
    assert_eq!(created.code, 201, "{}", created.body);
    assert_eq!(ask("POST", events, JSON, event("n1")).await.code, 409);
    let one = format!("{events}/ours.0123456789abcdef");
    let again = ask("PATCH", &one, MERGE, json!({"count": 2, "lastTimestamp": "2026-01-01T00:05:00Z"})).await;
    assert_eq!((again.code, &again.body["count"]), (200, &json!(2)), "{}", again.body);
    let steal = json!({"source": {"host": "n2"}});
    assert_eq!(ask("PATCH", &one, MERGE, steal).await.code, 403);
    assert_eq!(ask("DELETE", &one, JSON, Value::Null).await.code, 403);
    // As `kubectl describe service` asks.
    let field = format!(
        "{events}?fieldSelector=involvedObject.name%3Dours,involvedObject.kind%3DService,involvedObject.namespace%3Ddefault,involvedObject.uid%3D{}",
        uid.as_str().unwrap()
    );
    assert_eq!(s.get(&field).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_certificate_there_is_little_to_see() {
    let s = TestServer::start().await;
    let anonymous = client_with(&s, None).await;
    for open in ["/cacerts", "/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(request(&anonymous, "GET", open, &[], Value::Null).await.code, 200, "{open}");
    }
    for closed in ["/api", "/apis", "/api/v1", "/api/v1/nodes", "/openapi/v3", "/", "/metrics"] {
        assert_eq!(request(&anonymous, "GET", closed, &[], Value::Null).await.code, 401, "{closed}");
    }
    assert_eq!(
        request(&anonymous, "POST", "/v1-warren/join", &[], json!("x".repeat(20_000))).await.code,
        413
    );
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let s = TestServer::start().await;
    let anonymous = client_with(&s, None).await;
    let mut codes = Vec::new();
    for _ in 0..12 {
        let guess = [("authorization", "Bearer guess")];
        codes.push(request(&anonymous, "POST", "/v1-warren/join", &guess, json!({})).await.code);
    }
    assert_eq!((codes[0], codes[9], codes[11]), (401, 401, 429));
}
