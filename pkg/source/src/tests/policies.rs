//! Namespaces and NetworkPolicies into the store.

use super::*;
use serde_json::Value;
use warren_types::{NamespaceState, NetworkPolicy};

fn policy(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": "u"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_and_policies_come_change_and_go() {
    let api = FakeApi::start().await;
    api.put("namespaces", json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}));
    api.put("networkpolicies", policy("deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]})));
    let bench = Bench::start(&api, false).await;
    let (namespaces, policies) =
        (bench.store.table::<NamespaceState>(), bench.store.table::<NetworkPolicy>());
    soon("the namespace", || namespaces.get("shop").is_some_and(|n| n.labels["team"] == "a")).await;
    soon("the policy", || policies.get("shop/deny").is_some_and(|p| p.egress.is_none())).await;
    api.put("namespaces", json!({"metadata": {"name": "shop", "labels": {"team": "b"}}}));
    soon("its new label", || namespaces.get("shop").is_some_and(|n| n.labels["team"] == "b")).await;
    let both = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{}]});
    api.put("networkpolicies", policy("deny", both));
    soon("its egress", || {
        policies.get("shop/deny").is_some_and(|p| p.egress.as_ref().is_some_and(|e| e.len() == 1))
    })
    .await;
    api.put("namespaces", json!({"metadata": {"name": "shop"}, "status": {"phase": "Terminating"}}));
    soon("its end in sight", || namespaces.get("shop").is_some_and(|n| n.terminating)).await;
    api.delete("networkpolicies", "shop/deny");
    api.delete("namespaces", "shop");
    soon("the end of both", || namespaces.snapshot().rows.is_empty() && policies.snapshot().rows.is_empty())
        .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_became_unreadable_is_named_and_stays_closed() {
    let api = FakeApi::start().await;
    let from = |peer: Value| policy("p", json!({"podSelector": {}, "ingress": [{"from": [peer]}]}));
    api.put("networkpolicies", from(json!({"podSelector": {}})));
    let bench = Bench::start(&api, false).await;
    let policies = bench.store.table::<NetworkPolicy>();
    let rules = || policies.get("shop/p").and_then(|p| p.ingress.as_ref().map(Vec::len));
    soon("the policy", || rules() == Some(1)).await;
    api.put("networkpolicies", from(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})));
    soon("the rule left out", || rules() == Some(0)).await;
    let refused = bench.status.report().refused;
    assert_eq!((refused[0].kind.as_str(), refused[0].object.as_str()), ("NetworkPolicy", "shop/p"));
    assert_eq!(refused[0].field, "spec.ingress.from.ipBlock.cidr");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_network_policies_has_none_and_the_rest_goes_on() {
    let api = FakeApi::start().await;
    api.without_networking(true, false);
    api.put("nodes", node("a", "10.42.0.0/24"));
    let bench = Bench::start(&api, false).await;
    let policies = bench.store.table::<NetworkPolicy>();
    soon("the node", || bench.nodes() == ["a"]).await;
    soon("no policies", || policies.loaded() && bench.status.report().synced.values().all(|s| *s)).await;
    assert_eq!(bench.status.report().write_errors, [].into());
    // It learns them after all.
    api.put("networkpolicies", policy("deny", json!({})));
    api.without_networking(false, false);
    soon("the policy", || policies.get("shop/deny").is_some()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_found_is_no_proof_that_there_are_no_policies() {
    let api = FakeApi::start().await;
    api.without_networking(true, true);
    api.put("nodes", node("a", "10.42.0.0/24"));
    let bench = Bench::start(&api, false).await;
    soon("the node", || bench.nodes() == ["a"]).await;
    let failure = || bench.status.report().write_errors.contains_key("watch NetworkPolicy");
    soon("the failure named", failure).await;
    assert!(!bench.store.table::<NetworkPolicy>().loaded());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_are_no_longer_served_stay_in_force() {
    let api = FakeApi::start().await;
    api.put("networkpolicies", policy("deny", json!({})));
    let bench = Bench::start(&api, false).await;
    let policies = bench.store.table::<NetworkPolicy>();
    soon("the policy", || policies.get("shop/deny").is_some()).await;
    api.without_networking(true, false);
    api.expire(true);
    soon("the failure named", || {
        let errors = bench.status.report().write_errors;
        errors.get("watch NetworkPolicy").is_some_and(|e| e.contains("stay in force"))
    })
    .await;
    assert!(policies.get("shop/deny").is_some());
    bench.end().await;
}
