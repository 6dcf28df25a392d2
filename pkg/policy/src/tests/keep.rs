//! What is known after a restart of what went before, wherever it was cut off. Needs root.

use super::gate::{Node, on_a_node};
use crate::decide::Flow;
use crate::engine::Unknown;
use crate::held::RememberedNamespace;
use std::collections::BTreeSet;
use warren_store::{Durability, Store};
use warren_types::*;

fn state(name: &str, terminating: bool) -> NamespaceState {
    let labels = [("name".to_owned(), name.to_owned())].into();
    NamespaceState { name: Namespace::new(name).expect("a name"), labels, terminating }
}

async fn put<R: warren_store::Record>(store: &Store, row: R) {
    store.table().put(row, Durability::Cached).await.expect("written");
}

/// The API has taken away the policy of the namespace.
async fn removed(store: &Store) {
    store.table::<NetworkPolicy>().delete("closed/deny", Durability::Cached).await.expect("written");
}

fn held(node: &Node) -> usize {
    node.status.look(|engine| engine.counts().held).unwrap_or_default()
}

async fn is_isolated(node: &Node) -> bool {
    let isolated = node.nft.element_counts("pol_in4").await.expect("the map");
    isolated.contains_key([10, 42, 0, 7].as_slice())
}

#[test]
fn a_policy_stays_whose_removal_the_runner_did_not_live_to_see() {
    on_a_node(Unknown::Closed, |node| async move {
        node.hear().await;
        let key = node.attach_at("a", Some("closed/a"), 7).await;
        node.see("closed/a").await;
        node.lets_in(&key).await;
        let node = node
            .restart(async |store| {
                put(store, state("closed", true)).await;
                removed(store).await;
            })
            .await;
        node.lets_in(&key).await;
        assert!(is_isolated(&node).await, "its policy is gone, and its namespace is not");
        assert_eq!(held(&node), 1);
        // And once more, though nothing is new.
        let node = node.restart(async |_| {}).await;
        node.lets_in(&key).await;
        assert!(is_isolated(&node).await);
        assert_eq!(held(&node), 1);
    });
}

#[test]
fn a_policy_that_was_removed_meanwhile_goes_unless_its_namespace_does() {
    for goes in [false, true] {
        on_a_node(Unknown::Closed, |node| async move {
            node.hear().await;
            let key = node.attach_at("a", Some("closed/a"), 7).await;
            node.see("closed/a").await;
            node.lets_in(&key).await;
            let node = node.restart(removed).await;
            node.lets_in(&key).await;
            assert!(!is_isolated(&node).await, "the policy was removed");
            // A watch may tell of the namespace later than of what is in it, and the runner may die again in between.
            let node = node.restart(async |store| put(store, state("closed", goes)).await).await;
            node.lets_in(&key).await;
            assert_eq!(is_isolated(&node).await, goes);
            assert_eq!(held(&node), usize::from(goes));
        });
    }
}

#[test]
fn labels_of_a_namespace_that_is_gone_count_while_there_are_pods_in_it() {
    on_a_node(Unknown::Closed, |node| async move {
        node.hear().await;
        let named = |name: &str| {
            let values = BTreeSet::from([name.to_owned()]);
            Selector::new([Requirement::In("name".to_owned(), values)])
        };
        let peers = vec![PolicyPeer::Pods { namespaces: Some(named("gone")), pods: Selector::default() }];
        let policy = NetworkPolicy {
            key: PolicyKey::parse("closed/deny").expect("a name"),
            uid: String::new(),
            pods: Selector::default(),
            ingress: Some(vec![PolicyRule { peers, ports: Vec::new() }]),
            egress: None,
        };
        put(&node.store, policy).await;
        put(&node.store, state("gone", false)).await;
        let server = node.attach_at("a", Some("closed/a"), 7).await;
        let client = node.attach_at("b", Some("gone/b"), 8).await;
        node.see("closed/a").await;
        node.see("gone/b").await;
        node.lets_in(&server).await;
        node.lets_in(&client).await;
        let flow =
            Flow { source: [10, 42, 0, 8].into(), destination: [10, 42, 0, 7].into(), protocol: 6, port: 80 };
        let is_allowed = |node: &Node| node.status.look(|engine| engine.is_allowed(&flow)).unwrap_or(false);
        assert!(is_allowed(&node), "as long as its namespace is there");
        let remembered = node.store.table::<RememberedNamespace>();
        let mut watch = remembered.watch();
        node.store.table::<NamespaceState>().delete("gone", Durability::Cached).await.expect("written");
        while remembered.snapshot().rows.is_empty() {
            watch.next().await.expect("the store is open");
        }
        let node = node.restart(async |_| {}).await;
        node.lets_in(&server).await;
        assert!(is_allowed(&node), "the namespace's labels are forgotten");
        assert_eq!(remembered.snapshot().rows.len(), 1);
        // With its last pod it is forgotten.
        let mut watch = remembered.watch();
        let attachment = warren_store::tables::attachment_key(&client);
        node.store.table::<Pod>().delete("gone/b", Durability::Cached).await.expect("written");
        node.store.table::<Attachment>().delete(&attachment, Durability::Cached).await.expect("written");
        while !remembered.snapshot().rows.is_empty() {
            watch.next().await.expect("the store is open");
        }
    });
}
