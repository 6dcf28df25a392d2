use futures::StreamExt as _;
use serde_json::{Value, json};

use super::harness::{TestServer, config};
use crate::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const MERGE: &str = "application/merge-patch+json";

fn port(port: u16) -> Value {
    json!([{ "port": port }])
}

async fn refused(s: &TestServer, path: &str, body: Value) -> (u16, Value) {
    let answer = s.ask("POST", path, body).await;
    (answer.code, answer.body)
}

#[tokio::test]
async fn the_service_of_this_server_is_there_and_follows_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let s = TestServer::start_with(directory, |c| c.advertise_address = Some("192.0.2.10".parse().unwrap()))
        .await;
    let api = s.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(
        (api["spec"]["clusterIP"].as_str(), api["spec"]["ports"][0]["port"].as_i64()),
        (Some("10.43.0.1"), Some(443))
    );
    let slice = s.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.10"]));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    let endpoints = s.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.10");

    // The same address: nothing is written. Another, and another range: all follow.
    let directory = s.stop().await;
    let s = TestServer::start_with(directory, |c| {
        c.advertise_address = Some("192.0.2.11".parse().unwrap());
        c.service_cidrs = vec!["10.44.0.0/16".parse().unwrap()];
    })
    .await;
    let slice = s.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await;
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.11"]));
    assert_eq!(s.get(&format!("{SERVICES}/kubernetes")).await["spec"]["clusterIP"], "10.44.0.1");
}

#[tokio::test]
async fn addresses_and_ports_are_given_kept_and_freed() {
    let s = TestServer::start().await;
    let a = s.create(SERVICES, json!({"metadata": {"name": "a"}, "spec": {"ports": port(80)}})).await;
    assert_eq!(a["spec"]["clusterIP"], "10.43.1.0");
    assert_eq!(a["metadata"].get("generation"), None);
    let dry = s
        .create(
            &format!("{SERVICES}?dryRun=All"),
            json!({"metadata": {"name": "dry"}, "spec": {"ports": port(80)}}),
        )
        .await;
    assert_eq!(dry["spec"]["clusterIP"], "10.43.1.1");
    let b = s
        .create(SERVICES, json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": port(80)}}))
        .await;
    assert_eq!(
        (b["spec"]["clusterIP"].as_str(), b["spec"]["ports"][0]["nodePort"].as_i64()),
        (Some("10.43.1.1"), Some(30_086))
    );

    let (code, body) = refused(
        &s,
        SERVICES,
        json!({"metadata": {"name": "c"}, "spec": {"clusterIP": "10.43.1.0", "ports": port(80)}}),
    )
    .await;
    assert_eq!(code, 422);
    assert_eq!(
        body["message"],
        "Service \"c\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.1.0\"]: failed to allocate IP 10.43.1.0: provided IP is already allocated"
    );
    assert_eq!(body["details"]["causes"][0]["field"], "spec.clusterIPs");
    let (code, body) = refused(
        &s,
        SERVICES,
        json!({"metadata": {"name": "c"}, "spec": {"ports": [{"port": 0}], "sessionAffinity": "x"}}),
    )
    .await;
    assert_eq!((code, body["details"]["causes"].as_array().map(Vec::len)), (422, Some(3)), "{body}");
    let (code, _) = refused(
        &s,
        SERVICES,
        json!({"metadata": {"name": "c"}, "spec": {"ipFamilyPolicy": "RequireDualStack", "ports": port(80)}}),
    )
    .await;
    assert_eq!(code, 422, "one range of Services");

    // A put without the address keeps it; with another it is refused.
    let path = format!("{SERVICES}/a");
    let kept = s.ask("PUT", &path, json!({"metadata": {"name": "a"}, "spec": {"ports": port(81)}})).await;
    assert_eq!(
        (kept.code, kept.body["spec"]["clusterIP"].as_str()),
        (200, Some("10.43.1.0")),
        "{}",
        kept.body
    );
    let moved = s.patch(&path, MERGE, json!({"spec": {"clusterIP": "10.43.1.9"}})).await;
    assert_eq!(
        (moved.code, moved.body["details"]["causes"][0]["field"].as_str()),
        (422, Some("spec.clusterIPs[0]")),
        "{}",
        moved.body
    );

    // Types: ports of nodes come and go.
    let lb = s
        .patch(&path, MERGE, json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}}))
        .await;
    assert_eq!(lb.code, 200, "{}", lb.body);
    assert_eq!(
        (lb.body["spec"]["ports"][0]["nodePort"].as_i64(), lb.body["spec"]["healthCheckNodePort"].as_i64()),
        (Some(30_087), Some(30_088))
    );
    let back = s.patch(&path, MERGE, json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(back.code, 200, "{}", back.body);
    assert_eq!(back.body["spec"]["ports"][0].get("nodePort"), None);
    let taken = json!({"metadata": {"name": "d"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30_087}]}});
    s.create(SERVICES, taken).await;
    let named =
        s.patch(&path, MERGE, json!({"spec": {"type": "ExternalName", "externalName": "x.example"}})).await;
    assert_eq!((named.code, named.body["spec"].get("clusterIP")), (200, None), "{}", named.body);
    s.create(
        SERVICES,
        json!({"metadata": {"name": "e"}, "spec": {"clusterIP": "10.43.1.0", "ports": port(80)}}),
    )
    .await;

    // Deleted, and with its namespace: free for another.
    let gone = s.ask("DELETE", &format!("{SERVICES}/e"), Value::Null).await;
    assert_eq!((gone.code, gone.body["kind"].as_str()), (200, Some("Service")));
    let again = json!({"metadata": {"name": "f"}, "spec": {"clusterIP": "10.43.1.0", "ports": port(80)}});
    s.create(SERVICES, again).await;

    // The status is written apart, and holds nothing.
    let status = s.patch(&format!("{SERVICES}/b/status"), MERGE, json!({"status": {"conditions": []}})).await;
    assert_eq!(status.code, 200, "{}", status.body);

    // After a start nothing is given twice.
    let directory = s.stop().await;
    let s = TestServer::start_in(directory).await;
    let (code, _) = refused(
        &s,
        SERVICES,
        json!({"metadata": {"name": "g"}, "spec": {"clusterIP": "10.43.1.1", "ports": port(80)}}),
    )
    .await;
    assert_eq!(code, 422);
    let g = s
        .create(SERVICES, json!({"metadata": {"name": "g"}, "spec": {"type": "NodePort", "ports": port(80)}}))
        .await;
    let ip = g["spec"]["clusterIP"].as_str().unwrap();
    assert!(!["10.43.1.0", "10.43.1.1"].contains(&ip) && ip.starts_with("10.43.1."), "{ip}");
}

