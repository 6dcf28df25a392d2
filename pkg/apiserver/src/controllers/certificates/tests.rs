use super::super::garbage::Garbage;
use super::super::secret_kind;
use super::*;
use crate::controllers::testing::World;
use crate::registry::NAMESPACE;
use serde_json::Value;
use tokio::time::Instant;

fn start() -> Timestamp {
    "2027-03-01T00:00:00Z".parse().unwrap()
}

/// A clock that goes as the test's does.
fn clock() -> impl Fn() -> Timestamp + Send + Sync + 'static {
    let begun = Instant::now();
    move || start() + jiff::SignedDuration::try_from(begun.elapsed()).unwrap()
}

fn authority() -> Arc<Authority> {
    let (cert, key) = Authority::make(start()).unwrap();
    Arc::new(Authority::from_pem(&cert, &key).unwrap())
}

async fn world(authority: &Arc<Authority>) -> World {
    let mut w = World::new().await;
    w.create(NAMESPACE, "", json!({"metadata": {"name": "kube-system"}})).await;
    let class = json!({"metadata": {"name": "warren"}, "spec": {"controller": "warren.dev/ingress"}});
    w.create(INGRESS_CLASS, "", class).await;
    let secret = secret_kind().unwrap();
    w.start(Certificates::new(w.api.clone(), secret, authority.clone(), clock()));
    w.start(Garbage::new(w.api.clone()));
    w
}

fn ingress(name: &str, class: &str, hosts: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {ANNOTATION_CERTIFICATE: "private"}},
        "spec": {"ingressClassName": class, "tls": [{"hosts": hosts, "secretName": name}],
            "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}},
    })
}

fn data(w: &World, namespace: &str, name: &str) -> Option<Value> {
    w.find(secret_kind().unwrap(), namespace, name).map(|o| o.value["data"].clone())
}

#[tokio::test(start_paused = true)]
async fn ingresses_have_their_certificates_as_long_as_they_live() {
    let authority = authority();
    let w = world(&authority).await;
    let made = w.create(INGRESS, "default", ingress("web", "warren", &["a.test"])).await;
    w.create(INGRESS, "default", ingress("theirs", "other", &["b.test"])).await;
    w.settle().await;
    let first = data(&w, "default", "web").unwrap();
    assert!(data(&w, "default", "theirs").is_none(), "of a class that Warren does not serve");
    let hour = Duration::from_secs(3600);
    tokio::time::sleep(59 * 24 * hour).await;
    assert_eq!(data(&w, "default", "web").unwrap(), first);
    tokio::time::sleep(25 * hour).await;
    let second = data(&w, "default", "web").unwrap();
    assert_ne!(second, first, "it was to be renewed");
    let made = w.change(&made, Part::Main, |o| o["spec"]["tls"][0]["hosts"] = json!(["c.test"])).await;
    w.settle().await;
    assert_ne!(data(&w, "default", "web").unwrap(), second);
    // What is deleted comes again; what nobody wants goes.
    let secret = w.get(secret_kind().unwrap(), "default", "web");
    w.api.delete(&secret).await.unwrap();
    w.settle().await;
    assert!(data(&w, "default", "web").is_some());
    w.api.delete(&made).await.unwrap();
    w.settle().await;
    assert!(data(&w, "default", "web").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_somebody_else_stays_and_an_event_says_so() {
    let authority = authority();
    let w = world(&authority).await;
    let secret = secret_kind().unwrap();
    let own = json!({"metadata": {"name": "web"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": "eA=="}});
    let own = w.create(secret, "default", own).await;
    w.create(INGRESS, "default", ingress("web", "warren", &["a.test"])).await;
    w.settle().await;
    let events = || w.cache().list_in(EVENT, "default");
    assert_eq!(w.get(secret, "default", "web").revision, own.revision);
    let all = events();
    assert_eq!(all.len(), 1);
    let event = &all[0].value;
    assert_eq!((text(event, "/reason"), text(event, "/involvedObject/name")), ("CertificateRefused", "web"));
    assert_eq!(event["count"], 1);
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let all = events();
    assert_eq!((all.len(), &all[0].value["count"]), (1, &json!(3)), "it holds still");
    w.api.delete(&own).await.unwrap();
    w.settle().await;
    assert!(data(&w, "default", "web").is_some_and(|d| d["tls.crt"] != "eA=="));
}

#[tokio::test(start_paused = true)]
async fn the_default_certificate_follows_the_nodes_and_the_root_can_be_read() {
    let authority = authority();
    let w = world(&authority).await;
    w.settle().await;
    let (namespace, name) = AUTHORITY_CONFIG_MAP;
    let root = || w.get(CONFIG_MAP, namespace, name);
    assert_eq!(root().value["data"], json!({"ca.crt": authority.root().pem}));
    w.change(&root(), Part::Main, |o| o["data"] = json!({"ca.crt": "x"})).await;
    w.settle().await;
    assert_eq!(root().value["data"]["ca.crt"], authority.root().pem.as_str());
    let of_default = || data(&w, DEFAULT_CERTIFICATE.0, DEFAULT_CERTIFICATE.1);
    assert!(of_default().is_none(), "there is no node");
    let node = |name: &str, ip: &str| json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
    let n1 = w.create_with_status(NODE, "", node("n1", "192.0.2.1")).await;
    w.settle().await;
    let first = of_default().unwrap();
    w.change(&n1, Part::Status, |o| o["status"]["phase"] = "x".into()).await;
    w.settle().await;
    assert_eq!(of_default().unwrap(), first, "nothing that matters has changed");
    w.create_with_status(NODE, "", node("n2", "2001:db8::2")).await;
    w.settle().await;
    let second = of_default().unwrap();
    assert_ne!(second, first);
    w.api.delete(&n1).await.unwrap();
    w.settle().await;
    assert_ne!(of_default().unwrap(), second);
    // A user brings another.
    let secret = w.get(secret_kind().unwrap(), DEFAULT_CERTIFICATE.0, DEFAULT_CERTIFICATE.1);
    let own = json!({"tls.crt": "eA==", "tls.key": "eA=="});
    w.change(&secret, Part::Main, |o| o["data"] = own.clone()).await;
    w.create_with_status(NODE, "", node("n3", "192.0.2.3")).await;
    tokio::time::sleep(Duration::from_secs(100 * 24 * 3600)).await;
    assert_eq!(of_default().unwrap(), own);
}
