//! Real runners with real devices between network namespaces.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests panic to fail")]

mod support;

use std::time::{Duration, Instant};
use support::{Capture, Lan, eventually, sh, try_sh};
use warren_overlay::process;
use warren_types::PeerEndpoint;

const SOON: Duration = Duration::from_secs(5);

/// No test: this binary starts itself with this name as the userspace tunnel.
#[test]
#[ignore = "the tests start it"]
fn be_the_tunnel_process() {
    support::tunnel_process();
}

fn clear(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|l| l.contains("10.42.") || l.contains("fd00:42:")).collect()
}

#[test]
fn pods_talk_through_the_tunnel_and_nothing_is_in_clear() {
    let mut lan = Lan::new(false);
    let capture = Capture::start(&lan.switch);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    println!("ready: {:?} {:?}", lan.ready(a), lan.ready(b));
    println!("first packet: {:?}", lan.reaches(a, "10.42.2.1", SOON));
    lan.settled(&[a, b]);
    assert!(lan.ping(b, "fd00:42:0:1::1"));
    let (pod_a, pod_b) = (lan.pod(a, 10), lan.pod(b, 20));
    for to in ["10.42.2.20", "fd00:42:0:2::14", "10.42.2.1", "192.0.2.2", "192.0.2.1", "10.42.1.1"] {
        sh(&pod_a, &format!("ping -n -c2 -i0.2 -W1 {to}"));
    }
    sh(&pod_b, "ping -n -c1 -W1 192.0.2.1");
    sh(&lan.nodes[a].ns, "ping -n -c1 -W1 10.42.2.20");
    // Large packets: the tunnel's MTU is what a pod has, and what is larger is told so.
    sh(&pod_a, "ping -n -c1 -W1 -M do -s 1412 10.42.2.20");
    assert_eq!(lan.nodes[a].status.mtu(), Some(1440));
    // What has no tunnel is dropped, not leaked.
    for to in ["10.42.9.9", "10.42.1.99", "fd00:42:0:9::9", "fd00:42:0:1::99"] {
        assert!(!lan.ping(a, to) && !try_sh(&pod_a, &format!("ping -n -c1 -W1 {to}")).1, "{to}");
    }
    let lines = capture.lines();
    let count = |what: &str| lines.iter().filter(|l| l.contains(what)).count();
    assert_eq!(clear(&lines), Vec::<&String>::new());
    assert!(count("51840: UDP") + count(".51840:") > 10, "the capture is blind: {lines:#?}");
    assert_eq!(count("ICMP echo"), 0, "pods reach nodes' own addresses through the tunnel too");
    // And the control: in clear it would have been seen.
    let capture = Capture::start(&lan.switch);
    sh(&lan.nodes[a].ns, "ping -n -c1 -W1 192.0.2.2");
    assert!(capture.lines().iter().any(|l| l.contains("ICMP echo request")));
    let peers = lan.nodes[a].status.get().peers;
    assert_eq!(peers.len(), 1);
    let sysctls = lan.nodes[a].sysctls.lock().unwrap().clone();
    assert!(sysctls.iter().any(|(k, _)| k.ends_with("ip_forward")), "{sysctls:?}");
}

#[test]
fn an_underlay_of_ipv6_carries_both_families() {
    let mut lan = Lan::new(true);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    lan.reaches(a, "10.42.2.1", SOON);
    lan.settled(&[a, b]);
    assert!(lan.ping(a, "fd00:42:0:2::1") && lan.ping(b, "10.42.1.1"));
    assert_eq!(lan.nodes[a].status.mtu(), Some(1420));
    let endpoint = lan.nodes[a].status.get().peers[0].endpoint.unwrap();
    assert_eq!(endpoint.to_string(), "[fd99::2]:51840");
}

#[test]
fn a_killed_tunnel_process_comes_back_by_itself() {
    let mut lan = Lan::new(false);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    lan.reaches(a, "10.42.2.1", SOON);
    lan.settled(&[a, b]);
    let pid = process::of(&lan.nodes[a].run_dir, "wrn-wg").running();
    let Some(pid) = pid else { return println!("the kernel's tunnel has no process") };
    process::of(&lan.nodes[a].run_dir, "wrn-wg").stop(true).unwrap();
    let back = eventually("a new process", SOON, || {
        process::of(&lan.nodes[a].run_dir, "wrn-wg").running().is_some_and(|new| new != pid)
    });
    // The other side still holds the old session, and is the one that speaks.
    println!(
        "process back after {back:?}, packets from the other side after {:?}",
        lan.reaches(b, "10.42.1.1", SOON)
    );
    assert!(lan.ping(a, "10.42.2.1"));
}

#[test]
fn peers_come_and_go_without_a_gap_for_others_and_nothing_stays() {
    let mut lan = Lan::new(false);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    lan.reaches(a, "10.42.2.1", SOON);
    lan.settled(&[a, b]);
    let (pod_a, _pod_b) = (lan.pod(a, 10), lan.pod(b, 20));
    sh(&pod_a, "ping -n -c2 -W1 10.42.2.20");
    let before = sh(
        &lan.nodes[a].ns,
        "ip route; ip -6 route; ip rule; ip route show table 8700; ip -br addr show wrn-wg",
    );
    let flow = std::thread::spawn(move || sh(&pod_a, "ping -n -q -i 0.005 -c 1100 -W 2 10.42.2.20")); // By count: a deadline would cut off the last answer.
    let c = lan.add();
    let begun = Instant::now();
    lan.tell(&[a, b, c]);
    lan.reaches(a, "10.42.3.1", SOON);
    println!("a third node joined within {:?}", begun.elapsed());
    // A row that changes in what does not concern the tunnel.
    let mut rows = [lan.row(a), lan.row(b), lan.row(c)];
    rows[1].labels.insert("some".into(), "label".into());
    lan.tell_rows(&rows);
    // Stopping and starting the agent's side.
    lan.stop(a);
    lan.start(a);
    lan.tell(&[a, b]);
    let gone =
        || !sh(&lan.nodes[a].ns, "ip route show table all; ip -6 route show table all").contains("10.42.3.0");
    println!("and left within {:?}", eventually("no route is left", SOON, gone));
    let after = || {
        sh(
            &lan.nodes[a].ns,
            "ip route; ip -6 route; ip rule; ip route show table 8700; ip -br addr show wrn-wg",
        )
    };
    eventually("all is as before", SOON, || after() == before);
    lan.settled(&[a, b]);
    let text = flow.join().unwrap();
    println!("{text}");
    assert!(text.contains(" 0% packet loss"), "{text}");
}

