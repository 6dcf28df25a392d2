//! Packet sockets on a veth pair: what they hear, what they do not, and that what they say arrives.

use super::support::{fresh, ip, runtime};
use crate::packet::{Frames, MAX_FRAME, PacketSocket};
use crate::{NetNs, Netlink, VethSpec};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

/// Two namespaces joined by a veth pair, both ends of it with index 2, named `eth0` and with an address.
fn pair() -> [NetNs; 2] {
    let [a, b] = [fresh(), fresh()];
    let path = format!("/proc/{}/fd/{}", std::process::id(), b.as_fd().as_raw_fd());
    let up = |ns: &NetNs, number: u8| {
        ns.run(move || {
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
            ip("link set eth0 up");
            ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
        })
        .unwrap();
    };
    a.run(move || {
        ip(&format!(
            "link add eth0 index 2 address 02:00:00:00:00:01 type veth peer eth0 netns {path} index 2"
        ))
    })
    .unwrap();
    up(&a, 1);
    up(&b, 2);
    runtime().block_on(async {
        let first = Netlink::in_namespace(&a).await.unwrap();
        assert!(first.wait_operational(2, SOON).await.unwrap());
    });
    [a, b]
}

/// The next frame that `wanted` picks.
async fn next(socket: &PacketSocket, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut frame = [0; MAX_FRAME];
    let search = async {
        loop {
            let length = socket.receive(&mut frame).await.unwrap();
            if wanted(&frame[..length]) {
                return frame[..length].to_vec();
            }
        }
    };
    tokio::time::timeout(SOON, search).await.expect("no such frame")
}

fn send(from: &NetNs, bind: &'static str, to: &'static str) {
    let _ = from.run(move || UdpSocket::bind(bind).unwrap().send_to(b"x", to).map(drop)).unwrap();
}

/// ARP of a station that is not there, for 192.0.2.50.
fn announcement() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9]);
    frame.extend([192, 0, 2, 50, 0, 0, 0, 0, 0, 0, 192, 0, 2, 50]);
    frame
}

#[test]
fn requests_for_addresses_that_nobody_holds_are_heard() {
    let [a, b] = pair();
    runtime().block_on(async {
        let arp = PacketSocket::in_namespace(&b, 2, Frames::Arp).await.unwrap();
        send(&a, "0.0.0.0:0", "192.0.2.77:9");
        let request = next(&arp, |f| f[38..42] == [192, 0, 2, 77]).await;
        assert_eq!((&request[..6], &request[12..14]), (&[0xff; 6][..], &[8, 6][..]));

        let ndp = PacketSocket::in_namespace(&b, 2, Frames::NeighbourDiscovery).await.unwrap();
        // A packet of another kind does not pass the filter.
        send(&a, "[::]:0", "[2001:db8::2]:9");
        send(&a, "[::]:0", "[2001:db8::7777]:9");
        let mut frame = [0; MAX_FRAME];
        let target: std::net::Ipv6Addr = "2001:db8::7777".parse().unwrap();
        loop {
            let length = tokio::time::timeout(SOON, ndp.receive(&mut frame)).await.unwrap().unwrap();
            assert!(
                length >= 78 && frame[20] == 58 && matches!(frame[54], 135 | 136),
                "{:?}",
                &frame[..length]
            );
            if frame[54] == 135 && frame[62..78] == target.octets() {
                // To a group that nobody here has joined.
                assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0x77, 0x77]);
                break;
            }
        }
    });
}

#[test]
fn a_frame_that_is_sent_arrives_and_is_not_heard_by_its_sender() {
    let [a, b] = pair();
    runtime().block_on(async {
        let here = PacketSocket::in_namespace(&a, 2, Frames::Arp).await.unwrap();
        let there = PacketSocket::in_namespace(&b, 2, Frames::Arp).await.unwrap();
        let mut frame = announcement();
        here.send(&frame).await.unwrap();
        assert_eq!(next(&there, |f| f[38..42] == [192, 0, 2, 50]).await, frame);
        // The answer of the other side comes after it, and is the first that is heard here.
        frame[41] = 51;
        there.send(&frame).await.unwrap();
        let heard = next(&here, |f| f[22..28] == [2, 0, 0, 0, 0, 9]).await;
        assert_eq!(heard[41], 51);
    });
}

#[test]
fn an_operational_link_drops_nothing() {
    for _ in 0..20 {
        let [a, b] = [fresh(), fresh()];
        runtime().block_on(async {
            let [first, second] = [&a, &b].map(Netlink::in_namespace);
            let (first, second) = (first.await.unwrap(), second.await.unwrap());
            let (name, peer_name) = ("eth0", "eth0");
            let spec = VethSpec { name, peer_name, peer_ns: Some(&b), mtu: 1500, macs: None, alias: "" };
            let pair = first.create_veth(&spec).await.unwrap();
            first.set_up(name, true).await.unwrap();
            let here = PacketSocket::in_namespace(&a, pair.index, Frames::Arp).await.unwrap();
            second.set_up(peer_name, true).await.unwrap();
            let there = PacketSocket::in_namespace(&b, pair.peer_index, Frames::Arp).await.unwrap();
            assert!(first.wait_operational(pair.index, SOON).await.unwrap());
            here.send(&announcement()).await.unwrap();
            next(&there, |f| f == announcement()).await;
        });
    }
}

#[test]
fn a_link_that_is_not_there_is_named() {
    let ns = fresh();
    let opened = runtime().block_on(PacketSocket::in_namespace(&ns, 4711, Frames::Arp));
    assert!(opened.unwrap_err().to_string().contains("4711"));
}

#[test]
fn a_link_that_goes_down_and_comes_back_is_heard_again() {
    let [a, b] = pair();
    runtime().block_on(async {
        let arp = PacketSocket::in_namespace(&b, 2, Frames::Arp).await.unwrap();
        b.run(|| ip("link set eth0 down")).unwrap();
        let mut frame = [0; MAX_FRAME];
        let down = loop {
            if let Err(e) = tokio::time::timeout(SOON, arp.receive(&mut frame)).await.unwrap() {
                break e;
            }
        };
        assert_eq!(down.raw_os_error(), Some(nix::libc::ENETDOWN));
        assert!(arp.send(&[0; 42]).await.is_err());
        b.run(|| ip("link set eth0 up")).unwrap();
        send(&a, "0.0.0.0:0", "192.0.2.78:9");
        next(&arp, |f| f[38..42] == [192, 0, 2, 78]).await;
    });
}
