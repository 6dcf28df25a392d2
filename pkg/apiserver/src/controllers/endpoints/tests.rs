use super::*;
use crate::controllers::api::Part;
use crate::controllers::testing::World;
use crate::controllers::{mirror::Mirror, service_kinds};
use crate::registry::NODE;
use crate::table::list;

async fn world() -> (World, ServiceKinds) {
    let mut w = World::new().await;
    let kinds = service_kinds().unwrap();
    w.start(EndpointSlices::new(w.api.clone(), kinds));
    w.start(Mirror::new(w.api.clone(), kinds));
    for (name, zone) in [("n1", "east"), ("n2", "west")] {
        w.create(
            NODE,
            "",
            json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}}),
        )
        .await;
    }
    (w, kinds)
}

fn service(name: &str, selector: Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"team": "a"}},
        "spec": {"selector": selector, "ports": [{"name": "w", "port": 80, "targetPort": "http", "protocol": "TCP"}]}})
}

async fn pod(w: &World, n: usize, app: &str) -> Arc<Object> {
    let ip = format!("10.0.{}.{}", n / 200, n % 200 + 1);
    let body = json!({"metadata": {"name": format!("p{n}"), "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    w.create_with_status(POD, "default", body).await
}

/// Names and addresses of the slices of a Service.
fn slices(w: &World, kinds: ServiceKinds, service: &str) -> Vec<(String, Vec<String>)> {
    let all = w.cache().list_in(kinds.slice, "default");
    let ours = all.iter().filter(|s| label(&s.value, SERVICE_LABEL) == service);
    ours.map(|s| {
        let mut addresses: Vec<String> =
            list(&s.value, "/endpoints").iter().map(|e| text(e, "/addresses/0").to_owned()).collect();
        addresses.sort();
        (s.name.clone(), addresses)
    })
    .collect()
}

fn addresses(w: &World, kinds: ServiceKinds, service: &str) -> Vec<String> {
    slices(w, kinds, service).into_iter().flat_map(|(_, a)| a).collect()
}

#[tokio::test(start_paused = true)]
async fn slices_follow_pods_services_and_nodes() {
    let (w, kinds) = world().await;
    let s = w.create(kinds.service, "default", service("web", json!({"app": "web"}))).await;
    w.settle().await;
    assert!(!slices(&w, kinds, "web").is_empty() && addresses(&w, kinds, "web").is_empty());
    let first = pod(&w, 0, "web").await;
    pod(&w, 1, "web").await;
    pod(&w, 2, "db").await;
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web"), ["10.0.0.1", "10.0.0.2"]);
    let (name, _) = slices(&w, kinds, "web").into_iter().find(|(_, a)| !a.is_empty()).unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    let slice = w.get(kinds.slice, "default", &name);
    assert_eq!(label(&slice.value, MANAGED_BY_LABEL), "endpointslice-controller.k8s.io");
    assert_eq!(label(&slice.value, "team"), "a");
    assert_eq!(text(&slice.value, "/metadata/ownerReferences/0/uid"), s.uid());
    assert_eq!(slice.value["ports"][0]["port"], 8080);
    assert_eq!(
        (&slice.value["endpoints"][0]["zone"], &slice.value["endpoints"][0]["nodeName"]),
        (&json!("east"), &json!("n1"))
    );

    // Pods leave by label, by readiness, by their end; the zone of a node moves.
    w.change(&first, Part::Main, |o| o["metadata"]["labels"]["app"] = "db".into()).await;
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web"), ["10.0.0.2"]);
    let node = w.get(NODE, "", "n1");
    w.change(&node, Part::Main, |o| o["metadata"]["labels"]["topology.kubernetes.io/zone"] = "north".into())
        .await;
    w.settle().await;
    assert_eq!(w.get(kinds.slice, "default", &name).value["endpoints"][0]["zone"], "north");
    w.change(&s, Part::Main, |o| o["spec"]["selector"] = json!({"app": "db"})).await;
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web"), ["10.0.0.1", "10.0.0.3"]);
    w.api.delete(&node).await.unwrap();
    w.settle().await;
    assert!(addresses(&w, kinds, "web").is_empty(), "pods of a node that is gone are no endpoints");
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_written_for_readers_and_go_with_the_service() {
    let (w, kinds) = world().await;
    let s = w.create(kinds.service, "default", service("web", json!({"app": "web"}))).await;
    pod(&w, 0, "web").await;
    w.settle().await;
    let e = w.get(kinds.endpoints, "default", "web");
    assert_eq!(e.value["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
    assert_eq!(label(&e.value, legacy::MANAGED_BY_LABEL), "endpoint-controller");
    assert_eq!(
        slices(&w, kinds, "web").iter().filter(|(_, a)| !a.is_empty()).count(),
        1,
        "ours are not mirrored"
    );
    w.change(&e, Part::Main, |o| o["subsets"] = json!([])).await;
    w.settle().await;
    assert_eq!(w.get(kinds.endpoints, "default", "web").value["subsets"], e.value["subsets"]);
    w.api.delete(&s).await.unwrap();
    w.settle().await;
    assert!(w.find(kinds.endpoints, "default", "web").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_pod_rewrites_one_slice_and_rest_writes_nothing() {
    let (w, kinds) = world().await;
    w.create(kinds.service, "default", service("web", json!({"app": "web"}))).await;
    let mut pods = Vec::new();
    for n in 0..250 {
        pods.push(pod(&w, n, "web").await);
    }
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web").len(), 250);
    assert!(slices(&w, kinds, "web").iter().all(|(_, a)| a.len() <= 100));
    let versions = || {
        let all = w.cache().list_in(kinds.slice, "default");
        all.iter().map(|s| (s.name.clone(), s.revision)).collect::<Vec<_>>()
    };
    let before = versions();
    w.change(&pods[120], Part::Status, |o| o["status"]["conditions"][0]["status"] = "False".into()).await;
    w.settle().await;
    let changed = versions().iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!((changed, versions().len()), (1, before.len()));
    let revision = w.cache().revision();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(w.cache().revision(), revision);
}

#[tokio::test(start_paused = true)]
async fn slices_that_somebody_removes_or_changes_come_back() {
    let (w, kinds) = world().await;
    w.create(kinds.service, "default", service("web", json!({"app": "web"}))).await;
    pod(&w, 0, "web").await;
    w.settle().await;
    for slice in w.cache().list_in(kinds.slice, "default") {
        w.api.delete(&slice).await.unwrap();
    }
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web"), ["10.0.0.1"]);
    for slice in w.cache().list_in(kinds.slice, "default") {
        w.change(&slice, Part::Main, |o| o["endpoints"] = json!([{"addresses": ["10.9.9.9"]}])).await;
    }
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "web"), ["10.0.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn endpoints_of_ones_own_are_mirrored() {
    let (w, kinds) = world().await;
    let body = json!({"metadata": {"name": "ext", "labels": {"l": "1"}, "annotations": {"a": "1",
            "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "subsets": [{"addresses": [{"ip": "192.0.2.1", "nodeName": "n1"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "w", "port": 80, "protocol": "TCP"}]}]});
    let e = w.create(kinds.endpoints, "default", body).await;
    w.settle().await;
    assert!(slices(&w, kinds, "ext").is_empty(), "there is no Service yet");
    let mut headless = service("ext", Value::Null);
    headless["spec"].as_object_mut().unwrap().remove("selector");
    let s = w.create(kinds.service, "default", headless).await;
    w.settle().await;
    let mut all = addresses(&w, kinds, "ext");
    all.sort();
    assert_eq!(all, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    let found = w.cache().list_in(kinds.slice, "default");
    let v4 = found.iter().find(|s| text(&s.value, "/addressType") == "IPv4").unwrap();
    assert_eq!(label(&v4.value, MANAGED_BY_LABEL), "endpointslicemirroring-controller.k8s.io");
    assert_eq!((label(&v4.value, "l"), &v4.value["metadata"]["annotations"]), ("1", &json!({"a": "1"})));
    assert_eq!(v4.value["metadata"]["ownerReferences"][0]["uid"], e.uid());
    let ready: Vec<_> =
        list(&v4.value, "/endpoints").iter().map(|e| e["conditions"]["ready"].clone()).collect();
    assert_eq!(ready, [json!(true), json!(false)]);
    let revision = w.cache().revision();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(w.cache().revision(), revision);

    let e = w
        .change(&e, Part::Main, |o| {
            o["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"] = "true".into()
        })
        .await;
    w.settle().await;
    assert!(slices(&w, kinds, "ext").is_empty());
    w.change(&e, Part::Main, |o| {
        o["metadata"]["labels"] = json!({});
    })
    .await;
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "ext").len(), 3);
    w.change(&s, Part::Main, |o| o["spec"]["selector"] = json!({"app": "web"})).await;
    pod(&w, 0, "web").await;
    w.settle().await;
    assert_eq!(addresses(&w, kinds, "ext"), ["10.0.0.1"], "the selector decides from now on");
}
