//! Each verb, with and without an agent.

use super::support::*;
use crate::plugin::{self, Reply};
use crate::server::{CniConfig, CniError, serve};
use serde_json::json;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_netlink::NetNs;
use warren_netlink::nft::Nft;
use warren_types::{AttachmentPhase, BootId, HealthCell};

fn address(result: &serde_json::Value, index: usize) -> IpAddr {
    let text = result["ips"][index]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

/// A datagram from one namespace to another; the source address that the receiver saw.
fn datagram(from: &NetNs, source: IpAddr, to: &NetNs, target: IpAddr) -> Option<IpAddr> {
    received(from, source, to, target, Duration::from_secs(30))
}

/// Whether a datagram is lost on the way.
fn lost(from: &NetNs, source: IpAddr, to: &NetNs, target: IpAddr) -> bool {
    received(from, source, to, target, Duration::from_millis(500)).is_none()
}

fn received(from: &NetNs, source: IpAddr, to: &NetNs, target: IpAddr, patience: Duration) -> Option<IpAddr> {
    let socket = to
        .run(move || {
            let socket = UdpSocket::bind((target, 0)).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket
        })
        .unwrap();
    let port = socket.local_addr().unwrap().port();
    from.run(move || {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        // Refused by a rule or lost on the way: the receiver tells.
        let _ = socket.send_to(b"hello", (target, port));
    })
    .unwrap();
    socket.recv_from(&mut [0; 16]).ok().map(|(_, peer)| peer.ip())
}

#[test]
fn a_pod_comes_and_goes() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    assert_eq!(plugin::run(&node.call("STATUS", "", None)).exit, 0);
    let result = node.add("c1", &pod);
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    assert_eq!(result["interfaces"][1]["sandbox"], path_of(&pod));
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    assert_eq!(result["ips"][1]["gateway"], "fe80::1");
    assert_eq!(result["ips"][1]["interface"], 1);
    let link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();

    let shown = exec(&pod, "ip -o addr show dev eth0").unwrap();
    assert!(shown.contains("10.42.0.1/32") && shown.contains("fd57:4e00:42::1/128"), "{shown}");
    assert!(!shown.contains("tentative fd57"), "{shown}");
    let shown = exec(&pod, "ip route").unwrap();
    assert!(shown.contains("default via 169.254.1.1 dev eth0"), "{shown}");
    assert!(exec(&pod, "ip -6 route").unwrap().contains("default via fe80::1 dev eth0"));
    assert!(exec(&pod, "ip link show dev lo").unwrap().contains("UP"));
    let shown = exec(&node.ns, &format!("ip -d link show dev {link}")).unwrap();
    assert!(shown.contains("NOARP") && shown.contains("mtu 1420"), "{shown}");
    assert!(shown.contains("addrgenmode none") && shown.contains("alias warren:cni:c1"), "{shown}");
    assert_eq!(exec(&node.ns, &format!("ip -6 addr show dev {link}")).unwrap(), "");
    let ra =
        node.ns.run(move || std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")));
    assert_eq!(ra.unwrap().unwrap().trim(), "0");
    assert_eq!(node.pool.rows()[0].phase, AttachmentPhase::Live);

    // Twice is an error that changes nothing; DEL may come as often as it likes.
    let before = node.kernel();
    assert_eq!(refused(&plugin::run(&node.call("ADD", "c1", Some(&pod)))).0, 101);
    assert_eq!(node.kernel(), before);
    assert_eq!(before.1.len(), 2);
    node.del("c1");
    node.assert_clean();
    assert!(exec(&pod, "ip link show dev eth0").is_err());
    node.del("c1");
    node.del("never-there");
    // Again, with another name for the same container and the old format.
    let mut call = node.call_with("ADD", "c1", Some(&pod), json!({ "cniVersion": "0.3.1" }));
    call.if_name = "net.1".into();
    assert_eq!(ok(&plugin::run(&call))["ips"][0]["version"], "4");
    call.command = "DEL".into();
    call.netns = "/nowhere".into();
    assert_eq!(plugin::run(&call).exit, 0);
    node.assert_clean();
    drop(agent);
}

#[test]
fn pods_talk_with_their_own_addresses_and_no_others() {
    let node = Node::new();
    let _agent = node.start();
    let (a, b) = (fresh(), fresh());
    let (ra, rb) = (node.add("a", &a), node.add("b", &b));
    // Up first: an address that the link had before is not yet one for a moment after.
    exec(&node.ns, "ip link set lo up").unwrap();
    exec(&node.ns, "ip addr add 192.0.2.1/32 dev lo").unwrap();
    exec(&node.ns, "ip -6 addr add 2001:db8::1/128 dev lo nodad").unwrap();
    // The kernel adds the local route of an IPv6 address a moment later, and has none for a packet before that.
    eventually("the node's address is routed", || {
        exec(&node.ns, "ip -6 route show table local 2001:db8::1").unwrap().contains("local")
    });
    for (family, own) in [(0, "192.0.2.1"), (1, "2001:db8::1")] {
        let (from, to, own) = (address(&ra, family), address(&rb, family), own.parse().unwrap());
        assert_eq!(datagram(&a, from, &b, to), Some(from));
        assert_eq!(datagram(&b, to, &a, from), Some(to));
        assert_eq!(datagram(&node.ns, own, &a, from), Some(own));
        assert_eq!(datagram(&a, from, &node.ns, own), Some(from));
    }
    exec(&a, "ip addr add 10.42.0.77/32 dev eth0").unwrap();
    exec(&a, "ip -6 addr add fd57:4e00:42::77/128 dev eth0 nodad").unwrap();
    let spoofed = || node.run(async |_, nft: Nft| nft.drops().await.unwrap().spoofed);
    let before = spoofed();
    assert!(lost(&a, "10.42.0.77".parse().unwrap(), &b, address(&rb, 0)));
    assert!(lost(&a, "fd57:4e00:42::77".parse().unwrap(), &b, address(&rb, 1)));
    assert!(spoofed() >= before + 2);
    // With the host's guard gone for a moment the filter is put back, and the pods go on.
    node.run(async |_, nft| {
        nft.remove_table().await.unwrap();
        nft.ensure_base(&base()).await.unwrap();
    });
    eventually("the filter is put back", || node.kernel().2.len() == 4);
    assert_eq!(datagram(&a, address(&ra, 0), &b, address(&rb, 0)), Some(address(&ra, 0)));
}

#[test]
fn check_sees_what_is_missing() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    let check = |id: &str, result: &serde_json::Value, pod: &NetNs| {
        plugin::run(&node.call_with("CHECK", id, Some(pod), json!({ "prevResult": result })))
    };
    let result = node.add("c1", &pod);
    assert_eq!(check("c1", &result, &pod), Reply { exit: 0, stdout: String::new() });
    assert_eq!(refused(&check("c2", &result, &pod)).0, 3);
    assert_eq!(refused(&check("c1", &json!({ "ips": [{ "address": "10.9.9.9/32" }] }), &pod)).0, 103);
    let link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let faults = [
        (&pod, "ip route del default", "default route"),
        (&pod, "ip addr del 10.42.0.1/32 dev eth0", "10.42.0.1"),
        (&pod, "ip link set eth0 down", "down"),
        (&node.ns, &format!("ip link set {link} down"), "down"),
        (&node.ns, &format!("ip link del {link}"), "missing"),
    ];
    for (ns, command, part) in faults {
        exec(ns, command).unwrap();
        let reply = check("c1", &result, &pod);
        assert_eq!(refused(&reply).0, 103);
        assert!(reply.stdout.contains(part), "{command}: {}", reply.stdout);
    }
    assert_eq!(refused(&check("c1", &result, &fresh())).0, 103);
    node.del("c1");
    node.assert_clean();
    drop(agent);
}

