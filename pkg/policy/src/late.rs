//! What is on its way when a flow ends must not begin it anew, least of all from its other end, where it may be allowed.
//!
//! TCP, SCTP and ICMP say of a packet whether it begins something. UDP does not: so the way of an ended flow's answers is
//! remembered, for as long as answers may be on their way. After that a packet on it is what it looks like, a flow that the
//! other end begins, and it is judged as that.
//!
//! Where the ends are on two nodes, the other node may still know the flow as one that its own end may have, and let all of it
//! pass as answers without a judge. So when what the other end might begin is allowed here and forbidden there, its way is
//! remembered for as long as either end goes on to use it.

use crate::decide::Flow as Judged;
use crate::engine::Engine;
use crate::ruleset::{Names, STRAYS, V4, V6, family, octets, padded};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use warren_netlink::NetlinkError;
use warren_netlink::conntrack::{Flow, Tuple};
use warren_netlink::nft::build::{equals, go, in_state, rule};
use warren_netlink::nft::expr::{
    Comparison, Expr, Header, Meta, Register, STATE_INVALID, SetChange, Verdict,
};
use warren_netlink::nft::model::{Element, Field, Rule, Set};
use warren_netlink::nft::{Change, Nft};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_SCTP: u8 = 132;
/// Offset of the flags in a TCP header; of these, FIN, SYN, RST and ACK, of which SYN alone begins a connection.
const TCP_FLAGS: u32 = 13;
const TCP_FLAGS_MASK: u8 = 0x17;
const TCP_SYN: u8 = 0x02;
/// Offset of the type of the first chunk behind an SCTP header, and the one that begins an association (RFC 9260, 3.3.2). A
/// HEARTBEAT, which connection tracking takes for a beginning as well, does not.
const SCTP_CHUNK: u32 = 12;
const SCTP_INIT: u8 = 1;
/// How long answers of an ended UDP flow may be on their way, in ms: also a busy server has answered by then what it had received.
const ENDED_FOR: u64 = 2_000;
/// How long a way that is forbidden elsewhere is remembered after its last packet, in ms: longer than another node's connection
/// tracking remembers a UDP flow (`nf_conntrack_udp_timeout_stream`, 120 s).
const PARTED_FOR: u64 = 180_000;
/// Ways that are remembered, of one family, for either time.
const WAYS: u32 = 65_536;

/// The sets of ways that are remembered while they are used.
const PARTED: [&str; 2] = [V4.parted, V6.parted];

/// The sets, of one family.
pub(crate) fn sets(names: &Names) -> [(&'static str, Set); 2] {
    let way = [names.address(), Field::Port, names.address(), Field::Port];
    let set = || Set::of_tuples(&way);
    [
        (names.ended, set().lasting(ENDED_FOR, WAYS)),
        (names.parted, set().counted().filled_by_packets(WAYS).lasting(PARTED_FOR, WAYS)),
    ]
}

/// What keeps answers on their way from beginning flows anew that are about to be ended.
#[must_use]
pub(crate) fn hold<'f>(flows: impl IntoIterator<Item = &'f Flow>) -> Change {
    let of_udp = flows.into_iter().filter(|flow| flow.protocol == IPPROTO_UDP);
    change(of_udp.map(|flow| flow.reply), |names| names.ended)
}

/// Keeps apart the ends of ended flows whose answers this node would take for a flow of its own right, though the node of the
/// other end has to forbid that.
#[must_use]
pub(crate) fn part<'f>(
    flows: impl IntoIterator<Item = &'f Flow>,
    is_parted: impl Fn(&Judged) -> bool,
) -> Change {
    let of_udp = flows.into_iter().filter(|flow| flow.protocol == IPPROTO_UDP);
    let ways = of_udp.map(|flow| flow.reply).filter(|way| is_parted(&begun(way)));
    change(ways, |names| names.parted)
}

/// Whether a flow is allowed here and forbidden where its other end is.
pub(crate) fn is_forbidden_elsewhere(engine: &Engine, flow: &Judged) -> bool {
    engine.is_allowed(flow) && !engine.decide_in_cluster(flow).is_allowed()
}

/// A flow that begins on a way.
fn begun(way: &Tuple) -> Judged {
    let (source, destination) = (way.source.ip(), way.destination.ip());
    Judged { source, destination, protocol: IPPROTO_UDP, port: way.destination.port() }
}

fn change(ways: impl Iterator<Item = Tuple>, set: impl Fn(&Names) -> &'static str) -> Change {
    let mut change = Change::default();
    for way in ways {
        let elements = change.add.entry(set(Names::of(way.source.ip())).to_owned()).or_default();
        if elements.len() < WAYS as usize {
            elements.push(element(&way));
        }
    }
    change
}

fn element(way: &Tuple) -> Element {
    let end = |at: SocketAddr| [octets(at.ip()), padded(&at.port().to_be_bytes())].concat();
    Element::exact([end(way.source), end(way.destination)].concat())
}

/// The rules behind those for known connections, before anything is judged.
pub(crate) fn rules() -> Vec<Rule> {
    let to_strays = || go(Verdict::Jump(STRAYS.into()));
    let mut rules = vec![
        rule([in_state(STATE_INVALID), to_strays()]),
        rule([begins_nothing(IPPROTO_TCP, TCP_FLAGS, TCP_FLAGS_MASK, TCP_SYN), to_strays()]),
        rule([begins_nothing(IPPROTO_SCTP, SCTP_CHUNK, u8::MAX, SCTP_INIT), to_strays()]),
    ];
    for names in [&V4, &V6] {
        let along = || way(names, [names.source, names.destination], [0, 2]);
        let against = way(names, [names.destination, names.source], [2, 0]);
        let found =
            |set: &str| vec![Expr::Lookup { set: set.into(), from: Register::FIRST, inverted: false }];
        let renew = || {
            let (set, change) = (names.parted.into(), SetChange::Update);
            vec![Expr::ChangeSet { set, change, key: Register::FIRST, value: None, timeout: PARTED_FOR }]
        };
        rules.extend([
            rule([along(), found(names.ended), go(Verdict::Drop)]),
            rule([along(), found(names.parted), renew(), go(Verdict::Drop)]),
            // What the other node's connection tracking sees keeps the flow alive there.
            rule([against, found(names.parted), renew()]),
        ]);
    }
    rules
}

