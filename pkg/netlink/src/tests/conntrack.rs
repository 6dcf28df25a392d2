//! Tracked connections: made by real packets, listed, ended one by one.

use super::support::{fresh, in_fresh, ip, runtime};
use crate::conntrack::{Conntrack, Flow, Flows};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

const UDP: u8 = 17;
const TCP: u8 = 6;
/// Tracks everything; what goes to 192.0.2.1:53 goes to 127.0.0.1:5353 and back; port 7777 has a zone of its own, and
/// port 7778 one for its original direction only.
const RULES: &str = "table inet t {
    chain zones { type filter hook output priority raw;
        udp dport 7777 ct zone set 9
        udp dport 7778 ct original zone set 11
    }
    chain marks { type filter hook output priority 0; ct state new ct mark set 0x57000001
    }
    chain nats { type nat hook output priority -100; ip daddr 192.0.2.1 udp dport 53 dnat to 127.0.0.1:5353
    }
}";

fn tracked() {
    ip("link set lo up");
    ip("route add 192.0.2.0/24 dev lo");
    nft(RULES);
}

fn nft(script: &str) {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is needed");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A socket that has sent one packet to each destination.
fn sender(from: &str, to: &[&str]) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(from).unwrap();
    for to in to {
        // Nobody listens, and the answer to one packet is an error of the next.
        let sent = socket.send_to(b"x", to).or_else(|_| socket.send_to(b"x", to));
        assert_eq!(sent.unwrap(), 1);
    }
    let own = socket.local_addr().unwrap();
    (socket, own)
}

fn to<'a>(found: &'a Flows, destination: &str) -> Vec<&'a Flow> {
    let destination: SocketAddr = destination.parse().unwrap();
    found.flows.iter().filter(|flow| flow.original.destination == destination).collect()
}

#[test]
fn flows_are_listed_and_one_is_ended() {
    in_fresh(|_| async {
        tracked();
        let conntrack = Conntrack::current().unwrap();
        assert_eq!(conntrack.flows(UDP).await.unwrap(), Flows { flows: vec![], complete: true });
        let (_receiver, _) = sender("127.0.0.1:5353", &[]);
        let (four, own) =
            sender("127.0.0.1:0", &["192.0.2.1:53", "127.0.0.1:4001", "127.0.0.1:7777", "127.0.0.1:7778"]);
        let (_six, own6) = sender("[::1]:0", &["[::1]:4002"]);
        // A connection of another protocol is none of them.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let found = conntrack.flows(UDP).await.unwrap();
        assert!(found.complete);
        assert_eq!(found.flows.len(), 5, "{found:?}");
        assert!(found.flows.iter().all(|flow| flow.protocol == UDP && flow.mark == 0x5700_0001));
        let translated = *to(&found, "192.0.2.1:53")[0];
        assert_eq!(translated.original.source.port(), own.port());
        assert_eq!(translated.reply.source, "127.0.0.1:5353".parse().unwrap());
        assert_eq!(translated.zone, 0);
        assert_eq!(to(&found, "127.0.0.1:7777")[0].zone, 9);
        let one_way = to(&found, "127.0.0.1:7778")[0];
        assert_eq!((one_way.zone, one_way.reply_zone), (11, 0));
        assert_eq!(to(&found, "[::1]:4002")[0].original.source, own6);
        assert_eq!(conntrack.flows(TCP).await.unwrap().flows.len(), 1);
        let only = conntrack.flows_where(UDP, |flow| flow.reply.source.port() == 5353).await.unwrap();
        assert_eq!(only.flows, [translated]);

        // One ends and the others live on; what is gone already is no error.
        assert!(conntrack.delete(&translated).await.unwrap());
        assert!(!conntrack.delete(&translated).await.unwrap());
        let left = conntrack.flows(UDP).await.unwrap();
        assert!(to(&left, "192.0.2.1:53").is_empty() && left.flows.len() == 4, "{left:?}");

        // A later flow that begins alike and goes elsewhere is spared, whatever its number is.
        nft(
            "flush chain inet t nats; add rule inet t nats ip daddr 192.0.2.1 udp dport 53 dnat ip to 127.0.0.1:5354",
        );
        let again = four.send_to(b"x", "192.0.2.1:53").or_else(|_| four.send_to(b"x", "192.0.2.1:53"));
        assert_eq!(again.unwrap(), 1);
        assert!(!conntrack.delete(&translated).await.unwrap());
        let later = *to(&conntrack.flows(UDP).await.unwrap(), "192.0.2.1:53")[0];
        assert_eq!((later.original, later.reply.source.port()), (translated.original, 5354));

        // Flows of zones and of IPv6 end too.
        for flow in conntrack.flows(UDP).await.unwrap().flows {
            assert!(conntrack.delete(&flow).await.unwrap(), "{flow:?}");
        }
        assert_eq!(conntrack.flows(UDP).await.unwrap().flows, []);
        assert_eq!(conntrack.flows(TCP).await.unwrap().flows.len(), 1);
    });
}

