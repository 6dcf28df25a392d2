//! Calls that die half way, and what the next start makes of them.

use super::support::*;
use crate::engine::{Recovered, Step};
use crate::plugin;
use crate::spec::{Call, Parsed, Request};
use serde_json::json;
use warren_netlink::NetNs;
use warren_types::AttachmentPhase;

fn parsed(call: &Call) -> Parsed {
    call.parse().unwrap()
}

/// ADD that dies at a step.
fn dying_add(node: &Node, id: &str, pod: &NetNs, step: Step) {
    let (call, pod) = (node.call("ADD", id, Some(pod)), pod.try_clone().unwrap());
    node.engine(async move |engine| {
        engine.recover().await.unwrap();
        engine.crash_at(step);
        let Request::Add(request) = parsed(&call).request else { panic!() };
        let refusal = engine.add(&request, &pod, None).await.unwrap_err();
        assert!(refusal.msg.contains("ended at"), "{refusal}");
    });
}

#[test]
fn an_add_that_died_anywhere_is_rolled_back() {
    let node = Node::new();
    for step in [Step::PairMade, Step::Leased, Step::Prepared, Step::Raised] {
        let pod = fresh();
        dying_add(&node, "c1", &pod, step);
        assert_ne!(node.kernel().0.len(), 0, "{step:?}");
        let report = node.engine(async |engine| engine.recover().await.unwrap());
        assert_eq!((report.live, report.failed), (0, 0), "{step:?}");
        node.assert_clean();
        assert!(exec(&pod, "ip link show dev eth0").is_err());
    }
    // Once it is live in the journal it stays: nobody can know whether the answer arrived.
    let pod = fresh();
    dying_add(&node, "c1", &pod, Step::Live);
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!(report, Recovered { live: 1, ..Recovered::default() });
}

#[test]
fn an_add_finds_what_an_earlier_one_left() {
    let node = Node::new();
    for step in [Step::PairMade, Step::Leased, Step::Prepared, Step::Raised] {
        let pod = fresh();
        let (call, ns) = (node.call("ADD", "c1", Some(&pod)), pod.try_clone().unwrap());
        node.engine(async move |engine| {
            engine.recover().await.unwrap();
            let Request::Add(request) = parsed(&call).request else { panic!() };
            engine.crash_at(step);
            engine.add(&request, &ns, None).await.unwrap_err();
            // No new start in between.
            engine.add(&request, &ns, None).await.unwrap();
            engine.del(&request.key).await.unwrap();
        });
        node.assert_clean();
    }
}

#[test]
fn a_del_that_died_anywhere_is_finished() {
    let node = Node::new();
    for step in [Step::Deleting, Step::Removed, Step::Released] {
        let agent = node.start();
        let pod = fresh();
        node.add("c1", &pod);
        agent.engine.crash_at(step);
        let reply = plugin::run(&node.call("DEL", "c1", None));
        assert_eq!(reply.exit, 1, "{}", reply.stdout);
        drop(agent);
        let report = node.engine(async |engine| engine.recover().await.unwrap());
        assert_eq!((report.live, report.failed), (0, 0), "{step:?}");
        node.assert_clean();
        let agent = node.start();
        node.del("c1");
        drop(agent);
    }
}

#[test]
fn a_gc_that_died_is_repeated() {
    let node = Node::new();
    let agent = node.start();
    node.add("c1", &fresh());
    let gc = node.call_with("GC", "", None, json!({ "cni.dev/valid-attachments": [] }));
    for step in [Step::Deleting, Step::Removed] {
        agent.engine.crash_at(step);
        assert_eq!(plugin::run(&gc).exit, 1);
        assert_eq!(node.pool.rows()[0].phase, AttachmentPhase::Deleting);
    }
    assert_eq!(plugin::run(&gc).exit, 0);
    node.assert_clean();
}

