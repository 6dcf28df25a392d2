use serde_json::{Value, json};

use super::harness::{Answer, TestServer, pod, request};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const APPLY: &str = "application/apply-patch+yaml";

async fn apply(s: &TestServer, path: &str, query: &str, config: Value) -> Answer {
    s.patch(&format!("{path}?{query}"), APPLY, config).await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})
}

fn managers(o: &Value) -> Vec<(&str, &str, &str)> {
    fn text<'a>(e: &'a Value, key: &str) -> &'a str {
        e[key].as_str().unwrap_or_default()
    }
    let all = o["metadata"]["managedFields"].as_array().into_iter().flatten();
    all.map(|e| (text(e, "manager"), text(e, "operation"), text(e, "subresource"))).collect()
}

#[tokio::test]
async fn apply_makes_changes_and_conflicts() {
    let s = TestServer::start().await;
    let path = format!("{MAPS}/c");
    let made = apply(&s, &path, "fieldManager=m", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let again = apply(&s, &path, "fieldManager=m", map(json!({"a": "1", "b": "1"}))).await;
    assert_eq!((again.code, &again.body), (200, &made.body), "the same again writes nothing");
    let less = apply(&s, &path, "fieldManager=m", map(json!({"a": "2"}))).await;
    assert_eq!(less.body["data"], json!({"a": "2"}));

    let clash = apply(&s, &path, "fieldManager=n", map(json!({"a": "3"}))).await;
    assert_eq!((clash.code, clash.body["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(clash.body["message"], "Apply failed with 1 conflict: conflict with \"m\": .data.a");
    assert_eq!(
        clash.body["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"m\"", "field": ".data.a"}])
    );
    let dry = apply(&s, &path, "fieldManager=n&force=true&dryRun=All", map(json!({"a": "3"}))).await;
    assert_eq!(dry.body["data"]["a"], "3");
    assert_eq!(s.get(&path).await["data"]["a"], "2");
    let forced = apply(&s, &path, "fieldManager=n&force=true", map(json!({"a": "3"}))).await;
    assert_eq!(managers(&forced.body), [("n", "Apply", "")]);

    // An update takes what it changes; its manager is its program.
    let agent = [("user-agent", "tool/1.0 (x)"), ("content-type", "application/merge-patch+json")];
    let r = request(&s.client, "PATCH", &path, &agent, json!({"data": {"a": "4"}})).await;
    assert_eq!(managers(&r.body), [("tool", "Update", "")]);
    let back = apply(&s, &path, "fieldManager=n", map(json!({"a": "3"}))).await;
    assert!(
        back.body["message"].as_str().unwrap().contains("conflict with \"tool\" using v1 at"),
        "{}",
        back.body
    );

    // YAML, as kubectl sends it.
    let yaml = json!("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata:\n  k: v\n");
    let made = apply(&s, &format!("{MAPS}/yaml"), "fieldManager=m", yaml).await;
    assert_eq!((made.code, &made.body["data"]["k"]), (201, &json!("v")), "{}", made.body);
}

#[tokio::test]
async fn what_an_apply_may_not_be() {
    let s = TestServer::start().await;
    let path = format!("{MAPS}/c");
    assert_eq!(apply(&s, &path, "", map(json!({}))).await.code, 400);
    let mut other = map(json!({}));
    other["metadata"]["name"] = "d".into();
    assert_eq!(apply(&s, &path, "fieldManager=m", other).await.code, 400);
    let mut managed = map(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(apply(&s, &path, "fieldManager=m", managed).await.code, 400);
    let mut unknown = map(json!({}));
    unknown["nonsense"] = 1.into();
    let refused = apply(&s, &path, "fieldManager=m", unknown).await;
    assert_eq!(refused.code, 400);
    assert!(
        refused.body["message"].as_str().unwrap().contains(".nonsense: field not declared"),
        "{}",
        refused.body
    );
    assert_eq!(apply(&s, &path, "fieldManager=m", json!("- a\n")).await.code, 400);
    let forced = s.patch(&format!("{path}?force=true"), "application/merge-patch+json", json!({})).await;
    assert_eq!(forced.code, 422);
    let missing = apply(&s, &format!("{PODS}/p/status"), "fieldManager=m", json!({"status": {}})).await;
    assert_eq!(missing.code, 404);
}

#[tokio::test]
async fn status_is_applied_through_its_own_door() {
    let s = TestServer::start().await;
    let made = s.create(PODS, pod("p", "n1", "web")).await;
    let condition = |status: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "status": {"conditions": [{"type": "Ready", "status": status}]}})
    };
    let door = format!("{PODS}/p/status");
    let r = apply(&s, &door, "fieldManager=agent", condition("True")).await;
    assert_eq!(r.code, 200, "{}", r.body);
    assert_eq!(r.body["status"]["phase"], "Pending");
    assert!(managers(&r.body).contains(&("agent", "Apply", "status")), "{:?}", managers(&r.body));
    let other = apply(&s, &door, "fieldManager=other", condition("False")).await;
    assert!(
        other.body["message"].as_str().unwrap().contains(
            "conflict with \"agent\" with subresource \"status\": .status.conditions[type=\"Ready\"].status"
        ),
        "{}",
        other.body
    );
    // Through the main door nothing of the status changes, and the spec's owners stay.
    let main = apply(&s, &format!("{PODS}/p"), "fieldManager=other", condition("False")).await;
    assert_eq!(main.body["status"]["conditions"][0]["status"], "True", "{}", main.body);
    assert_eq!(main.body["spec"], made["spec"]);
}

#[tokio::test]
async fn managers_can_be_rewritten_and_reset() {
    let s = TestServer::start().await;
    let path = format!("{MAPS}/c");
    apply(&s, &path, "fieldManager=m", map(json!({"a": "1"}))).await;
    let patch = json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "n"}]);
    let r = s.patch(&path, "application/json-patch+json", patch).await;
    assert_eq!(managers(&r.body), [("n", "Apply", "")], "{}", r.body);
    let reset =
        s.patch(&path, "application/merge-patch+json", json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(reset.body["metadata"].get("managedFields"), None, "{}", reset.body);
    // What was there before anyone was recorded is not taken over without force.
    let clash = apply(&s, &path, "fieldManager=m", map(json!({"a": "2"}))).await;
    assert_eq!(clash.code, 409, "{}", clash.body);
    // A broken list changes nothing.
    let bad = json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Nonsense"}]}, "data": {"b": "1"}});
    let r = s.patch(&path, "application/merge-patch+json", bad).await;
    assert_eq!((r.code, &r.body["data"]["b"]), (200, &json!("1")), "{}", r.body);
}

#[tokio::test]
async fn many_appliers_at_once_lose_nothing() {
    let s = TestServer::start().await;
    let path = format!("{MAPS}/c");
    let writes =
        (0..16).map(|i| {
            let (s, path) = (&s, &path);
            async move {
                apply(s, path, &format!("fieldManager=m{i}"), map(json!({format!("k{i}"): "v"}))).await.code
            }
        });
    let codes = futures::future::join_all(writes).await;
    assert!(codes.iter().all(|c| matches!(c, 200 | 201)), "{codes:?}");
    let o = s.get(&path).await;
    assert_eq!((o["data"].as_object().unwrap().len(), managers(&o).len()), (16, 16));
}