#[test]
fn the_kernel_sends_the_flows_of_one_protocol_only() {
    in_fresh(|_| async {
        tracked();
        let (_udp, _) = sender("127.0.0.1:0", &["127.0.0.1:4001", "127.0.0.1:4002"]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(crate::conntrack::sent_by_kernel(UDP), 2);
        assert_eq!(crate::conntrack::sent_by_kernel(TCP), 1);
    });
}

#[test]
fn a_handle_stays_in_its_namespace() {
    let (ns, other) = (fresh(), fresh());
    let own = ns.run(|| {
        tracked();
        sender("127.0.0.1:0", &["127.0.0.1:4001"]).1
    });
    runtime().block_on(async {
        let conntrack = Conntrack::in_namespace(&ns).await.unwrap();
        let found = conntrack.flows(UDP).await.unwrap();
        assert_eq!(found.flows.iter().map(|flow| flow.original.source).collect::<Vec<_>>(), [own.unwrap()]);
        let conntrack = Conntrack::in_namespace(&other).await.unwrap();
        assert_eq!(conntrack.flows(UDP).await.unwrap().flows, []);
    });
}

#[test]
fn a_large_table_is_read_while_flows_come_and_go() {
    const FLOWS: u16 = 20_000;
    in_fresh(|_| async {
        tracked();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 10_000..10_000 + FLOWS {
            let _ = socket
                .send_to(b"x", ("127.0.0.1", port))
                .or_else(|_| socket.send_to(b"x", ("127.0.0.1", port)));
        }
        let conntrack = Conntrack::current().unwrap();
        let begun = std::time::Instant::now();
        let found = conntrack.flows(UDP).await.unwrap();
        println!("{} flows read in {:?}", found.flows.len(), begun.elapsed());
        // The table's size is the machine's, which may hold fewer.
        assert!(found.flows.len() > 1000, "{}", found.flows.len());
        assert!(
            found.flows.iter().all(|flow| flow.original.destination.ip() == IpAddr::from([127, 0, 0, 1]))
        );
        let begun = std::time::Instant::now();
        for flow in found.flows.iter().step_by(2) {
            conntrack.delete(flow).await.unwrap();
        }
        println!("half of them deleted one by one in {:?}", begun.elapsed());
        let one = found.flows[1].original.destination;
        let kept = conntrack.flows_where(UDP, move |flow| flow.original.destination == one).await.unwrap();
        assert_eq!(kept.flows, [found.flows[1]]);
    });
}

#[test]
fn a_ping_is_a_flow_that_can_be_ended() {
    in_fresh(|_| async {
        tracked();
        let conntrack = Conntrack::current().unwrap();
        for (protocol, address) in [(1, "127.0.0.1"), (58, "::1")] {
            let ping = Command::new("ping").args(["-c1", "-W1", address]).output().expect("ping is needed");
            assert!(ping.status.success(), "{ping:?}");
            let flows = conntrack.flows(protocol).await.unwrap().flows;
            let [flow] = flows.as_slice() else { panic!("{flows:?}") };
            assert_eq!(flow.reply.source.ip(), address.parse::<IpAddr>().unwrap());
            assert!(conntrack.delete(flow).await.unwrap());
            assert_eq!(conntrack.flows(protocol).await.unwrap().flows, []);
        }
    });
}