/// Goes on for a packet of a protocol that does not begin a connection: the byte at an offset tells.
fn begins_nothing(protocol: u8, offset: u32, mask: u8, begins: u8) -> Vec<Expr> {
    let mut exprs = equals(Meta::Protocol, vec![protocol]);
    let (from, into) = (Register::FIRST, Register::FIRST);
    exprs.extend([
        Expr::Payload { header: Header::Transport, offset, length: 1, into },
        Expr::Mask { from, into, mask: vec![mask], toggle: vec![0] },
        Expr::Compare { from, is: Comparison::NotEqual, value: vec![begins] },
    ]);
    exprs
}

/// Loads the way of a UDP packet: addresses and ports of its ends, which are at these offsets.
fn way(names: &Names, addresses: [u32; 2], ports: [u32; 2]) -> Vec<Expr> {
    let mut exprs = [family(names), equals(Meta::Protocol, vec![IPPROTO_UDP])].concat();
    let mut into = Register::FIRST;
    for (address, offset) in addresses.into_iter().zip(ports) {
        let port = into.after(names.length());
        exprs.push(names.load(address, into));
        exprs.push(Expr::Payload { header: Header::Transport, offset, length: 2, into: port });
        into = port.after(2);
    }
    exprs
}

/// Forgets ways that nothing forbids any more.
///
/// # Errors
/// When the sets cannot be read or changed; then it was nothing, or is to be tried again.
pub(crate) async fn review(nft: &Nft, is_parted: impl Fn(&Judged) -> bool) -> Result<(), NetlinkError> {
    for set in PARTED {
        let ways = nft.element_counts(set).await?;
        let allowed = ways.keys().filter_map(|key| tuple(key)).filter(|way| !is_parted(&begun(way)));
        let elements: Vec<Element> = allowed.map(|way| element(&way)).collect();
        if !elements.is_empty() {
            let remove = [(set.to_owned(), elements)].into();
            nft.change_section(Change { remove, ..Change::default() }).await?;
        }
    }
    Ok(())
}

/// What a key of the sets means.
fn tuple(key: &[u8]) -> Option<Tuple> {
    let (source, destination) = key.split_at_checked(key.len() / 2)?;
    Some(Tuple { source: end(source)?, destination: end(destination)? })
}

fn end(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let port = u16::from_be_bytes(port.get(..2)?.try_into().ok()?);
    let v4 = <[u8; 4]>::try_from(address).map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let address = v4.or_else(|_| <[u8; 16]>::try_from(address).map(|octets| Ipv6Addr::from(octets).into()));
    Some(SocketAddr::new(address.ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset;
    use nix::sched::{CloneFlags, unshare};
    use std::sync::Arc;
    use warren_netlink::nft::Section;

    #[test]
    fn a_way_is_read_as_it_was_written() {
        for (source, destination) in
            [("10.42.0.4:53", "10.42.1.7:40001"), ("[fd42::4]:53", "[fd42:0:0:1::7]:40001")]
        {
            let way = Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap() };
            assert_eq!(tuple(&element(&way).key), Some(way));
        }
        assert_eq!(tuple(&[0; 7]), None);
    }

    fn flow(protocol: u8, client: &str, server: &str) -> Flow {
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        Flow {
            protocol,
            original: Tuple { source: client, destination: server },
            reply: Tuple { source: server, destination: client },
            mark: 0,
            zone: 0,
            reply_zone: 0,
            id: 0,
        }
    }

    #[test]
    fn a_way_is_remembered_until_nothing_forbids_it_any_more() {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nft = Nft::current().unwrap();
            nft.ensure_section(Section::Policy, Arc::new(ruleset::ruleset(&[]))).await.unwrap();
            let flows = [
                flow(IPPROTO_UDP, "10.42.1.7:40001", "10.42.0.4:53"),
                flow(IPPROTO_UDP, "10.42.1.8:40001", "10.42.0.4:53"),
                flow(IPPROTO_UDP, "[fd42::1:7]:40001", "[fd42::4]:53"),
                flow(IPPROTO_TCP, "10.42.1.7:40001", "10.42.0.4:53"),
            ];
            let gone: IpAddr = "10.42.1.8".parse().unwrap();
            nft.change_section(part(&flows, |flow| flow.destination != gone)).await.unwrap();
            let remembered = async || {
                let mut ways = Vec::new();
                for set in PARTED {
                    ways.extend(nft.element_counts(set).await.unwrap().keys().filter_map(|key| tuple(key)));
                }
                ways
            };
            assert_eq!(remembered().await, [flows[0].reply, flows[2].reply]);
            review(&nft, |_| true).await.unwrap();
            assert_eq!(remembered().await.len(), 2);
            let port = |flow: &Judged| assert_eq!((flow.protocol, flow.port), (IPPROTO_UDP, 40001));
            review(&nft, |flow| {
                port(flow);
                flow.source.is_ipv4()
            })
            .await
            .unwrap();
            assert_eq!(remembered().await, [flows[0].reply]);
        });
    }
}
