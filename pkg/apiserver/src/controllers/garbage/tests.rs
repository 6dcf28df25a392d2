use super::*;
use crate::controllers::testing::World;
use crate::registry::{CONFIG_MAP, NODE};
use serde_json::json;

const MAP: KindId = CONFIG_MAP;

async fn world() -> World {
    let mut w = World::new().await;
    w.start(Garbage::new(w.api.clone()));
    w
}

fn owned(name: &str, by: &[&Object]) -> Value {
    let references: Vec<Value> = by
        .iter()
        .map(|o| {
            json!({"apiVersion": o.kind.get().api_version(), "kind": o.kind.get().kind, "name": o.name,
                "uid": o.uid(), "blockOwnerDeletion": true})
        })
        .collect();
    json!({"metadata": {"name": name, "ownerReferences": references}})
}

async fn map(w: &World, name: &str, by: &[&Object]) -> Arc<Object> {
    w.create(MAP, "default", owned(name, by)).await
}

async fn delete_with(w: &World, object: &Object, finalizer: &str) {
    let held = w.change(object, Part::Main, |o| o["metadata"]["finalizers"] = json!([finalizer])).await;
    w.api.delete(&held).await.unwrap();
}

fn there(w: &World, name: &str) -> bool {
    w.find(MAP, "default", name).is_some()
}

#[tokio::test(start_paused = true)]
async fn what_has_lost_every_owner_goes_and_its_dependents_too() {
    let w = world().await;
    let (a, b) = (map(&w, "a", &[]).await, map(&w, "b", &[]).await);
    let both = map(&w, "both", &[&a, &b]).await;
    map(&w, "below", &[&both]).await;
    let one = map(&w, "one", &[&a]).await;
    map(&w, "two", &[&one]).await;
    w.api.delete(&a).await.unwrap();
    w.settle().await;
    assert!(!there(&w, "one") && !there(&w, "two"));
    assert!(there(&w, "both") && there(&w, "below"));
    let left = w.get(MAP, "default", "both");
    assert_eq!(list(&left.value, "/metadata/ownerReferences").len(), 1, "the reference to what is gone goes");
    w.api.delete(&b).await.unwrap();
    w.settle().await;
    assert!(!there(&w, "both") && !there(&w, "below"));
}

#[tokio::test(start_paused = true)]
async fn owners_that_never_were_or_are_others_now_own_nothing() {
    let w = world().await;
    let a = map(&w, "a", &[]).await;
    w.api.delete(&a).await.unwrap();
    map(&w, "a", &[]).await;
    map(&w, "late", &[&a]).await;
    w.settle().await;
    assert!(!there(&w, "late") && there(&w, "a"));
    let elsewhere = w.create(MAP, "other", json!({"metadata": {"name": "far"}})).await;
    map(&w, "across", &[&elsewhere]).await;
    let unknown = json!({"metadata": {"name": "strange", "ownerReferences":
        [{"apiVersion": "example.com/v1", "kind": "Thing", "name": "x", "uid": "u"}]}});
    w.create(MAP, "default", unknown).await;
    w.settle().await;
    assert!(!there(&w, "across"), "an owner is looked for in the own namespace");
    assert!(there(&w, "strange"), "of a kind that is unknown here nobody can say that it is gone");
}

#[tokio::test(start_paused = true)]
async fn objects_of_the_cluster_own_too() {
    let w = world().await;
    let node = w.create(NODE, "", json!({"metadata": {"name": "n"}})).await;
    map(&w, "of-node", &[&node]).await;
    w.settle().await;
    assert!(there(&w, "of-node"));
    w.api.delete(&node).await.unwrap();
    w.settle().await;
    assert!(!there(&w, "of-node"));
}

#[tokio::test(start_paused = true)]
async fn in_the_foreground_owners_wait_for_what_they_own() {
    let w = world().await;
    let top = map(&w, "top", &[]).await;
    let middle = map(&w, "middle", &[&top]).await;
    let mut body = owned("leaf", &[&middle]);
    body["metadata"]["finalizers"] = json!(["example.com/x"]);
    let leaf = w.create(MAP, "default", body).await;
    delete_with(&w, &top, FOREGROUND).await;
    w.settle().await;
    assert!(ends(&w.get(MAP, "default", "top")) && ends(&w.get(MAP, "default", "middle")));
    assert!(ends(&w.get(MAP, "default", "leaf")));
    w.change(&leaf, Part::Main, |o| o["metadata"]["finalizers"] = json!([])).await;
    w.settle().await;
    assert!(!there(&w, "leaf") && !there(&w, "middle") && !there(&w, "top"));
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let w = world().await;
    let top = map(&w, "top", &[]).await;
    map(&w, "child", &[&top]).await;
    delete_with(&w, &top, ORPHAN).await;
    w.settle().await;
    assert!(!there(&w, "top"));
    assert!(list(&w.get(MAP, "default", "child").value, "/metadata/ownerReferences").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_while_it_did_not_run_is_found() {
    let mut w = World::new().await;
    let top = map(&w, "top", &[]).await;
    for i in 0..200 {
        map(&w, &format!("c{i}"), &[&top]).await;
    }
    w.api.delete(&top).await.unwrap();
    w.start(Garbage::new(w.api.clone()));
    w.settle().await;
    assert!(!there(&w, "c0") && !there(&w, "c199"));
    let before = w.cache().revision();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(w.cache().revision(), before);
}
