//! kube-rs, as operators use it: a controller over a watcher, and children that it owns.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

use super::harness::TestServer;

/// Gives each ConfigMap a Secret of the same name, which it owns.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> kube::Result<Action> {
    let secrets: Api<Secret> = Api::namespaced((*client).clone(), "default");
    let owner = map.controller_owner_ref(&()).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": map.name_any(), "ownerReferences": [owner]},
        "stringData": {"of": map.uid()},
    });
    secrets.patch(&map.name_any(), &PatchParams::apply("operator").force(), &Patch::Apply(&secret)).await?;
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_controller_of_kube_rs_keeps_what_its_objects_own() {
    let s = TestServer::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(s.client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(s.client.clone(), "default");
    let selected = watcher::Config::default().labels("app=x").streaming_lists();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(
        Controller::new(maps.clone(), selected)
            .owns(secrets.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::new(s.client.clone()))
            .for_each(|_| async {}),
    );
    for i in 0..3 {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(format!("m{i}"));
        map.metadata.labels = Some([("app".to_owned(), if i < 2 { "x" } else { "y" }.to_owned())].into());
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let path = |name: &str| format!("/api/v1/namespaces/default/secrets/{name}");
    for name in ["m0", "m1"] {
        s.until(&path(name), |a| a.code == 200).await;
    }
    assert_eq!(secrets.list(&ListParams::default()).await.unwrap().items.len(), 2);

    // What somebody takes away comes back, as another object.
    let first = secrets.get("m0").await.unwrap();
    secrets.delete("m0", &DeleteParams::default()).await.unwrap();
    s.until(&path("m0"), |a| {
        a.code == 200 && a.body["metadata"]["uid"].as_str() != first.meta().uid.as_deref()
    })
    .await;
    // What belongs to an object that goes, goes with it.
    maps.delete("m1", &DeleteParams::default()).await.unwrap();
    s.until(&path("m1"), |a| a.code == 404).await;
    assert_eq!(running.len(), 1);
    assert!(running.try_join_next().is_none(), "the controller runs on");
}