#[test]
fn a_node_that_moves_is_followed_and_remembered() {
    let mut lan = Lan::new(false);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    lan.reaches(a, "10.42.2.1", SOON);
    lan.settled(&[a, b]);
    // It moves, nobody is told; its own packets tell.
    sh(
        &lan.nodes[b].ns,
        "ip addr add 192.0.2.77/24 dev eth0; ip addr del 192.0.2.2/24 dev eth0; ip addr add 192.0.2.77/24 dev eth0 || true",
    );
    lan.nodes[b].address = lan.address(77);
    lan.present(b);
    println!("roamed after {:?}", lan.reaches(b, "10.42.1.1", SOON));
    assert!(lan.ping(a, "10.42.2.1"));
    let key = lan.nodes[b].public.to_string();
    let learned = || lan.nodes[a].store.table::<PeerEndpoint>().get(&key).map(|row| row.endpoint.to_string());
    eventually("the new endpoint is remembered", Duration::from_secs(12), || {
        learned().as_deref() == Some("192.0.2.77:51840")
    });
    // Then it is published, from a third place where it was never heard.
    sh(
        &lan.nodes[b].ns,
        "ip addr add 192.0.2.78/24 dev eth0; ip addr del 192.0.2.77/24 dev eth0; ip addr add 192.0.2.78/24 dev eth0 || true",
    );
    lan.nodes[b].address = lan.address(78);
    lan.present(b);
    lan.tell(&[a, b]);
    println!("published move followed after {:?}", lan.reaches(a, "10.42.2.1", Duration::from_secs(30)));
}

#[test]
fn a_node_behind_a_nat_calls_and_can_then_be_called() {
    let mut lan = Lan::new(false);
    let (a, b) = (lan.add(), lan.add());
    // The switch becomes a router, and hides the second node.
    sh(
        &lan.switch,
        "set -e; ip addr add 192.0.2.254/24 dev lan; ip link set port2 nomaster; ip addr add 10.9.9.1/24 dev port2
         sysctl -qw net.ipv4.ip_forward=1; nft add table ip nat
         nft 'add chain ip nat post { type nat hook postrouting priority 100; }'
         nft add rule ip nat post oifname lan masquerade random",
    );
    sh(
        &lan.nodes[b].ns,
        "set -e; ip addr flush dev eth0; ip addr add 10.9.9.2/24 dev eth0; ip route add default via 10.9.9.1",
    );
    lan.nodes[b].address = "10.9.9.2".parse().unwrap();
    lan.present(b);
    lan.tell(&[a, b]);
    println!("reached after {:?}", lan.reaches(b, "10.42.1.1", SOON));
    lan.settled(&[a, b]);
    assert!(lan.ping(a, "10.42.2.1"));
    let peer = |lan: &Lan, i: usize| lan.nodes[i].status.get().peers[0].clone();
    eventually("a keepalive at both ends", Duration::from_secs(12), || {
        peer(&lan, a).keepalive == 25 && peer(&lan, b).keepalive == 25
    });
    let endpoint = peer(&lan, a).endpoint.unwrap();
    assert_eq!(endpoint.ip().to_string(), "192.0.2.254", "the router's address, not the published one");
    // A new process knows nothing of its peer but what was written down.
    if process::of(&lan.nodes[a].run_dir, "wrn-wg").running().is_some() {
        process::of(&lan.nodes[a].run_dir, "wrn-wg").stop(true).unwrap();
        println!("and with a new process after {:?}", lan.reaches(a, "10.42.2.1", SOON));
    }
}

#[test]
fn what_others_remove_comes_back() {
    let mut lan = Lan::new(false);
    let (a, b) = (lan.add(), lan.add());
    lan.tell(&[a, b]);
    lan.reaches(a, "10.42.2.1", SOON);
    lan.settled(&[a, b]);
    let ns = lan.nodes[a].ns.try_clone().unwrap();
    let state = || {
        try_sh(
            &ns,
            "ip route show table all proto 87; ip -6 route show table all proto 87; ip rule; nft list table inet warren | grep -v counter | grep -v packets",
        )
    };
    let before = state();
    sh(
        &ns,
        "ip route flush proto 87; ip route flush table 8700; ip rule del priority 8700; nft delete table inet warren; ip addr flush dev wrn-wg",
    );
    println!("restored after {:?}", eventually("all is back", SOON, || state() == before));
    assert!(lan.ping(a, "10.42.2.1"));
    sh(&ns, "ip link del wrn-wg");
    println!("and with a new link after {:?}", lan.reaches(a, "10.42.2.1", SOON));
    // Without an agent, a tunnel process whose link was removed ends.
    lan.stop(a);
    eventually("the runner stops", SOON, || {
        sh(&ns, "ip link del wrn-wg 2>/dev/null || true");
        process::of(&lan.nodes[a].run_dir, "wrn-wg").running().is_none()
    });
}
