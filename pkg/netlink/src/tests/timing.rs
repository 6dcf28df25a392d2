//! How long the verbs take. Printed, not judged: machines differ.

use super::support::{addr, fresh, in_fresh, net};
use crate::{LinkChange, NetNs, Netlink, Route, RouteTarget, VethSpec};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PODS: usize = 200;

#[derive(Default)]
struct Clock(BTreeMap<&'static str, Vec<Duration>>);

impl Clock {
    async fn time<T>(&mut self, what: &'static str, verb: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = verb.await;
        self.0.entry(what).or_default().push(start.elapsed());
        result
    }

    fn report(mut self, total: &str) {
        for (what, times) in &mut self.0 {
            times.sort();
            let sum: Duration = times.iter().sum();
            let mark = if *what == total { "=" } else { " " };
            let (count, last) = (times.len(), times.len() - 1);
            let at = |share: usize| times[last * share / 100];
            println!(
                "{mark} {what:28} n {count:5}  mean {:?}  p50 {:?}  p99 {:?}",
                sum / count as u32,
                at(50),
                at(99)
            );
        }
    }
}

#[test]
fn attaching_and_detaching_two_hundred_pods() {
    let pods: Vec<NetNs> = (0..PODS).map(|_| fresh()).collect();
    in_fresh(move |host| async move {
        let mut clock = Clock::default();
        for (i, ns) in pods.iter().enumerate() {
            let start = Instant::now();
            attach(&mut clock, &host, ns, i).await;
            clock.0.entry("attach, all of it").or_default().push(start.elapsed());
        }
        clock.time("list_links (200)", host.list_links()).await.unwrap();
        let routes = clock.time("list_routes (600)", host.list_routes(Some(87))).await.unwrap();
        assert_eq!(routes.len(), 2 * PODS);
        for i in 0..PODS {
            let name = format!("wrnp{i:011x}");
            assert!(clock.time("remove_link", host.remove_link(&name)).await.unwrap());
        }
        clock.report("attach, all of it");
    });
}

/// What CNI ADD asks of the kernel.
async fn attach(clock: &mut Clock, host: &Netlink, ns: &NetNs, i: usize) {
    let name = format!("wrnp{i:011x}");
    let (mac, peer_mac) = ([2, 0, 0, 0, (i >> 8) as u8, i as u8], [2, 0, 0, 1, (i >> 8) as u8, i as u8]);
    let v4 = addr(&format!("10.244.{}.{}", i / 250, i % 250 + 1));
    let v6 = addr(&format!("fd00:244::{:x}", i + 1));
    let spec = VethSpec {
        name: &name,
        peer_name: "eth0",
        peer_ns: Some(ns),
        mtu: 1420,
        macs: Some((mac, peer_mac)),
        alias: "warren:pod:default/web",
    };
    let pair = clock.time("create_veth", host.create_veth(&spec)).await.unwrap();
    let (own, eth0) = (pair.index, pair.peer_index);
    let pod = clock.time("in_namespace", Netlink::in_namespace(ns)).await.unwrap();
    clock.time("set_up lo", pod.set_up("lo", true)).await.unwrap();
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    clock.time("set_link_at up (pod)", pod.set_link_at(eth0, &up)).await.unwrap();
    for ip in [v4, v6] {
        clock.time("ensure_address_at", pod.ensure_address_at(eth0, ip.into())).await.unwrap();
    }
    for gateway in [addr("169.254.1.1"), addr("fe80::1")] {
        clock.time("ensure_neighbour_at", pod.ensure_neighbour_at(eth0, gateway, mac)).await.unwrap();
    }
    let route = |dst: &str, gateway: Option<&str>| Route {
        dst: net(dst),
        target: RouteTarget::Link { link: "eth0".into(), gateway: gateway.map(addr), onlink: false },
        src: None,
        scope_link: gateway.is_none(),
        metric: 0,
        table: 254,
        protocol: 87,
        mtu: None,
    };
    for wish in [
        route("169.254.1.1/32", None),
        route("0.0.0.0/0", Some("169.254.1.1")),
        route("fe80::1/128", None),
        route("::/0", Some("fe80::1")),
    ] {
        clock.time("ensure_route_at (pod)", pod.ensure_route_at(eth0, &wish)).await.unwrap();
    }
    let up = LinkChange { up: Some(true), noarp: Some(true), ..LinkChange::default() };
    clock.time("set_link_at up noarp (host)", host.set_link_at(own, &up)).await.unwrap();
    for ip in [v4, v6] {
        clock.time("ensure_neighbour_at", host.ensure_neighbour_at(own, ip, peer_mac)).await.unwrap();
        let wish = route(&ipnet::IpNet::from(ip).to_string(), None);
        clock.time("ensure_route_at (host)", host.ensure_route_at(own, &wish)).await.unwrap();
    }
}

/// The question that decided how requests are sent: a task that owns the socket, or the caller's own thread.
#[test]
fn a_socket_task_beside_the_callers_thread() {
    let ns = fresh();
    ns.run(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut clock = Clock::default();
            let direct = Netlink::current().unwrap();
            let (connection, handle, _messages) = rtnetlink::new_connection().unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(connection);
            for _ in 0..500 {
                clock.time("GETLINK, caller's thread", direct.link_index("lo")).await.unwrap();
                let ask = async {
                    use futures::TryStreamExt;
                    handle.link().get().match_name("lo").execute().try_next().await
                };
                clock.time("GETLINK, socket task", ask).await.unwrap();
            }
            clock.report("");
        });
    })
    .unwrap();
}

/// The kernel waits while it takes a link away; the waits of several removals overlap.
#[test]
fn removing_links_at_once() {
    for at_once in [1usize, 4, 16] {
        in_fresh(move |host| async move {
            for i in 0..64 {
                let (a, b) = (format!("a{i}"), format!("b{i}"));
                let spec =
                    VethSpec { name: &a, peer_name: &b, peer_ns: None, mtu: 1420, macs: None, alias: "" };
                host.add_veth(&spec).await.unwrap();
                host.set_up(&a, true).await.unwrap();
                host.set_up(&b, true).await.unwrap();
            }
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for first in 0..at_once {
                let host = host.clone();
                tasks.spawn(async move {
                    for i in (first..64).step_by(at_once) {
                        assert!(host.remove_link(&format!("a{i}")).await.unwrap());
                    }
                });
            }
            tasks.join_all().await;
            println!("{at_once:3} at once: {:?} a removal", start.elapsed() / 64);
        });
    }
}