#[test]
fn bad_calls_change_nothing() {
    let node = Node::new();
    let agent = node.start();
    let (pod, other) = (fresh(), fresh());
    node.add("c1", &pod);
    exec(&other, "ip link add eth0 type veth peer name x0").unwrap();
    let before = (node.pool.rows(), node.kernel());
    let gone = node.call("ADD", "c2", None);
    let table = [
        (4, crate::spec::Call { netns: "/run/no-such-netns".into(), ..gone.clone() }),
        (4, crate::spec::Call { netns: "/proc/self/ns/mnt".into(), ..gone.clone() }),
        (4, crate::spec::Call { netns: "/etc/passwd".into(), ..gone.clone() }),
        (4, node.call("ADD", "c2", Some(&node.ns))),
        (4, node.call("ADD", "../c2", Some(&other))),
        (7, node.call_with("ADD", "c2", Some(&other), json!({ "name": "other" }))),
        (1, node.call_with("ADD", "c2", Some(&other), json!({ "cniVersion": "9.9.9" }))),
        (2, node.call_with("ADD", "c2", Some(&other), json!({ "runtimeConfig": { "mac": "x" } }))),
        (101, node.call("ADD", "c2", Some(&other))),
        (7, node.call("GC", "", None)),
        (7, node.call_with("GC", "", None, json!({ "cni.dev/valid-attachments": [{ "containerID": "/" }] }))),
    ];
    for (code, call) in table {
        let reply = plugin::run(&call);
        assert_eq!(refused(&reply).0, code, "{call:?}: {}", reply.stdout);
        assert_eq!((node.pool.rows(), node.kernel()), before, "{call:?}");
    }
    assert!(exec(&other, "ip link show dev eth0").is_ok());
    drop(agent);
}