#[test]
fn what_live_pods_lost_is_put_back() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    let result = node.add("c1", &pod);
    let link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let before = node.kernel();
    drop(agent);
    let damages = [
        format!("ip route del 10.42.0.1 dev {link}"),
        format!("ip -6 route del fd57:4e00:42::1 dev {link}"),
        format!("ip neigh del 10.42.0.1 dev {link}"),
        format!("ip neigh replace 10.42.0.1 dev {link} lladdr 02:00:00:00:00:01 nud permanent"),
        format!("ip link set {link} down"),
    ];
    for damage in damages {
        exec(&node.ns, &damage).unwrap();
        let report = node.engine(async |engine| engine.recover().await.unwrap());
        assert_eq!(report, Recovered { live: 1, repaired: 1, ..Recovered::default() }, "{damage}");
        assert_eq!(node.kernel(), before, "{damage}");
        let again = node.engine(async |engine| engine.recover().await.unwrap());
        assert_eq!(again.repaired, 0, "{damage}");
    }
    node.run(async |_, nft| nft.remove_pod_sources(&nft.list_pod_sources().await.unwrap()).await.unwrap());
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!((report.repaired, node.kernel()), (1, before));
    // While an agent runs, it looks when it is asked to.
    let agent = node.start();
    exec(&node.ns, &format!("ip route del 10.42.0.1 dev {link}")).unwrap();
    agent.engine.request_repair();
    eventually("the route is back", || node.kernel().1.len() == 2);
    let check = node.call_with("CHECK", "c1", Some(&pod), json!({ "prevResult": result }));
    assert_eq!(plugin::run(&check).exit, 0);
    drop(agent);
}

#[test]
fn leftovers_go_and_what_is_not_ours_stays() {
    let node = Node::new();
    node.run(async |host, nft| {
        for (name, alias) in
            [("wrnp00000000001", "warren:pod:a/b"), ("wrnp00000000002", ""), ("wrnp00000000003", "mine")]
        {
            let peer = format!("x{name}").replace("wrnp0000000", "");
            let spec = warren_netlink::VethSpec {
                name,
                peer_name: &peer,
                peer_ns: None,
                mtu: 1400,
                macs: None,
                alias,
            };
            host.add_veth(&spec).await.unwrap();
        }
        host.add_bridge("wrnp00000000004").await.unwrap();
        let stale = ("wrnp00000000009".to_owned(), "10.42.9.9".parse().unwrap());
        nft.add_pod_sources(&[stale]).await.unwrap();
    });
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!(report, Recovered { orphans: 3, ..Recovered::default() });
    let (links, _, sources, _) = node.kernel();
    assert_eq!(links.into_iter().collect::<Vec<_>>(), ["wrnp00000000003", "wrnp00000000004"]);
    assert!(sources.is_empty());
}

#[test]
fn an_answer_nobody_takes_is_taken_back() {
    let node = Node::new();
    let pod = fresh();
    let (call, ns) = (node.call("ADD", "c1", Some(&pod)), pod.try_clone().unwrap());
    node.engine(async move |engine| {
        engine.recover().await.unwrap();
        let Request::Add(request) = parsed(&call).request else { panic!() };
        let added = engine.add(&request, &ns, None).await.unwrap();
        engine.abandon(added).await;
    });
    node.assert_clean();
}

#[test]
fn add_is_refused_before_recovery() {
    let node = Node::new();
    let pod = fresh();
    let (call, ns) = (node.call("ADD", "c1", Some(&pod)), pod.try_clone().unwrap());
    node.engine(async move |engine| {
        let Request::Add(request) = parsed(&call).request else { panic!() };
        assert_eq!(engine.add(&request, &ns, None).await.unwrap_err().code.number(), 11);
        assert_eq!(engine.status().await.unwrap_err().code.number(), 50);
    });
    node.assert_clean();
}

/// Two pods run, and the store is lost while no agent is there.
fn pods_without_rows(node: &Node) -> [(NetNs, serde_json::Value); 2] {
    let agent = node.start();
    let pods = ["c1", "c2"].map(|id| {
        let pod = fresh();
        let mut call = node.call("ADD", id, Some(&pod));
        call.args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-{id}");
        let result = ok(&plugin::run(&call));
        (pod, result)
    });
    drop(agent);
    node.pool.lose();
    pods
}

