//! The kinds of the Gateway API: they come, they go, and what is said of their objects is written.

use super::*;
use crate::gateways::Gateways;
use serde_json::Value;
use warren_store::Durability::Cached;
use warren_types::{
    Condition, Gateway, GatewayClass, GatewayObject, GatewayStatus, GatewayTold, HttpRoute, ReferenceGrant,
};

const KINDS: [&str; 5] = ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"];

struct Following {
    _dir: tempfile::TempDir,
    store: Store,
    status: SourceStatus,
    stop: CancellationToken,
    task: tokio::task::JoinSet<Result<(), SourceError>>,
}

impl Following {
    async fn start(api: &FakeApi) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap().store;
        let (status, stop) = (SourceStatus::default(), CancellationToken::new());
        let client = ApiAccess::Kubeconfig(kubeconfig).client(&status).await.unwrap().client;
        let gateways = Gateways::new(&client, &store, &status).asking_every(Duration::from_millis(50));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(gateways.run(stop.clone()));
        Self { _dir: dir, store, status, stop, task }
    }

    async fn end(mut self) {
        self.stop.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
    }
}

fn class() -> Value {
    json!({"metadata": {"name": "warren", "uid": "u-class"}, "spec": {"controllerName": "warren.dev/gateway-controller"}})
}

fn gateway(port: u16) -> Value {
    json!({"metadata": {"name": "gw", "namespace": "shop", "uid": "u-gw"},
        "spec": {"gatewayClassName": "warren", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_come_are_followed_and_go() {
    let api = FakeApi::start().await;
    let following = Following::start(&api).await;
    let (classes, gateways) = (following.store.table::<GatewayClass>(), following.store.table::<Gateway>());
    soon("that there is nothing", || gateways.loaded() && following.store.table::<HttpRoute>().loaded())
        .await;
    assert_eq!(
        (api.lists("gateways"), following.status.report().synced.len()),
        (0, 0),
        "nothing is asked for"
    );

    api.put("gatewayclasses", class());
    api.put("gateways", gateway(80));
    api.serve_gateways("v1", &KINDS[..2]);
    soon("the class", || classes.get("warren").is_some()).await;
    soon("the Gateway", || gateways.get("shop/gw").is_some()).await;
    api.put("gateways", gateway(81));
    soon("its new port", || gateways.get("shop/gw").unwrap().listeners[0].port == 81).await;

    // One of them goes, with its objects; the other stays.
    api.serve_gateways("v1", &KINDS[..1]);
    soon("the end of the Gateway", || gateways.snapshot().rows.is_empty()).await;
    assert!(classes.get("warren").is_some());
    api.serve_gateways("v1", &KINDS[..2]);
    soon("the Gateway again", || gateways.get("shop/gw").is_some()).await;
    following.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_read_in_the_version_that_there_is() {
    let api = FakeApi::start().await;
    api.put(
        "referencegrants",
        json!({"metadata": {"name": "g", "namespace": "shop"}, "spec": {"from": [], "to": []}}),
    );
    api.serve_gateways("v1", &KINDS[..4]);
    api.serve_gateways("v1beta1", &KINDS);
    let following = Following::start(&api).await;
    let grants = following.store.table::<ReferenceGrant>();
    soon("the grant", || grants.get("shop/g").is_some()).await;
    let before = api.lists("referencegrants");
    api.serve_gateways("v1", &KINDS);
    soon("the better version", || api.lists("referencegrants") > before).await;
    soon("the grant", || grants.get("shop/g").is_some()).await;
    following.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_said_is_written_once() {
    let api = FakeApi::start().await;
    api.put("gatewayclasses", class());
    api.put("gateways", gateway(80));
    api.serve_gateways("v1", &KINDS);
    let following = Following::start(&api).await;
    let condition = Condition {
        kind: "Accepted".into(),
        holds: true,
        reason: "Accepted".into(),
        message: String::new(),
        generation: 1,
    };
    let conditions = vec![condition];
    let class = GatewayStatus {
        kind: GatewayObject::Class,
        object: "warren".into(),
        uid: "u-class".into(),
        told: GatewayTold::Class { conditions: conditions.clone() },
    };
    let addresses = vec!["192.0.2.1".parse().unwrap()];
    let gw = GatewayStatus {
        kind: GatewayObject::Gateway,
        object: "shop/gw".into(),
        uid: "u-gw".into(),
        told: GatewayTold::Gateway { addresses, conditions, listeners: Vec::new() },
    };
    let namesake = GatewayStatus { uid: "another".into(), object: "shop/gw2".into(), ..gw.clone() };
    let table = following.store.table::<GatewayStatus>();
    table.replace(vec![class, gw, namesake], Cached).await.unwrap();
    let accepted = |of: Option<Value>| of.is_some_and(|o| o["status"]["conditions"][0]["status"] == "True");
    soon("the class' status", || accepted(api.get("gatewayclasses", "warren"))).await;
    soon("the Gateway's status", || accepted(api.get("gateways", "shop/gw"))).await;
    let shown = api.get("gateways", "shop/gw").unwrap();
    assert_eq!(shown["status"]["addresses"][0]["value"], "192.0.2.1");
    // Somebody takes it away: it is written again, and then no more.
    api.put("gateways", gateway(80));
    soon("the Gateway's status again", || accepted(api.get("gateways", "shop/gw"))).await;
    assert_eq!((api.writes("gateways"), api.writes("gatewayclasses")), (2, 1));
    following.end().await;
}