#[test]
fn gc_takes_what_the_runtime_does_not_know() {
    let node = Node::new();
    let agent = node.start();
    let pods: Vec<NetNs> = (0..4).map(|_| fresh()).collect();
    for (i, pod) in pods.iter().enumerate() {
        node.add(&format!("c{i}"), pod);
    }
    let gc = |valid: serde_json::Value, name: &str| {
        let more = json!({ "cni.dev/valid-attachments": valid, "name": name });
        assert_eq!(plugin::run(&node.call_with("GC", "", None, more)).exit, 0);
        node.pool.rows().len()
    };
    assert_eq!(gc(json!([]), "another-network"), 4);
    let valid = json!([
        { "containerID": "c1", "ifname": "eth0" },
        { "containerID": "c2", "ifname": "eth1" },
        { "containerID": "unknown", "ifname": "eth0" },
    ]);
    assert_eq!(gc(valid, "warren"), 1);
    assert_eq!(node.kernel().0.len(), 1);
    assert_eq!(gc(json!([]), "warren"), 0);
    node.assert_clean();
    drop(agent);
}

#[test]
fn status_tells_when_add_cannot_work() {
    let node = Node::new();
    let agent = node.start();
    *node.pool.empty.lock().unwrap() = true;
    let (code, text) = refused(&plugin::run(&node.call("STATUS", "", None)));
    assert_eq!((code, text.contains("no pod address is free")), (50, true));
    let pod = fresh();
    assert_eq!(refused(&plugin::run(&node.call("ADD", "c1", Some(&pod)))).0, 11);
    node.assert_clean();
    assert!(exec(&pod, "ip link show dev eth0").is_err());
    *node.pool.empty.lock().unwrap() = false;
    node.run(async |_, nft| nft.remove_table().await.unwrap());
    assert_eq!(refused(&plugin::run(&node.call("STATUS", "", None))).0, 50);
    // No filter, no pod.
    assert_eq!(refused(&plugin::run(&node.call("ADD", "c1", Some(&pod)))).0, 11);
    node.run(async |_, nft| {
        nft.ensure_base(&base()).await.unwrap();
    });
    node.assert_clean();
    drop(agent);
}

#[test]
fn without_an_agent_add_waits_and_del_is_queued() {
    let node = Node::new();
    let (pod, other) = (fresh(), fresh());
    let unreachable = |expected: usize| {
        for (command, code) in [("ADD", 11), ("STATUS", 50), ("GC", 11), ("CHECK", 11)] {
            let more = json!({ "cni.dev/valid-attachments": [], "prevResult": {} });
            let reply = plugin::run(&node.call_with(command, "c1", Some(&pod), more));
            assert_eq!(refused(&reply).0, code, "{command}: {}", reply.stdout);
        }
        node.del("c1");
        node.del("c1");
        assert_eq!(node.queued(), expected);
    };
    unreachable(1);
    let agent = node.start();
    assert_eq!(node.queued(), 0);
    node.add("c1", &pod);
    node.add("c2", &other);
    drop(agent);
    // The socket is there, and nobody behind it.
    unreachable(1);
    assert_eq!(node.pool.rows().len(), 2);
    let agent = node.start();
    assert_eq!(node.queued(), 0);
    assert_eq!(node.pool.rows().len(), 1);
    assert!(exec(&pod, "ip link show dev eth0").is_err());
    // A deletion that waits in the queue comes before an ADD of the same container.
    crate::queue::DelQueue::new(node.dir.path().join("del")).push(&key("c2")).unwrap();
    let again = fresh();
    node.add("c2", &again);
    assert_eq!((node.queued(), node.pool.rows().len()), (0, 1));
    assert!(exec(&again, "ip link show dev eth0").is_ok());
    // And a file that appears while the agent runs is seen.
    crate::queue::DelQueue::new(node.dir.path().join("del")).push(&key("c2")).unwrap();
    eventually("the queue is drained", || node.queued() == 0);
    node.assert_clean();
    drop(agent);
}

