//! Certificates that agents issue, where the API is somebody else's.

use super::*;
use serde_json::Value;
use warren_store::Durability::Cached;
use warren_types::ingress::{ANNOTATION_CERTIFICATE, ANNOTATION_ISSUED};
use warren_types::{SecretRef, WantedSecrets};

const CA: &str = "kube-system/warren-ca-key";
const MAP: &str = "kube-system/warren-ca";
const DEFAULT: &str = "kube-system/warren-ingress-default";

fn ingress(name: &str, secret: &str, hosts: &[&str]) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "annotations": {ANNOTATION_CERTIFICATE: "private"}},
        "spec": {"ingressClassName": "warren", "tls": [{"hosts": hosts, "secretName": secret}]}})
}

/// An API that issues nothing itself, an agent of it, and the Secrets that its ingress wants.
async fn start(wanted: &[&str]) -> (FakeApi, Bench) {
    let api = FakeApi::start().await;
    api.put(
        "ingressclasses",
        json!({"metadata": {"name": "warren"}, "spec": {"controller": "warren.dev/ingress"}}),
    );
    let addresses = json!([{"type": "InternalIP", "address": "192.0.2.7"}]);
    api.put("nodes", json!({"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.42.0.0/24"]}, "status": {"addresses": addresses}}));
    let bench = Bench::with(&api, false, true).await;
    let table = bench.store.table::<WantedSecrets>();
    let secrets = wanted.iter().chain(&[DEFAULT]).map(|name| SecretRef::parse(name).unwrap()).collect();
    table.put(WantedSecrets { secrets }, Cached).await.unwrap();
    table.mark_loaded().await.unwrap();
    (api, bench)
}

fn certificate(api: &FakeApi, key: &str) -> Option<String> {
    Some(api.get("secrets", key)?["data"]["tls.crt"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_issued_kept_and_made_anew() {
    let (api, bench) = start(&["shop/tls"]).await;
    soon("a list of Ingresses", || api.lists("ingresses") > 0).await;
    assert_eq!(api.keys("secrets"), [""; 0], "nobody asks for anything");
    api.put("ingresses", ingress("web", "tls", &["a.example"]));
    soon("all of it", || [CA, DEFAULT, "shop/tls"].iter().all(|key| api.get("secrets", key).is_some())).await;
    soon("the root", || api.get("configmaps", MAP).is_some()).await;
    let issued = api.get("secrets", "shop/tls").unwrap();
    assert_eq!(
        (&issued["type"], &issued["metadata"]["ownerReferences"][0]["uid"]),
        (&json!("kubernetes.io/tls"), &json!("web"))
    );
    assert_eq!(issued["data"]["ca.crt"], api.get("secrets", CA).unwrap()["data"]["tls.crt"]);
    assert_eq!(api.get("leases", "kube-system/warren-certificates").unwrap()["spec"]["holderIdentity"], "n1");

    let first = certificate(&api, "shop/tls");
    api.put("ingresses", ingress("web", "tls", &["a.example", "b.example"]));
    soon("one for both hosts", || certificate(&api, "shop/tls") != first).await;
    let renewed = api.get("secrets", "shop/tls").unwrap();
    assert!(
        renewed["metadata"]["annotations"][ANNOTATION_ISSUED]
            != issued["metadata"]["annotations"][ANNOTATION_ISSUED]
    );
    let second = certificate(&api, "shop/tls");
    api.delete("secrets", "shop/tls");
    soon("one in place of the one that was deleted", || {
        certificate(&api, "shop/tls").is_some_and(|is| Some(is) != second)
    })
    .await;
    soon("peace", || bench.status.report().write_errors.is_empty()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_made_is_left_as_it_is_and_said() {
    let (api, bench) = start(&["shop/own"]).await;
    let own = json!({"metadata": {"name": "own", "namespace": "shop"}, "type": "kubernetes.io/tls",
        "data": {"tls.crt": "bWluZQ==", "tls.key": "bWluZQ=="}});
    api.put("secrets", own);
    api.put("ingresses", ingress("web", "own", &["a.example"]));
    soon("an Event", || {
        let events = api.keys("events").into_iter().filter_map(|key| api.get("events", &key));
        events.into_iter().any(|event| event["reason"] == "CertificateRefused")
    })
    .await;
    assert_eq!(certificate(&api, "shop/own").as_deref(), Some("bWluZQ=="));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_whose_key_is_lost_is_not_replaced() {
    let (api, bench) = start(&["shop/tls"]).await;
    api.put(
        "configmaps",
        json!({"metadata": {"name": "warren-ca", "namespace": "kube-system"}, "data": {"ca.crt": "x"}}),
    );
    api.put("ingresses", ingress("web", "tls", &["a.example"]));
    let said = || bench.status.report().write_errors.get("Certificates").cloned().unwrap_or_default();
    soon("the reason", || {
        said().contains("the key of the authority is gone with Secret kube-system/warren-ca-key")
    })
    .await;
    assert_eq!(api.keys("secrets"), [""; 0]);
    let other = json!({"metadata": {"name": "warren-ca-key", "namespace": "kube-system"}, "data": {"tls.key": "bm9uc2Vuc2U="}});
    api.put("secrets", other);
    // The next try is some seconds away, or at once with news.
    api.put("ingresses", ingress("web", "tls", &["a.example", "b.example"]));
    soon("another reason", || said().contains("Secret kube-system/warren-ca-key: ")).await;
    assert!(!said().contains("bm9uc2Vuc2U") && !said().contains("nonsense"), "{}", said());
    assert_eq!(api.keys("secrets"), [CA]);
    bench.end().await;
}
