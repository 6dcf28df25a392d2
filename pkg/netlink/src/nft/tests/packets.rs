//! Packets through the table: a pod, a node, a LAN and the far end of a tunnel, each in its namespace.
//!
//! Every "is dropped" has its control: without the table, the same packet arrives.

use super::support::{block_on, fresh, nft_script, rules, run, source};
use crate::NetNs;
use crate::nft::{Applied, Nft};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// ```text
/// pod eth0 --- wrnp1 node eth0 --- eth0 lan          also 10.42.2.9, for what leaks
///                    node wrn-wg - eth0 far          10.42.2.9, where it belongs
/// ```
struct World {
    node: NetNs,
    pod: NetNs,
    lan: NetNs,
    far: NetNs,
    nft: Nft,
    runtime: tokio::runtime::Runtime,
}

const POD: [&str; 2] = ["10.42.1.5", "fd57:4e00:42:1::5"];
const NOT_THE_PODS: [&str; 2] = ["10.42.1.6", "fd57:4e00:42:1::6"];
const NODE: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
const LAN: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
const FAR_POD: [&str; 2] = ["10.42.2.9", "fd57:4e00:42:2::9"];
const SERVICE: [&str; 2] = ["10.43.0.10", "fd57:4e00:43::10"];
/// Long enough for a packet through three namespaces, many times over.
const PATIENCE: Duration = Duration::from_millis(300);