#[test]
fn a_namespace_that_is_gone_does_not_stop_del() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    node.add("c1", &pod);
    drop(pod);
    eventually("the kernel has taken the link away", || node.kernel().0.is_empty());
    assert_eq!(node.pool.rows().len(), 1);
    node.del("c1");
    node.assert_clean();
    drop(agent);
}

#[test]
fn the_socket_is_for_root_and_for_one_agent() {
    let node = Node::new();
    let agent = node.start();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&node.socket()), mode(&node.dir.path().join("del"))), (0o600, 0o700));
    let config = CniConfig {
        socket: node.socket(),
        queue_dir: node.dir.path().join("del"),
        stats: crate::CallStats::default(),
    };
    let second = node.engine(async move |engine| {
        serve(config, engine, HealthCell::default(), CancellationToken::new()).await
    });
    assert!(matches!(second, Err(CniError::InUse(_))), "{second:?}");
    // Noise on the socket ends with its connection.
    for noise in [&b"\0\0\0\x02{}"[..], b"\xff\xff\xff\xff", b"\0\0\0\x05null!", b""] {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
        stream.write_all(noise).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0; 256]);
    }
    node.add("c1", &fresh());
    node.del("c1");
    drop(agent);
}

#[test]
fn rows_of_another_boot_are_released() {
    let node = Node::new();
    let agent = node.start();
    let (old, new) = (fresh(), fresh());
    *node.pool.boot.lock().unwrap() = Some(BootId::new("00000000-0000-4000-8000-00000000000f").unwrap());
    node.add("old", &old);
    *node.pool.boot.lock().unwrap() = None;
    node.add("new", &new);
    drop(agent);
    let report = node.engine(async |engine| engine.recover().await.unwrap());
    assert_eq!((report.earlier_boot, report.live, report.failed), (1, 1, 0));
    assert_eq!(node.pool.rows()[0].key, key("new"));
    assert_eq!(node.kernel().0.len(), 1);
}

#[test]
fn a_caller_that_hangs_up_leaves_nothing() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    let call = node.call("ADD", "c1", Some(&pod));
    {
        use std::io::Write;
        // Without a descriptor: the agent opens the path itself.
        let mut stream = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
        stream.write_all(&crate::wire::frame(&call).unwrap()).unwrap();
    }
    eventually("the ADD is carried out", || !node.pool.used.lock().unwrap().is_empty());
    eventually("the ADD is taken back", || node.pool.rows().is_empty());
    node.assert_clean();
    // The same container may try again at once.
    node.add("c1", &pod);
    drop(agent);
}

#[test]
fn of_two_adds_of_one_container_one_succeeds() {
    let node = Node::new();
    let agent = node.start();
    let pods: Vec<NetNs> = (0..8).map(|_| fresh()).collect();
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let node = &node;
        let calls: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(move || plugin::run(&node.call("ADD", "c1", Some(pod)))))
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(replies.iter().filter(|reply| reply.exit == 0).count(), 1);
    for reply in replies.iter().filter(|reply| reply.exit != 0) {
        assert_eq!(refused(reply).0, 101);
    }
    assert_eq!((node.pool.rows().len(), node.kernel().0.len()), (1, 1));
    drop(agent);
}

#[test]
fn a_namespace_with_ipv6_turned_off_gets_ipv6() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    pod.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap()).unwrap();
    node.add("c1", &pod);
    assert!(exec(&pod, "ip -6 addr show dev eth0").unwrap().contains("fd57:4e00:42::1/128"));
    drop(agent);
}

#[test]
fn a_pod_gets_the_address_and_the_name_it_asks_for() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    let more = json!({ "args": { "cni": { "ips": ["10.42.7.7"], "labels": [{ "key": "app", "value": "web" }],
            "ports": [{ "name": "http", "containerPort": 8080 }] } } });
    let mut call = node.call_with("ADD", "c1", Some(&pod), more);
    let long = "a".repeat(245);
    call.args =
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_UID=u1", &long[..60]);
    let result = ok(&plugin::run(&call));
    assert_eq!(result["ips"][0]["address"], "10.42.7.7/32");
    let row = node.pool.rows().remove(0);
    assert_eq!(row.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(
        row.named_ports.iter().map(|p| (p.name.as_str(), p.port)).collect::<Vec<_>>(),
        [("http", 8080)]
    );
    assert_eq!(
        (row.pod.unwrap().to_string(), row.pod_uid),
        (format!("default/{}", &long[..60]), Some("u1".into()))
    );
    let link = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let shown = exec(&node.ns, &format!("ip link show dev {link}")).unwrap();
    assert!(shown.contains(&format!("alias warren:pod:default/{}", &long[..60])), "{shown}");
    node.del("c1");
    // A name as long as Kubernetes allows does not fit into an alias, and is cut.
    let labels: Vec<&str> = long.as_bytes().chunks(60).map(|c| std::str::from_utf8(c).unwrap()).collect();
    call.args = format!("K8S_POD_NAMESPACE={};K8S_POD_NAME={}", &long[..63], labels.join("."));
    ok(&plugin::run(&call));
    node.del("c1");
    node.assert_clean();
    drop(agent);
}

