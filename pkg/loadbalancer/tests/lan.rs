//! Three nodes and a client on a bridge, each in a namespace, with real frames.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests panic to fail")]

mod support;

use std::net::IpAddr;
use std::time::{Duration, Instant};
use support::{Caller, Lan, PORT, V4, V6, ip, iproute, node_name, on, pool, service, slices};
use warren_loadbalancer::{AddressState, HeldPorts, Mode, Pool};
use warren_netlink::packet::{Frames, MAX_FRAME, PacketSocket};
use warren_store::Table;
use warren_types::{HealthState, LoadBalancerAddresses, Protocol, Service, ServiceName, TrafficPolicy};

const LIMIT: Duration = Duration::from_secs(3);

/// What a node gives to the Service, once it gives any address: a Service may be there a moment before its slices.
async fn given(lan: &Lan, number: u8) -> LoadBalancerAddresses {
    let node = lan.nodes.iter().find(|node| node.number == number).unwrap();
    let table: Table<LoadBalancerAddresses> = node.store.table();
    let mut watch = table.watch();
    tokio::time::timeout(LIMIT, async {
        loop {
            let rows = table.snapshot().rows;
            if let Some(row) = rows.values().find(|row| !row.addresses.is_empty()) {
                return row.as_ref().clone();
            }
            watch.next().await.unwrap();
        }
    })
    .await
    .expect("no Service with an address")
}

/// A LAN where a Service has got an address of each family, and those are announced.
async fn announced(policy: TrafficPolicy, endpoints: &[u8]) -> Lan {
    let lan = Lan::new(3, &pool()).await;
    lan.tell(&[service(policy, &[])], &slices(endpoints)).await;
    assert_eq!(given(&lan, 1).await.addresses, [ip(V4), ip(V6)]);
    lan.tell(&[service(policy, &[V4, V6])], &slices(endpoints)).await;
    lan
}

/// The hardware address that the client has for an address.
fn neighbour(lan: &Lan, address: &'static str) -> String {
    on(&lan.client, move || iproute(&format!("neigh show {address}")))
}

#[tokio::test]
async fn one_node_answers_for_each_address_and_another_when_it_dies() {
    let mut lan = announced(TrafficPolicy::Cluster, &[1]).await;
    assert!(!lan.nodes[1].store.table::<LoadBalancerAddresses>().snapshot().rows.iter().any(|_| true));
    let begun = Instant::now();
    for address in [V4, V6] {
        let holder = lan.settled(ip(address), LIMIT).await;
        let mut caller = Caller::new(&lan.client, ip(address));
        let (_, name) = caller.answer(begun, |_| true).await;
        assert_eq!(name, format!("n{holder}"));
        assert!(neighbour(&lan, address).contains(&format!("02:00:00:00:00:0{holder}")));

        lan.node(holder).die();
        let died = Instant::now();
        let (at, name) = caller.answer(died, |name| name != format!("n{holder}")).await;
        println!("{address}: n{holder} died, and {name} answered after {:?}", at - died);
        assert!(at - died < LIMIT);
        let other = lan.settled(ip(address), LIMIT).await;
        assert_eq!(name, format!("n{other}"));

        // It comes back, and the best rank answers again; nobody calls in vain for long.
        on(&lan.node(holder).ns, move || {
            iproute("link set eth0 up");
            // The kernel takes IPv6 addresses from a link that goes down.
            iproute(&format!("addr replace 2001:db8::{holder}/64 dev eth0 nodad"));
        });
        lan.start(holder, &pool()).await;
        let back = Instant::now();
        caller.answer(back, |name| name == format!("n{holder}")).await;
        assert_eq!(lan.settled(ip(address), LIMIT).await, holder);
    }
}

#[tokio::test]
async fn an_agent_that_stops_hands_over_without_a_call_lost() {
    let mut lan = announced(TrafficPolicy::Cluster, &[1]).await;
    let holder = lan.settled(ip(V4), LIMIT).await;
    let mut caller = Caller::new(&lan.client, ip(V4));
    caller.answer(Instant::now(), |_| true).await;
    lan.node(holder).stop.cancel();
    let stopped = Instant::now();
    let (at, _) = caller.answer(stopped, |name| name != format!("n{holder}")).await;
    println!(
        "another node answered {:?} after the agent stopped; longest gap {:?}",
        at - stopped,
        caller.longest_gap()
    );
    assert!(at - stopped < LIMIT);
    // Its kernel went on serving until then.
    assert!(caller.longest_gap() < Duration::from_millis(500), "{:?}", caller.longest_gap());
}

#[tokio::test]
async fn only_one_node_answers_a_request() {
    let lan = announced(TrafficPolicy::Cluster, &[1]).await;
    lan.settled(ip(V4), LIMIT).await;
    let index = on(&lan.client, || iproute("-o link show eth0").split(':').next().unwrap().parse().unwrap());
    let listener = PacketSocket::in_namespace(&lan.client, index, Frames::Arp).await.unwrap();
    let mut request = vec![0xff; 6];
    request.extend([2, 0, 0, 0, 0, 100, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 100, 192, 0, 2, 100]);
    request.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 200]);
    listener.send(&request).await.unwrap();
    let mut frame = [0; MAX_FRAME];
    let (mut answers, mut announcements) = (0, 0);
    // As long as three announcements, everyone has had the time to answer.
    while announcements < 3 {
        let length = tokio::time::timeout(LIMIT, listener.receive(&mut frame)).await.unwrap().unwrap();
        if length >= 42 && frame[28..32] == [192, 0, 2, 200] {
            match frame[21] {
                2 => answers += 1,
                _ => announcements += 1,
            }
        }
    }
    assert_eq!(answers, 1);
}

