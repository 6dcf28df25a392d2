//! Services into the store, and what is said of them back into the API.

use super::*;
use serde_json::Value;
use warren_store::Durability::Cached;
use warren_types::{
    EndpointSlice, Fault, LoadBalancerAddresses, Service, ServiceFaults, ServiceKey, ServiceName,
};

fn web() -> ServiceKey {
    ServiceKey { namespace: Namespace::new("shop").unwrap(), name: ServiceName::new("web").unwrap() }
}

fn balancer(status: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"type": "LoadBalancer"},
        "status": status})
}

fn addresses(list: &[&str], faults: Vec<Fault>) -> LoadBalancerAddresses {
    let addresses = list.iter().map(|a| a.parse().unwrap()).collect();
    LoadBalancerAddresses { service: web(), uid: "u".into(), addresses, faults }
}

fn fault(reason: &str) -> Fault {
    Fault { reason: reason.into(), message: format!("{reason}: choose another") }
}

fn ingress(api: &FakeApi) -> Value {
    api.get("services", "shop/web").unwrap()["status"]["loadBalancer"]["ingress"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_slices_come_and_go() {
    let api = FakeApi::start().await;
    let slice = |labels: Value| {
        json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": labels}, "addressType": "IPv4",
            "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.42.0.2"]}]})
    };
    let owned = json!({"kubernetes.io/service-name": "web"});
    api.put("services", balancer(json!({})));
    let bench = Bench::start(&api, false).await;
    let (services, slices) = (bench.store.table::<Service>(), bench.store.table::<EndpointSlice>());
    soon("the Service", || services.get("shop/web").is_some()).await;
    soon("the empty list of slices", || slices.loaded()).await;
    api.put("endpointslices", slice(owned.clone()));
    soon("the slice", || slices.get("shop/web-1").is_some_and(|s| s.endpoints.len() == 1)).await;
    // A slice that is taken from its Service ends.
    api.put("endpointslices", slice(json!({})));
    soon("the slice taken away", || slices.get("shop/web-1").is_none()).await;
    api.put("endpointslices", slice(owned));
    soon("the slice given back", || slices.get("shop/web-1").is_some()).await;
    api.delete("services", "shop/web");
    soon("the Service gone", || services.get("shop/web").is_none()).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancer_addresses_come_into_the_status_and_are_kept_there() {
    let api = FakeApi::start().await;
    api.put("services", balancer(json!({})));
    let bench = Bench::start(&api, false).await;
    let table = bench.store.table::<LoadBalancerAddresses>();
    table.put(addresses(&["192.0.2.1", "2001:db8::1"], vec![]), Cached).await.unwrap();
    soon("the Service", || bench.store.table::<Service>().loaded()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(api.writes("services"), 0, "nothing is written before the balancer knows its rows");
    table.mark_loaded().await.unwrap();
    let both = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "2001:db8::1", "ipMode": "VIP"}]);
    soon("the status", || ingress(&api) == both).await;
    let writes = api.writes("services");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(api.writes("services"), writes, "what matches is not written again");
    // Somebody else's word is corrected; what is gone is waited for, in silence.
    api.put("services", balancer(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}})));
    soon("the status again", || ingress(&api) == both).await;
    api.forget("services", "shop/web");
    table.put(addresses(&["192.0.2.2"], vec![]), Cached).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(bench.status.report().write_errors.is_empty(), "{:?}", bench.status.report());
    api.put("services", balancer(json!({})));
    soon("the new address", || ingress(&api) == json!([{"ip": "192.0.2.2", "ipMode": "VIP"}])).await;
    table.put(addresses(&[], vec![]), Cached).await.unwrap();
    soon("an empty status", || ingress(&api) == Value::Null).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_becomes_one_event_also_over_a_restart() {
    let api = FakeApi::start().await;
    api.put("services", balancer(json!({})));
    let mut names = Vec::new();
    for run in 0..2 {
        let bench = Bench::start(&api, false).await;
        let (proxy, balancers) =
            (bench.store.table::<ServiceFaults>(), bench.store.table::<LoadBalancerAddresses>());
        let row = ServiceFaults { service: web(), uid: "u".into(), faults: vec![fault("NodePortTaken")] };
        proxy.put(row, Cached).await.unwrap();
        balancers.put(addresses(&[], vec![fault("NoAddress")]), Cached).await.unwrap();
        proxy.mark_loaded().await.unwrap();
        balancers.mark_loaded().await.unwrap();
        soon("two Events", || api.keys("events").len() == 2 && api.writes("events") == 2 * (run + 1)).await;
        names.push(api.keys("events"));
        bench.end().await;
    }
    assert_eq!(names[0], names[1]);
    let event = |reason: &str| {
        let all = names[0].iter().map(|n| api.get("events", n).unwrap());
        all.into_iter().find(|e| e["reason"] == reason).unwrap()
    };
    let e = event("NodePortTaken");
    let about =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u"});
    assert_eq!((&e["involvedObject"], &e["type"]), (&about, &json!("Warning")));
    assert_eq!(e["source"], json!({"component": "warren", "host": "n1"}));
    assert_eq!(e["message"], "NodePortTaken: choose another");
    assert_eq!(event("NoAddress")["metadata"]["namespace"], "shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_door_refuses_of_services_is_told_by_one_node() {
    for (first, tells) in [("n1", true), ("n0", false)] {
        let api = FakeApi::start().await;
        for name in [first, "n1", "n2"] {
            let mut ready = node(name, "10.42.0.0/24");
            ready["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
            api.put("nodes", ready);
        }
        let mut service = balancer(json!({}));
        service["spec"]["externalIPs"] = json!(["127.0.0.1"]);
        api.put("services", service);
        api.put(
            "endpointslices",
            json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "endpoints": [{"addresses": ["169.254.169.254"]}]}),
        );
        let bench = Bench::start(&api, false).await;
        // A fault of this node's own is told by each; it shows that the rest had its turn.
        let proxy = bench.store.table::<ServiceFaults>();
        let row = ServiceFaults { service: web(), uid: "u".into(), faults: vec![fault("NodePortTaken")] };
        proxy.put(row, Cached).await.unwrap();
        proxy.mark_loaded().await.unwrap();
        let wanted = if tells { 3 } else { 1 };
        soon("the Events", || api.keys("events").len() >= wanted).await;
        let mut messages: Vec<String> = api
            .keys("events")
            .iter()
            .map(|n| api.get("events", n).unwrap()["message"].as_str().unwrap().to_owned())
            .collect();
        messages.sort();
        assert_eq!(messages.len(), wanted, "{messages:?}");
        if tells {
            let part =
                "EndpointSlice web-1: endpoints.addresses: 169.254.169.254 cannot be another host's address";
            assert!(messages[0].starts_with(part), "{messages:?}");
            assert!(messages[2].starts_with("spec.externalIPs: 127.0.0.1 cannot be"), "{messages:?}");
        }
        bench.end().await;
    }
}
