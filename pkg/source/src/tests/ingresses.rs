//! Ingresses, their classes and Secrets into the store, and what is said of them back into the API.

use super::*;
use serde_json::Value;
use std::collections::BTreeSet;
use warren_store::Durability::Cached;
use warren_types::{
    Fault, Ingress, IngressAddresses, IngressClass, IngressFaults, IngressKey, SecretObject, SecretRef,
    WantedSecrets,
};

fn web(path: &str, status: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "status": status,
        "spec": {"ingressClassName": "warren", "tls": [{"hosts": ["a.example"], "secretName": "tls"}],
            "rules": [{"host": "a.example", "http": {"paths": [{"path": path, "pathType": "Prefix",
                "backend": {"service": {"name": "web", "port": {"name": "http"}}}}]}}]}})
}

fn class(controller: &str) -> Value {
    json!({"metadata": {"name": "warren", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": controller}})
}

fn key() -> IngressKey {
    IngressKey::parse("shop/web").unwrap()
}

fn secret(name: &str, text: &str) -> Value {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(text);
    json!({"metadata": {"name": name, "namespace": "shop"}, "type": "kubernetes.io/tls", "data": {"tls.key": text}})
}

async fn want(bench: &Bench, names: &[&str]) {
    let secrets: BTreeSet<SecretRef> =
        names.iter().map(|n| SecretRef::parse(&format!("shop/{n}")).unwrap()).collect();
    let table = bench.store.table::<WantedSecrets>();
    table.put(WantedSecrets { secrets }, Cached).await.unwrap();
    table.mark_loaded().await.unwrap();
}

/// What table `secrets` holds: names, with the key in each; `-` for one that is said not to be.
fn held(bench: &Bench) -> Vec<String> {
    let rows = bench.store.table::<SecretObject>().snapshot().rows;
    let text = |row: &SecretObject| match &row.content {
        None => "-".to_owned(),
        Some(c) => String::from_utf8(c.data["tls.key"].expose().to_vec()).unwrap(),
    };
    rows.iter().map(|(key, row)| format!("{key}={}", text(row))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ingresses_and_classes_come_change_and_go() {
    let api = FakeApi::start().await;
    api.put("ingressclasses", class("warren.dev/ingress"));
    api.put("ingresses", web("/", json!({})));
    let bench = Bench::start(&api, false).await;
    let (ingresses, classes) = (bench.store.table::<Ingress>(), bench.store.table::<IngressClass>());
    soon("the class", || classes.get("warren").is_some_and(|c| c.is_default)).await;
    soon("the Ingress", || ingresses.get("shop/web").is_some_and(|i| i.rules[0].paths[0].path == "/")).await;
    api.put("ingresses", web("/shop", json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})));
    soon("its new path", || {
        ingresses
            .get("shop/web")
            .is_some_and(|i| i.rules[0].paths[0].path == "/shop" && i.published.len() == 1)
    })
    .await;
    // One that cannot be told whose it is, stays as it was.
    let mut unreadable = web("/other", json!({}));
    unreadable["spec"]["ingressClassName"] = json!({});
    api.put("ingresses", unreadable);
    soon("the refusal", || bench.status.report().refused.iter().any(|r| r.kind == "Ingress")).await;
    assert_eq!(ingresses.get("shop/web").unwrap().rules[0].paths[0].path, "/shop");
    api.delete("ingresses", "shop/web");
    api.delete("ingressclasses", "warren");
    soon("the end of both", || ingresses.snapshot().rows.is_empty() && classes.snapshot().rows.is_empty())
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_ingresses_has_none_and_the_rest_goes_on() {
    let api = FakeApi::start().await;
    api.without_networking(true, false);
    api.put("nodes", node("a", "10.42.0.0/24"));
    let bench = Bench::start(&api, false).await;
    soon("the node", || bench.nodes() == ["a"]).await;
    let (ingresses, classes) = (bench.store.table::<Ingress>(), bench.store.table::<IngressClass>());
    soon("no Ingress is known to be", || ingresses.loaded() && classes.loaded()).await;
    assert!(bench.status.report().write_errors.is_empty());
    api.without_networking(false, false);
    api.put("ingresses", web("/", json!({})));
    soon("the Ingress", || ingresses.get("shop/web").is_some()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_secrets_are_read_each_alone() {
    let api = FakeApi::start().await;
    for (name, text) in [("tls", "one"), ("other", "two"), ("unwanted", "three")] {
        api.put("secrets", secret(name, text));
    }
    let bench = Bench::start(&api, false).await;
    let table = bench.store.table::<SecretObject>();
    soon("the other lists", || bench.store.table::<Node>().loaded()).await;
    assert!(!table.loaded() && api.lists("secrets") == 0, "nobody has said what is wanted");
    want(&bench, &["tls", "missing"]).await;
    soon("both are known", || held(&bench) == ["shop/missing=-", "shop/tls=one"] && table.loaded()).await;
    soon("both are watched", || api.watched_secrets() == ["shop/missing", "shop/tls"]).await;
    api.put("secrets", secret("tls", "renewed"));
    api.put("secrets", secret("missing", "came"));
    api.put("secrets", secret("unwanted", "changed"));
    soon("both changed", || held(&bench) == ["shop/missing=came", "shop/tls=renewed"]).await;
    api.delete("secrets", "shop/tls");
    soon("its end is known", || held(&bench) == ["shop/missing=came", "shop/tls=-"]).await;
    want(&bench, &["other", "missing"]).await;
    soon("what nobody wants is forgotten", || held(&bench) == ["shop/missing=came", "shop/other=two"]).await;
    soon("and not watched any more", || api.watched_secrets() == ["shop/missing", "shop/other"]).await;
    assert_eq!(api.lists("secrets"), 3, "one that is wanted again and still is not listed again");
    want(&bench, &[]).await;
    soon("nothing", || held(&bench).is_empty() && api.watched_secrets().is_empty()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_survive_a_loss_of_the_api_and_of_its_history() {
    let api = FakeApi::start().await;
    api.put("secrets", secret("tls", "one"));
    let bench = Bench::start(&api, false).await;
    want(&bench, &["tls"]).await;
    soon("the Secret", || held(&bench) == ["shop/tls=one"]).await;
    for (in_stream, text) in [(true, "two"), (false, "three")] {
        soon("its watch", || api.watched_secrets() == ["shop/tls"]).await;
        api.put("secrets", secret("tls", text));
        api.expire(in_stream);
        soon("a new list", || held(&bench) == [format!("shop/tls={text}")]).await;
    }
    api.down().await;
    soon("loss noticed", || !bench.status.report().connected).await;
    assert_eq!(held(&bench), ["shop/tls=three"]);
    api.put("secrets", secret("tls", "four"));
    api.up().await;
    soon("found again", || held(&bench) == ["shop/tls=four"]).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_may_not_be_read_is_named_and_holds_up_no_other() {
    let api = FakeApi::start().await;
    api.put("secrets", secret("tls", "one"));
    api.put("secrets", secret("closed", "two"));
    api.forbid_secrets(&["shop/closed"]);
    let bench = Bench::start(&api, false).await;
    want(&bench, &["tls", "closed"]).await;
    let table = bench.store.table::<SecretObject>();
    soon("the other, and that the first round is over", || {
        held(&bench) == ["shop/tls=one"] && table.loaded()
    })
    .await;
    soon("its name", || bench.status.report().write_errors.contains_key("Secret shop/closed")).await;
    api.forbid_secrets(&[]);
    soon("it is read", || held(&bench) == ["shop/closed=two", "shop/tls=one"]).await;
    soon("and no more said of it", || bench.status.report().write_errors.is_empty()).await;
    api.forbid_secrets(&["shop/closed"]);
    api.expire(true);
    soon("its name again", || bench.status.report().write_errors.contains_key("Secret shop/closed")).await;
    assert_eq!(held(&bench), ["shop/closed=two", "shop/tls=one"], "what is known stays");
    want(&bench, &["tls"]).await;
    soon("what nobody wants has no faults", || bench.status.report().write_errors.is_empty()).await;
    bench.end().await;
}

/// All that is logged, from every crate, at the finest level.
#[derive(Clone, Default)]
struct Logged(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Logged {
    fn everything() -> Self {
        let logged = Self::default();
        let into = logged.clone();
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        all.with_writer(move || into.clone()).init();
        logged
    }
}
impl std::io::Write for Logged {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_unreadable_answers_and_entries_quotes_nothing() {
    let logged = Logged::everything();
    let api = FakeApi::start().await;
    api.put("secrets", secret("tls", "hunter2"));
    api.talk_nonsense(true);
    let bench = Bench::start(&api, false).await;
    want(&bench, &["tls"]).await;
    soon("the fault", || bench.status.report().write_errors.contains_key("Secret shop/tls")).await;
    assert_eq!(bench.status.report().write_errors["Secret shop/tls"], "the API's answer cannot be read");
    api.talk_nonsense(false);
    soon("the Secret", || held(&bench) == ["shop/tls=hunter2"]).await;
    let mut broken = secret("tls", "x");
    broken["data"] = json!({"tls.key": "hunter2!", "auth": "eA=="});
    api.put("secrets", broken);
    soon("the refusal", || bench.status.report().refused.iter().any(|r| r.kind == "Secret")).await;
    let text =
        format!("{:?} {:?}", bench.status.report(), bench.store.table::<SecretObject>().snapshot().rows);
    assert!(text.contains("shop/tls") && !text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    let log = String::from_utf8_lossy(&logged.0.lock().unwrap()).into_owned();
    assert!(log.contains("data[\"tls.key\"]"), "the refusal is logged");
    let quoted: Vec<&str> =
        log.lines().filter(|l| l.contains("hunter2") || l.contains("aHVudGVyMg")).collect();
    assert_eq!(quoted, [""; 0]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_secrets_than_there_may_be_are_told() {
    let api = FakeApi::start().await;
    let bench = Bench::start(&api, false).await;
    let names: Vec<String> = (0..crate::secrets::MAX_SECRETS + 3).map(|n| format!("s{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    want(&bench, &names).await;
    soon("the first of them", || held(&bench).len() == crate::secrets::MAX_SECRETS).await;
    let told = bench.status.report().write_errors["Secrets"].clone();
    assert_eq!(told, "503 are wanted; the first 500 of them are followed");
    want(&bench, &names[..2]).await;
    soon("two", || held(&bench).len() == 2 && bench.status.report().write_errors.is_empty()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_into_the_status_and_are_kept_there() {
    let api = FakeApi::start().await;
    api.put("ingresses", web("/", json!({})));
    let bench = Bench::start(&api, false).await;
    let table = bench.store.table::<IngressAddresses>();
    let at = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        IngressAddresses { ingress: key(), uid: "u".into(), addresses }
    };
    let shown = || api.get("ingresses", "shop/web").unwrap()["status"]["loadBalancer"]["ingress"].clone();
    table.put(at(&["192.0.2.1", "2001:db8::1"]), Cached).await.unwrap();
    table.mark_loaded().await.unwrap();
    let both = json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]);
    soon("the status", || shown() == both).await;
    api.put("ingresses", web("/", json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}})));
    soon("the status again", || shown() == both).await;
    table.put(at(&[]), Cached).await.unwrap();
    soon("an empty status", || shown() == Value::Null).await;
    assert!(bench.status.report().write_errors.is_empty());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_become_events_and_what_the_door_refuses_too_when_it_is_warrens() {
    for (controller, refusals) in [("warren.dev/ingress", 1), ("example.org/other", 0)] {
        let api = FakeApi::start().await;
        let mut ready = node("n1", "10.42.0.0/24");
        ready["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        api.put("nodes", ready);
        api.put("ingressclasses", class(controller));
        api.put("ingresses", web("relative", json!({})));
        let bench = Bench::start(&api, false).await;
        soon("the class", || bench.store.table::<IngressClass>().loaded()).await;
        let fault = Fault { reason: "NoService".into(), message: "no Service web".into() };
        let faults = bench.store.table::<IngressFaults>();
        faults
            .put(IngressFaults { ingress: key(), uid: "u".into(), faults: vec![fault] }, Cached)
            .await
            .unwrap();
        faults.mark_loaded().await.unwrap();
        soon("the Events", || api.keys("events").len() > refusals).await;
        let events: Vec<Value> =
            api.keys("events").iter().map(|name| api.get("events", name).unwrap()).collect();
        assert_eq!(events.len(), 1 + refusals);
        let of = |reason: &str| events.iter().find(|e| e["reason"] == reason);
        let about = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "namespace": "shop",
            "name": "web", "uid": "u"});
        let event = of("NoService").unwrap();
        assert_eq!((&event["involvedObject"], &event["message"]), (&about, &json!("no Service web")));
        assert_eq!(event["source"], json!({"component": "warren", "host": "n1"}));
        assert_eq!(of("FieldRefused").is_some(), refusals == 1);
        bench.end().await;
    }
}