#[tokio::test]
async fn a_local_policy_keeps_addresses_where_endpoints_are() {
    let lan = announced(TrafficPolicy::Local, &[2]).await;
    assert_eq!(lan.settled(ip(V4), LIMIT).await, 2);
    assert_eq!(lan.settled(ip(V6), LIMIT).await, 2);
    assert_eq!(lan.nodes[0].state(ip(V4)), None);
    // The endpoint moves, and the address after it.
    let moved = Instant::now();
    lan.tell(&[service(TrafficPolicy::Local, &[V4, V6])], &slices(&[3])).await;
    let mut seen = lan.nodes[2].status.subscribe();
    let holds = seen.wait_for(|s| s.addresses.get(&ip(V4)).is_some_and(|a| a.state == AddressState::Holder));
    tokio::time::timeout(LIMIT, holds).await.unwrap().unwrap();
    println!("the address followed its endpoint after {:?}", moved.elapsed());
    assert_eq!(lan.holders(ip(V4)).into_iter().collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn a_node_whose_proxy_has_no_rules_announces_nothing() {
    let mut lan = announced(TrafficPolicy::Cluster, &[1]).await;
    let holder = lan.settled(ip(V4), LIMIT).await;
    lan.node(holder).serving.send_replace(false);
    let mut seen = lan.node(holder).status.subscribe();
    tokio::time::timeout(LIMIT, seen.wait_for(|s| s.addresses.is_empty())).await.unwrap().unwrap();
    let other = lan.settled(ip(V4), LIMIT).await;
    assert_ne!(other, holder);
}

#[tokio::test]
async fn an_address_that_a_host_has_is_refused_and_said() {
    let lan = announced(TrafficPolicy::Cluster, &[1]).await;
    lan.settled(ip(V4), LIMIT).await;
    on(&lan.nodes[1].ns, || iproute(&format!("addr add {V4}/32 dev lo")));
    let mut seen = lan.nodes[1].status.subscribe();
    let refused = seen.wait_for(|s| s.refused.contains_key(&ip(V4)) && !s.addresses.contains_key(&ip(V4)));
    tokio::time::timeout(LIMIT, refused).await.unwrap().unwrap();
    let health = lan.nodes[1].health.get();
    assert_eq!(health.state, HealthState::Degraded);
    assert!(
        health.message.contains(V4) && health.message.contains("link of this host"),
        "{}",
        health.message
    );
}

#[tokio::test]
async fn nodes_give_their_addresses_but_not_with_a_port_that_a_program_holds() {
    let lan = Lan::new(3, &Mode::Nodes).await;
    // Each node runs a server on the port, before there is a Service.
    lan.tell(&[], &[]).await;
    let port = (Protocol::Udp, PORT);
    let mut all = std::collections::BTreeMap::new();
    for node in &lan.nodes {
        let mut held = node.held_here.subscribe();
        let held: HeldPorts = tokio::time::timeout(LIMIT, held.wait_for(|h| h.contains_key(&port)))
            .await
            .unwrap()
            .unwrap()
            .clone();
        assert!(held[&port].contains(&format!("(pid {})", std::process::id())), "{held:?}");
        all.insert(node_name(node.number), held);
    }
    // Only what two of them publish has arrived.
    all.remove(&node_name(3));
    lan.nodes[0].held.send_replace(all);
    lan.tell(&[service(TrafficPolicy::Cluster, &[])], &slices(&[2])).await;
    let given = given(&lan, 1).await;
    assert_eq!(given.addresses, [ip("192.0.2.3"), ip("2001:db8::3")]);
    assert_eq!(given.faults.len(), 2);
    let message = &given.faults[0].message;
    assert!(
        message.starts_with("port 9/UDP on node n1 is held by ") && message.contains("(pid "),
        "{message}"
    );
}

#[tokio::test]
async fn hundreds_of_addresses_find_one_holder_each() {
    const ADDRESSES: u32 = 500;
    let mode = Mode::Pool(Pool::new(vec!["10.9.0.0/20".parse().unwrap()]));
    let lan = Lan::new(3, &mode).await;
    let address = |n: u32| IpAddr::from((0x0a09_0001 + n).to_be_bytes());
    let services: Vec<Service> = (0..ADDRESSES)
        .map(|n| {
            let mut service = service(TrafficPolicy::Cluster, &[]);
            service.key.name = ServiceName::new(format!("s{n}")).unwrap();
            service.load_balancer_ips = vec![address(n)];
            service
        })
        .collect();
    lan.tell(&services, &[]).await;
    let begun = Instant::now();
    let mut seen = lan.nodes[0].status.subscribe();
    let all = async {
        while !(0..ADDRESSES).all(|n| lan.holders(address(n)).len() == 1) {
            // Mostly the first node's word comes with the others'.
            let _ = tokio::time::timeout(Duration::from_millis(200), seen.changed()).await;
        }
    };
    tokio::time::timeout(LIMIT * 3, all).await.unwrap();
    let shares = lan.nodes.iter().map(|node| {
        let addresses = node.status.get().addresses;
        addresses.values().filter(|address| address.state == AddressState::Holder).count()
    });
    println!("shares {:?} after {:?}", shares.collect::<Vec<_>>(), begun.elapsed());
}