impl World {
    fn new() -> Self {
        let [node, pod, lan, far] = [fresh(), fresh(), fresh(), fresh()];
        for ns in [&node, &pod, &lan, &far] {
            on(ns, || {
                sysctl("ipv6/conf/default/accept_dad", "0");
                sysctl("ipv6/conf/all/forwarding", "1");
                sysctl("ipv4/ip_forward", "1");
                sysctl("ipv4/conf/all/rp_filter", "0");
                run("ip", "link set lo up");
            });
        }
        for (link, ns) in [("wrnp1", &pod), ("eth0", &lan), ("wrn-wg", &far)] {
            let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
            on(&node, move || {
                run("ip", &format!("link add {link} type veth peer name peer netns {path}"));
                run("ip", &format!("link set {link} up"));
            });
            on(ns, || run("ip", "link set peer name eth0 up"));
        }
        let addresses = |ns: &NetNs, of: [&'static str; 2], bits: [u8; 2], link: &'static str| {
            on(ns, move || {
                for (address, bits) in of.iter().zip(bits) {
                    run("ip", &format!("addr add {address}/{bits} dev {link} nodad"));
                }
            });
        };
        addresses(&pod, POD, [32, 128], "eth0");
        addresses(&pod, NOT_THE_PODS, [32, 128], "eth0");
        addresses(&node, NODE, [24, 64], "eth0");
        addresses(&lan, LAN, [24, 64], "eth0");
        addresses(&lan, FAR_POD, [32, 128], "lo");
        addresses(&lan, SERVICE, [32, 128], "lo");
        addresses(&far, FAR_POD, [32, 128], "lo");
        on(&pod, || {
            run("ip", "route add default dev eth0");
            run("ip", "-6 route add default dev eth0");
        });
        on(&far, || {
            run("ip", "route add default dev eth0");
            run("ip", "-6 route add default dev eth0");
        });
        on(&node, || {
            for address in POD.iter().chain(&NOT_THE_PODS) {
                run("ip", &format!("route add {address} dev wrnp1"));
            }
            sysctl("ipv4/conf/wrnp1/proxy_arp", "1");
            sysctl("ipv4/conf/wrn-wg/proxy_arp", "1");
        });
        // The pod's gateway and the tunnel's far end are known, as they are in earnest.
        neighbours(&node, "wrnp1", &pod, &[POD, NOT_THE_PODS].concat());
        neighbours(&node, "wrn-wg", &far, &FAR_POD);
        neighbours(&pod, "eth0", &node_side(&node, "wrnp1"), &[NODE, LAN, FAR_POD].concat());
        neighbours(&far, "eth0", &node_side(&node, "wrn-wg"), &POD);
        on(&lan, || {
            run("ip", "route add 10.42.1.0/24 via 198.51.100.1");
            run("ip", "-6 route add fd57:4e00:42:1::/64 via 2001:db8:1::1");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nft = runtime.block_on(Nft::in_namespace(&node)).unwrap();
        Self { node, pod, lan, far, nft, runtime }
    }

    fn guarded() -> Self {
        let world = Self::new();
        world.install();
        world
    }

    fn install(&self) {
        let sources = POD.map(|address| source("wrnp1", address));
        self.runtime.block_on(async {
            assert_eq!(self.nft.ensure_base(&rules()).await.unwrap(), Applied::Created);
            self.nft.add_pod_sources(&sources).await.unwrap();
        });
    }

    fn drops(&self) -> crate::nft::Drops {
        self.runtime.block_on(self.nft.drops()).unwrap()
    }

    /// Routes the far pod's addresses into the tunnel, or, as if it were missing, to the LAN.
    fn route_far_pod(&self, through_tunnel: bool) {
        on(&self.node, move || {
            let of = |v6: bool| match (through_tunnel, v6) {
                (true, _) => "dev wrn-wg".to_owned(),
                (false, false) => format!("via {}", LAN[0]),
                (false, true) => format!("via {}", LAN[1]),
            };
            run("ip", &format!("route replace 10.42.2.0/24 {}", of(false)));
            run("ip", &format!("-6 route replace fd57:4e00:42:2::/64 {}", of(true)));
            run("ip", &format!("route replace 10.43.0.0/16 via {}", LAN[0]));
            run("ip", &format!("-6 route replace fd57:4e00:43::/112 via {}", LAN[1]));
        });
    }
}

/// A namespace and the address of one of its links.
struct Side(String);

fn node_side(ns: &NetNs, link: &'static str) -> Side {
    Side(on(ns, move || mac(link)))
}

fn mac(link: &str) -> String {
    let shown = run("ip", &format!("-o link show {link}"));
    shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
}

trait HasMac {
    fn mac(&self) -> String;
}

impl HasMac for Side {
    fn mac(&self) -> String {
        self.0.clone()
    }
}

impl HasMac for NetNs {
    fn mac(&self) -> String {
        on(self, || mac("eth0"))
    }
}

fn neighbours(ns: &NetNs, link: &'static str, other: &impl HasMac, addresses: &[&'static str]) {
    let (mac, addresses) = (other.mac(), addresses.to_vec());
    on(ns, move || {
        for address in addresses {
            run("ip", &format!("neigh replace {address} lladdr {mac} dev {link} nud permanent"));
        }
    });
}

fn on<T: Send + 'static>(ns: &NetNs, f: impl FnOnce() -> T + Send + 'static) -> T {
    ns.run(f).unwrap()
}

fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn bound(ns: &NetNs, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    on(ns, move || UdpSocket::bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}")))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends one datagram; says whom the receiver saw, if it came.
fn arrives(from: &NetNs, source: &str, to: &NetNs, destination: &str) -> Option<SocketAddr> {
    arrives_between(from, (ip(source), 0), to, (ip(destination), 0))
}

fn arrives_between(
    from: &NetNs,
    source: (IpAddr, u16),
    to: &NetNs,
    destination: (IpAddr, u16),
) -> Option<SocketAddr> {
    let receiver = bound(to, destination);
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = bound(from, source);
    let text = format!("{source:?} to {destination:?}");
    match sender.send_to(text.as_bytes(), receiver.local_addr().unwrap()) {
        // The kernel tells the sender, when that is on the node, that a rule dropped it.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return None,
        sent => sent.unwrap(),
    };
    let mut buffer = [0; 256];
    let (length, seen) = receiver.recv_from(&mut buffer).ok()?;
    assert_eq!(&buffer[..length], text.as_bytes());
    Some(seen)
}

#[test]
fn a_pod_sends_only_from_its_own_addresses() {
    let world = World::new();
    for family in 0..2 {
        let control = arrives(&world.pod, NOT_THE_PODS[family], &world.node, NODE[family]);
        assert_eq!(control.map(|seen| seen.ip()), Some(ip(NOT_THE_PODS[family])), "control");
    }
    world.install();
    for family in 0..2 {
        let own = arrives(&world.pod, POD[family], &world.node, NODE[family]);
        assert_eq!(own.map(|seen| seen.ip()), Some(ip(POD[family])));
        let before = world.drops().spoofed;
        assert_eq!(arrives(&world.pod, NOT_THE_PODS[family], &world.node, NODE[family]), None);
        assert_eq!(world.drops().spoofed, before + 1);
        // The node to the pod, and what is allowed no more.
        let back = arrives(&world.node, NODE[family], &world.pod, POD[family]);
        assert_eq!(back.map(|seen| seen.ip()), Some(ip(NODE[family])));
        world.runtime.block_on(world.nft.remove_pod_sources(&[source("wrnp1", POD[family])])).unwrap();
        assert_eq!(arrives(&world.pod, POD[family], &world.node, NODE[family]), None);
        // Another pod's link is no help.
        world.runtime.block_on(world.nft.add_pod_sources(&[source("wrnp2", POD[family])])).unwrap();
        assert_eq!(arrives(&world.pod, POD[family], &world.node, NODE[family]), None);
    }
}

/// A router advertisement (RFC 4861, 4.2) with a lifetime, so that a host that believes it gets a default route.
fn advertise(pod: &NetNs) {
    on(pod, || {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
        let mut message = [0u8; 16];
        message[0] = 134;
        message[4] = 64;
        message[6..8].copy_from_slice(&1800u16.to_be_bytes());
        let all_nodes: SocketAddr = "[ff02::1]:0".parse().unwrap();
        socket.send_to(&message, &all_nodes.into()).unwrap();
    });
}

fn believed_router(node: &NetNs) -> bool {
    block_on(async { tokio::time::sleep(PATIENCE).await });
    on(node, || !run("ip", "-6 route show default dev wrnp1").is_empty())
}

#[test]
fn a_pod_cannot_play_the_router() {
    let world = World::new();
    on(&world.node, || sysctl("ipv6/conf/wrnp1/accept_ra", "2"));
    advertise(&world.pod);
    assert!(believed_router(&world.node), "control: the advertisement is believed");
    on(&world.node, || run("ip", "-6 route flush default dev wrnp1"));
    world.install();
    let before = world.drops().discovery;
    advertise(&world.pod);
    assert!(!believed_router(&world.node));
    assert!(world.drops().discovery > before);
    // Nor say anything else from an address of its link.
    let link_local = on(&world.pod, || {
        let shown = run("ip", "-o -6 addr show dev eth0 scope link");
        shown
            .split_whitespace()
            .skip_while(|w| *w != "inet6")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .to_owned()
    });
    let scoped = on(&world.pod, move || {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        UdpSocket::bind(std::net::SocketAddrV6::new(link_local.parse().unwrap(), 0, 0, index)).unwrap()
    });
    let receiver = bound(&world.node, (ip(NODE[1]), 0));
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    scoped.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
    assert!(receiver.recv_from(&mut [0; 8]).is_err());
}

#[test]
fn pods_leave_the_cluster_as_the_node_and_nowhere_else() {
    let world = World::guarded();
    world.route_far_pod(true);
    for family in 0..2 {
        let outside = arrives(&world.pod, POD[family], &world.lan, LAN[family]).expect("masqueraded");
        assert_eq!(outside.ip(), ip(NODE[family]));
        assert_ne!(outside.port(), 51840);
        let from_port = (ip(POD[family]), 51840);
        let shadow = arrives_between(&world.pod, from_port, &world.lan, (ip(LAN[family]), 0)).unwrap();
        assert_ne!(shadow.port(), 51840, "the tunnel's port is not given away");
        let other_pod =
            arrives(&world.pod, POD[family], &world.far, FAR_POD[family]).expect("through the tunnel");
        assert_eq!(other_pod.ip(), ip(POD[family]), "pods see each other");
        let back = arrives(&world.far, FAR_POD[family], &world.pod, POD[family]).expect("through the tunnel");
        assert_eq!(back.ip(), ip(FAR_POD[family]));
    }
    // Answers come back: UDP above says nothing of it.
    on(&world.pod, || {
        run("ping", "-c 1 -W 2 -I 10.42.1.5 198.51.100.2");
        run("ping", "-c 1 -W 2 -I fd57:4e00:42:1::5 2001:db8:1::2");
    });
    assert_eq!(world.runtime.block_on(world.nft.guard_drops()).unwrap(), 0);
}

#[test]
fn pod_addresses_do_not_leave_in_clear() {
    let world = World::new();
    world.route_far_pod(false);
    for family in 0..2 {
        let control = arrives(&world.pod, POD[family], &world.lan, FAR_POD[family]);
        assert_eq!(control.map(|seen| seen.ip()), Some(ip(POD[family])), "control: it leaks");
        assert!(arrives(&world.node, NODE[family], &world.lan, FAR_POD[family]).is_some(), "control");
        assert!(arrives(&world.node, NODE[family], &world.lan, SERVICE[family]).is_some(), "control");
    }
    world.install();
    for family in 0..2 {
        let before = world.drops().clear_out;
        assert_eq!(arrives(&world.pod, POD[family], &world.lan, FAR_POD[family]), None, "forwarded");
        assert_eq!(arrives(&world.node, NODE[family], &world.lan, FAR_POD[family]), None, "the node's own");
        assert_eq!(arrives(&world.node, NODE[family], &world.lan, SERVICE[family]), None, "to a Service");
        assert!(world.drops().clear_out >= before + 3);
    }
}

#[test]
fn pod_addresses_do_not_enter_in_clear() {
    let world = World::new();
    for family in 0..2 {
        assert!(arrives(&world.lan, LAN[family], &world.pod, POD[family]).is_some(), "control: to a pod");
        assert!(
            arrives(&world.lan, FAR_POD[family], &world.node, NODE[family]).is_some(),
            "control: as a pod"
        );
    }
    world.install();
    for family in 0..2 {
        let before = world.drops().clear_in;
        assert_eq!(arrives(&world.lan, LAN[family], &world.pod, POD[family]), None, "to a pod");
        assert_eq!(arrives(&world.lan, FAR_POD[family], &world.node, NODE[family]), None, "as a pod");
        assert!(world.drops().clear_in >= before + 2);
        let plain = arrives(&world.lan, LAN[family], &world.node, NODE[family]);
        assert_eq!(plain.map(|seen| seen.ip()), Some(ip(LAN[family])), "the LAN still reaches the node");
    }
}

#[test]
fn the_tunnels_packets_are_not_tracked_and_others_are() {
    let world = World::guarded();
    on(&world.node, || {
        nft_script(
            "table inet probe {
                counter untracked_in {}
                counter untracked_out {}
                counter untracked_forwarded {}
                counter tracked_forwarded {}
                chain in { type filter hook input priority 0; udp dport 51840 ct state untracked counter name untracked_in; }
                chain out { type filter hook output priority 0; udp sport 51840 ct state untracked counter name untracked_out; }
                chain forward { type filter hook forward priority 0;
                    udp dport 51840 ct state untracked counter name untracked_forwarded
                    udp dport 51840 ct state new counter name tracked_forwarded; }
             }",
        );
    });
    for family in 0..2 {
        let (node, lan) = ((ip(NODE[family]), 51840), (ip(LAN[family]), 40000));
        assert!(arrives_between(&world.lan, lan, &world.node, node).is_some());
        assert!(arrives_between(&world.node, node, &world.lan, lan).is_some());
        // Somebody else's tunnel that passes through this node keeps its tracking, and so its NAT.
        assert!(arrives_between(&world.pod, (ip(POD[family]), 0), &world.lan, (lan.0, 51840)).is_some());
    }
    let counted = on(&world.node, || run("nft", "list counters table inet probe"));
    let packets = |name: &str| {
        let behind = counted.split(&format!("counter {name} {{")).nth(1).unwrap();
        behind.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    let all = ["untracked_in", "untracked_out", "untracked_forwarded", "tracked_forwarded"].map(packets);
    assert_eq!(all, [2, 2, 0, 2], "{counted}");
}

/// No packet meets a table that is half built: spoofed ones are sent all the while it is made anew.
#[test]
fn nothing_slips_through_while_the_table_is_made_anew() {
    let world = World::guarded();
    let receiver = bound(&world.node, (ip(NODE[0]), 0));
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let target = receiver.local_addr().unwrap();
    let sender = bound(&world.pod, (ip(NOT_THE_PODS[0]), 0));
    let honest = bound(&world.pod, (ip(POD[0]), 0));
    let done = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send_to(b"spoofed", target).unwrap();
                sent += 1;
            }
            sent
        });
        for round in 0..60 {
            // Damage to the shape, which only a new table mends; the sources stay in force.
            on(&world.node, || nft_script("add chain inet warren postrouting_masquerade { policy drop; }"));
            assert_eq!(world.runtime.block_on(world.nft.ensure_base(&rules())).unwrap(), Applied::Rebuilt);
            honest.send_to(b"honest", target).unwrap();
            let mut buffer = [0; 16];
            let length = receiver.recv(&mut buffer).unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert_eq!(&buffer[..length], b"honest", "round {round}");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        flood.join().unwrap()
    });
    assert!(sent > 1000, "{sent} packets are no test");
    assert!(receiver.recv(&mut [0; 16]).is_err());
}