#[test]
fn host_ports_come_into_the_journal_and_a_taken_one_is_refused() {
    let node = Node::new();
    let agent = node.start();
    let (pod, other) = (fresh(), fresh());
    let more = json!({ "runtimeConfig": { "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }, { "containerPort": 81 } ] } });
    ok(&plugin::run(&node.call_with("ADD", "c1", Some(&pod), more.clone())));
    let row = node.pool.rows().remove(0);
    let ports: Vec<_> = row.host_ports.iter().map(|p| (p.to_string(), p.container_port)).collect();
    assert_eq!(ports, [("TCP port 8080".to_owned(), 80)]);
    let (code, msg) = refused(&plugin::run(&node.call_with("ADD", "c2", Some(&other), more.clone())));
    assert_eq!((code, msg.contains("TCP port 8080 is another's")), (104, true), "{msg}");
    assert_eq!(node.kernel().0.len(), 1, "the refused ADD left nothing");
    node.del("c1");
    ok(&plugin::run(&node.call_with("ADD", "c2", Some(&other), more)));
    node.del("c2");
    node.assert_clean();
    drop(agent);
}

#[test]
fn the_conflist_is_one_that_the_plugin_understands() {
    let text = crate::conflist("warren", "/run/warren/cni.sock".as_ref(), "/run/warren/cni-del".as_ref());
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut conf = list["plugins"][0].clone();
    assert_eq!(conf["capabilities"], serde_json::json!({"portMappings": true}));
    conf["name"] = list["name"].clone();
    assert_eq!(list["cniVersion"], "1.0.0", "what a runtime takes that knows no cniVersions");
    conf["cniVersion"] = list["cniVersions"].as_array().unwrap().last().unwrap().clone();
    let call = crate::spec::Call { command: "STATUS".into(), config: conf.to_string(), ..Default::default() };
    assert_eq!(call.parse().unwrap().settings, crate::spec::Settings::default());
}

#[test]
fn status_says_whether_attached_pods_are_cut_off_too() {
    let node = Node::new();
    let (mtu, cut) = (tokio::sync::watch::Sender::new(1420), tokio::sync::watch::Sender::new(None));
    let (call, pod) = (node.call("ADD", "c1", None), fresh());
    let call = crate::spec::Call { netns: path_of(&pod), ..call };
    let pool = std::sync::Arc::clone(&node.pool);
    node.run(async move |host, nft| {
        let engine = engine_with(host, nft, pool, mtu.subscribe(), cut.subscribe());
        engine.recover().await.unwrap();
        engine.status().await.unwrap();
        cut.send_replace(Some("no tunnel".into()));
        assert_eq!(engine.status().await.unwrap_err().code.number(), 50);
        // STATUS advises; an ADD is served all the same.
        let crate::spec::Request::Add(request) = call.parse().unwrap().request else { panic!() };
        drop(engine.add(&request, &pod, None).await.unwrap());
        let refusal = engine.status().await.unwrap_err();
        assert_eq!((refusal.code.number(), refusal.msg.contains("no tunnel")), (51, true));
        cut.send_replace(None);
        engine.status().await.unwrap();
    });
}

#[test]
fn calls_are_counted_by_verb_and_result() {
    let node = Node::new();
    let agent = node.start();
    let pod = fresh();
    node.add("c1", &pod);
    assert_eq!(plugin::run(&node.call("ADD", "c1", Some(&pod))).exit, 1);
    node.del("c1");
    drop(agent);
    let counted: Vec<_> = node
        .stats
        .snapshot()
        .into_iter()
        .map(|c| (c.verb, c.result, c.classes.iter().sum::<u64>(), c.micros > 0))
        .collect();
    assert_eq!(
        counted,
        [("ADD", "error", 1, true), ("ADD", "success", 1, true), ("DEL", "success", 1, true)]
    );
}