#[test]
fn running_pods_outlive_the_loss_of_the_store() {
    let node = Node::new();
    let [(one, result), _two] = pods_without_rows(&node);
    let before = node.kernel();
    let agent = node.start();
    assert_eq!(node.kernel(), before, "nothing of a running pod was touched");
    let rows = node.pool.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].addresses.len(), 2);
    assert!(rows.iter().all(|row| row.was_found() && row.phase == AttachmentPhase::Live));
    let named: Vec<_> = rows.iter().filter_map(|row| row.pod.as_ref()).map(ToString::to_string).collect();
    assert!(named.contains(&"default/web-c1".to_owned()), "{named:?}");
    // The pool begins at the first address again: what the running pods hold is passed over.
    let new = fresh();
    let third = node.add("c3", &new);
    assert_eq!(third["ips"][0]["address"], "10.42.0.3/32");
    exec(&one, "ping -c 1 -W 2 10.42.0.3").unwrap();
    exec(&new, "ping -6 -c 1 -W 2 fd57:4e00:42::1").unwrap();
    // The runtime's key still means the attachment.
    let again = plugin::run(&node.call("ADD", "c1", Some(&fresh())));
    assert!(refused(&again).1.contains("attached already"), "{again:?}");
    let check = node.call_with("CHECK", "c1", Some(&one), json!({ "prevResult": result }));
    assert_eq!(plugin::run(&check).exit, 0);
    // The next start finds rows, and repairs what they lost.
    drop(agent);
    let link = result["interfaces"][0]["name"].as_str().unwrap();
    exec(&node.ns, &format!("ip route del 10.42.0.1 dev {link}")).unwrap();
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!(report, Recovered { live: 3, repaired: 1, ..Recovered::default() });
    let agent = node.start();
    node.del("c1");
    assert!(exec(&one, "ip link show dev eth0").is_err());
    assert_eq!(node.pool.rows().len(), 2);
    for id in ["c1", "c2", "c3"] {
        node.del(id);
    }
    node.assert_clean();
    drop(agent);
}

#[test]
fn gc_takes_found_pods_that_the_runtime_does_not_know() {
    let node = Node::new();
    let [(one, _), (two, _)] = pods_without_rows(&node);
    let agent = node.start();
    let gc = |ids: &[&str]| {
        let valid: Vec<_> = ids.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
        node.call_with("GC", "", None, json!({ "cni.dev/valid-attachments": valid }))
    };
    assert_eq!(plugin::run(&gc(&["c1", "c2", "c9"])).exit, 0);
    assert_eq!(node.pool.rows().len(), 2);
    assert_eq!(plugin::run(&gc(&["c2"])).exit, 0);
    assert!(exec(&one, "ip link show dev eth0").is_err());
    exec(&two, "ip link show dev eth0").unwrap();
    assert_eq!(plugin::run(&gc(&[])).exit, 0);
    node.assert_clean();
    drop(agent);
}

#[test]
fn of_an_older_store_the_running_pod_keeps_the_address() {
    let node = Node::new();
    let agent = node.start();
    let (old, new) = (fresh(), fresh());
    node.add("old", &old);
    let row = node.pool.rows().remove(0);
    node.del("old");
    node.pool.lose();
    // The same address, another pod.
    node.add("new", &new);
    drop(agent);
    node.pool.restore(row);
    let before = node.kernel();
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!(report, Recovered { live: 2, gone: 1, adopted: 1, ..Recovered::default() });
    assert_eq!(node.kernel(), before);
}

#[test]
fn a_broken_off_add_without_a_row_is_not_taken_for_a_pod() {
    let node = Node::new();
    for step in [Step::PairMade, Step::Leased, Step::Prepared] {
        let pod = fresh();
        dying_add(&node, "c1", &pod, step);
        node.pool.lose();
        let report = node.engine(async |engine| engine.recover().await.unwrap());
        assert_eq!((report.live, report.adopted), (0, 0), "{step:?}");
        node.assert_clean();
    }
}