#[tokio::test]
async fn many_at_once_get_each_their_own() {
    let s = TestServer::start_with(tempfile::tempdir().unwrap(), |c| {
        c.service_cidrs = vec!["10.43.0.0/16".parse().unwrap(), "fd57:43::/112".parse().unwrap()];
    })
    .await;
    let all = (0..200).map(|i| {
        let body = json!({"metadata": {"name": format!("s{i}")}, "spec": {"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "ports": port(80)}});
        s.ask("POST", SERVICES, body)
    });
    let mut seen = std::collections::BTreeSet::new();
    // As many connections of one address as may be unknown to the server at a time.
    for answer in futures::stream::iter(all).buffer_unordered(100).collect::<Vec<_>>().await {
        assert_eq!(answer.code, 201, "{}", answer.body);
        let spec = &answer.body["spec"];
        for value in [&spec["clusterIPs"][0], &spec["clusterIPs"][1], &spec["ports"][0]["nodePort"]] {
            assert!(!value.is_null() && seen.insert(value.to_string()), "{spec}");
        }
    }
    assert_eq!(seen.len(), 600);
}

#[tokio::test]
async fn every_kind_is_kept() {
    let s = TestServer::start().await;
    let net = "/apis/networking.k8s.io/v1";
    let secrets = "/api/v1/namespaces/default/secrets";
    s.create(secrets, json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}})).await;
    let tls = s.create(secrets, json!({"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}})).await;
    assert_eq!(tls["type"], "kubernetes.io/tls");
    let list = s.get(&format!("{secrets}?fieldSelector=type%3DOpaque")).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["items"][0]["data"], json!({"a": "Yg=="}));
    let patched = s.patch(&format!("{secrets}/t"), MERGE, json!({"type": "Opaque"})).await;
    assert_eq!(
        patched.body["message"],
        "Secret \"t\" is invalid: type: Invalid value: \"Opaque\": field is immutable"
    );
    let policy = s
        .create(
            &format!("{net}/namespaces/default/networkpolicies"),
            json!({"metadata": {"name": "n"}, "spec": {"egress": [{}]}}),
        )
        .await;
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["metadata"]["generation"], 1);
    s.create(
        &format!("{net}/ingressclasses"),
        json!({"metadata": {"name": "c"}, "spec": {"controller": "a.example/b"}}),
    )
    .await;
    let fixed = s
        .patch(&format!("{net}/ingressclasses/c"), MERGE, json!({"spec": {"controller": "a.example/c"}}))
        .await;
    assert_eq!(fixed.code, 422);
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "c", "rules": [{"host": "*.example", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"name": "http"}}}}]}}]}});
    s.create(&format!("{net}/namespaces/default/ingresses"), ingress).await;
    s.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "own"}})).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.42.0.9"]}], "ports": [{"port": 80}]});
    let made = s.create(slices, slice).await;
    assert_eq!(
        (made["ports"][0]["name"].as_str(), made["ports"][0]["protocol"].as_str()),
        (Some(""), Some("TCP"))
    );
    let grown =
        s.patch(&format!("{slices}/e"), MERGE, json!({"endpoints": [{"addresses": ["10.42.0.10"]}]})).await;
    assert_eq!((grown.code, grown.body["metadata"]["generation"].as_i64()), (200, Some(2)), "{}", grown.body);
    let moved = s.patch(&format!("{slices}/e"), MERGE, json!({"addressType": "IPv6"})).await;
    assert_eq!(moved.code, 422);
    let local = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]});
    assert_eq!(refused(&s, slices, local).await.0, 422);
}

#[tokio::test]
async fn a_damaged_past_is_named_and_does_not_stop_the_server() {
    let s = TestServer::start().await;
    s.create(SERVICES, json!({"metadata": {"name": "a"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 32_000}]}})).await;
    let directory = s.stop().await;
    // The ranges no longer hold what was given.
    let mut config = config(directory.path());
    config.service_cidrs = vec!["10.99.0.0/24".parse().unwrap()];
    config.node_ports = 20_000..=20_100;
    let server = Server::open(config.clone()).await.unwrap();
    drop(server);
    let s = TestServer::start_with(directory, |c| *c = config).await;
    let label = s.patch(&format!("{SERVICES}/a"), MERGE, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(label.code, 200, "{}", label.body);
    let gone = s.ask("DELETE", &format!("{SERVICES}/a"), Value::Null).await;
    assert_eq!(gone.code, 200);
    let b = s
        .create(SERVICES, json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": port(80)}}))
        .await;
    assert_eq!(b["spec"]["clusterIP"], "10.99.0.16");
}
