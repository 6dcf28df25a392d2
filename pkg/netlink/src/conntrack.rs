//! Connections that the kernel tracks: which there are, and the end of single ones.
//!
//! Job: dump the flows of one protocol, keep those that the caller wants, delete one of them.
//! Inputs: a protocol number and a choice of flows. Outputs: [`Flow`]s as of the dump.
//! Owns: nothing; deleting a flow makes its next packet a first one.
//! Ordering: calls on one handle wait for one another. A dump takes milliseconds for 10,000 flows and holds only those
//! that are kept; a flow may begin or end while it is read.

use crate::nft::socket::{ANY_FAMILY, Connection, Failure};
use crate::nft::wire::{self, Writer};
use crate::{NetNs, NetlinkError};
use nix::libc;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const OBJECT: &str = "tracked connections";
/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u8 = 1;
/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE`.
const GET: u16 = u16::from_be_bytes([SUBSYSTEM, 1]);
const DELETE: u16 = u16::from_be_bytes([SUBSYSTEM, 2]);
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const V4: u8 = 2;
const V6: u8 = 10;
/// The filter's flag that says to compare the protocol of the tuple.
const FILTER_PROTOCOL: u32 = 1 << 3;

/// `CTA_*`: attributes of a flow.
mod attribute {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const MARK: u16 = 8;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const FILTER: u16 = 25;
}

/// `CTA_TUPLE_*`, `CTA_IP_*`, `CTA_PROTO_*`: attributes of a tuple.
mod part {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ZONE: u16 = 3;
    pub(super) const SOURCE_V4: u16 = 1;
    pub(super) const DESTINATION_V4: u16 = 2;
    pub(super) const SOURCE_V6: u16 = 3;
    pub(super) const DESTINATION_V6: u16 = 4;
    pub(super) const NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
    pub(super) const ICMP: [u16; 3] = [4, 5, 6];
    pub(super) const ICMP_V6: [u16; 3] = [7, 8, 9];

    /// Where ICMP has its identifier, its type and its code; none for protocols with ports.
    pub(super) fn of_icmp(protocol: u8) -> Option<[u16; 3]> {
        match protocol {
            1 => Some(ICMP),
            58 => Some(ICMP_V6),
            _ => None,
        }
    }
}

/// One direction of a flow. ICMP has no ports: in their place are the identifier, and type and code (a byte each).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Where its packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A tracked connection of a protocol with ports, or of ICMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The number in the IP header.
    pub protocol: u8,
    /// As the first packet said, before any translation.
    pub original: Tuple,
    /// As answers come: its source is where the packets went in the end.
    pub reply: Tuple,
    /// The connection mark.
    pub mark: u32,
    /// The zone of the original direction.
    pub zone: u16,
    /// The zone of the answers; mostly the same.
    pub reply_zone: u16,
    /// The kernel's number for it. A later flow whose ends are all the same may get the same number.
    pub id: u32,
}

/// What a dump found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flows {
    /// The flows that were kept, in the table's order; seldom, one comes twice.
    pub flows: Vec<Flow>,
    /// False when the dump was interrupted: some flows may be missing.
    pub complete: bool,
}

/// A handle on the tracked connections of one network namespace. Clones share the socket.
#[derive(Clone)]
pub struct Conntrack(Arc<tokio::sync::Mutex<Connection>>);

impl Conntrack {
    /// Opens a handle in the network namespace of the calling thread. Its calls need a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        Ok(Self(Arc::new(tokio::sync::Mutex::new(open()?))))
    }

    /// Opens a handle in `ns`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub async fn in_namespace(ns: &NetNs) -> Result<Self, NetlinkError> {
        Ok(Self(Arc::new(tokio::sync::Mutex::new(ns.run_async(open).await??))))
    }

    /// The flows of a protocol (its number in the IP header), of both families.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had. An interrupted dump is no error; see [`Flows::complete`].
    pub async fn flows(&self, protocol: u8) -> Result<Flows, NetlinkError> {
        self.flows_where(protocol, |_| true).await
    }

    /// As [`Conntrack::flows`], but holds only those that `keep` picks: it sees each flow as it is read.
    ///
    /// # Errors
    /// As [`Conntrack::flows`].
    pub async fn flows_where(
        &self,
        protocol: u8,
        mut keep: impl FnMut(&Flow) -> bool + Send + 'static,
    ) -> Result<Flows, NetlinkError> {
        const OP: &str = "list";
        self.run(OP, move |connection| {
            let mut found = Flows { flows: Vec::new(), complete: true };
            for family in [V4, V6] {
                let mut each = |attributes: &[u8]| {
                    // A kernel that does not know the filter sends every protocol's.
                    let flow = decode(attributes).filter(|flow| flow.protocol == protocol);
                    found.flows.extend(flow.filter(&mut keep));
                };
                let whole = match connection.dump_of(GET, family, filter(protocol), &mut each) {
                    Err(Failure::Refused(refusals))
                        if refusals.iter().all(|r| filter_is_unknown(r.errno)) =>
                    {
                        connection.dump_of(GET, family, Writer::default(), each)
                    }
                    outcome => outcome,
                };
                found.complete &= whole.map_err(|failure| failure.named(OP, OBJECT, None))?;
            }
            Ok(found)
        })
        .await
    }

    /// The flows of all protocols that `keep` picks, of both families, in one walk through the kernel's table: that walk, and
    /// not what is found on it, is what a dump costs on a quiet machine.
    ///
    /// # Errors
    /// As [`Conntrack::flows`].
    pub async fn all_flows_where(
        &self,
        mut keep: impl FnMut(&Flow) -> bool + Send + 'static,
    ) -> Result<Flows, NetlinkError> {
        const OP: &str = "list";
        self.run(OP, move |connection| {
            let mut flows = Vec::new();
            let each = |attributes: &[u8]| flows.extend(decode(attributes).filter(&mut keep));
            let whole = connection.dump_of(GET, ANY_FAMILY, Writer::default(), each);
            let complete = whole.map_err(|failure| failure.named(OP, OBJECT, None))?;
            Ok(Flows { flows, complete })
        })
        .await
    }

    /// Ends a flow. False when there is no such flow any more. A later flow that begins alike but is answered from
    /// elsewhere is spared; one that is the same in both directions may be taken for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete(&self, flow: &Flow) -> Result<bool, NetlinkError> {
        const OP: &str = "delete";
        let flow = *flow;
        self.run(OP, move |connection| {
            let (family, request) = deletion(&flow);
            match connection.change(DELETE, family, request) {
                Ok(()) => Ok(true),
                Err(failure) if failure.is_not_found() => Ok(false),
                Err(failure) => {
                    let Tuple { source, destination } = flow.original;
                    let object = format!("connection {source} -> {destination}, protocol {}", flow.protocol);
                    Err(failure.named(OP, &object, None))
                }
            }
        })
        .await
    }

    /// Runs one call on a thread for blocking work. Once begun it ends, also when the caller has gone.
    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&mut Connection) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let mut connection = Arc::clone(&self.0).lock_owned().await;
        let lost = |e| NetlinkError::Protocol { op, reason: format!("the request was lost: {e}") };
        tokio::task::spawn_blocking(move || call(&mut connection)).await.map_err(lost)?
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").finish_non_exhaustive()
    }
}

fn open() -> Result<Connection, NetlinkError> {
    let object = "connection tracking netlink socket";
    Connection::open().map_err(|source| NetlinkError::Kernel { op: "open", object: object.into(), source })
}

/// What kernels say of a filter that they know in part: none, or not of this protocol.
fn filter_is_unknown(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EINVAL)
}

/// Asks for flows whose original direction has this protocol. Kernels before 5.8 do not look at it.
fn filter(protocol: u8) -> Writer {
    let mut request = Writer::default();
    request.nest(attribute::ORIGINAL, |tuple| {
        tuple.nest(part::PROTOCOL, |w| w.bytes(part::NUMBER, &[protocol]));
    });
    // The flags of the original and of the reply; of all numbers here, these alone are in the machine's order.
    request.nest(attribute::FILTER, |w| {
        w.bytes(1, &FILTER_PROTOCOL.to_ne_bytes());
        w.bytes(2, &0u32.to_ne_bytes());
    });
    request
}

/// The family and the attributes that name one flow. Without a tuple the kernel would delete them all.
///
/// The tuple is the reply's: the number is a hash of the original direction and of the place in memory, which a later flow
/// may get too, so it does not tell where the packets go.
fn deletion(flow: &Flow) -> (u8, Writer) {
    let mut request = Writer::default();
    encode_tuple(&mut request, attribute::REPLY, flow.protocol, &flow.reply);
    if flow.reply_zone != 0 {
        request.bytes(attribute::ZONE, &flow.reply_zone.to_be_bytes());
    }
    request.u32(attribute::ID, flow.id);
    (if flow.reply.source.is_ipv4() { V4 } else { V6 }, request)
}

fn encode_tuple(request: &mut Writer, kind: u16, protocol: u8, tuple: &Tuple) {
    let Tuple { source, destination } = tuple;
    request.nest(kind, |w| {
        w.nest(part::IP, |w| {
            let kinds = match source {
                SocketAddr::V4(_) => [part::SOURCE_V4, part::DESTINATION_V4],
                SocketAddr::V6(_) => [part::SOURCE_V6, part::DESTINATION_V6],
            };
            for (kind, end) in kinds.into_iter().zip([source, destination]) {
                match end.ip() {
                    IpAddr::V4(v4) => w.bytes(kind, &v4.octets()),
                    IpAddr::V6(v6) => w.bytes(kind, &v6.octets()),
                }
            }
        });
        w.nest(part::PROTOCOL, |w| {
            w.bytes(part::NUMBER, &[protocol]);
            let [first, second] = [source, destination].map(|end| end.port().to_be_bytes());
            if let Some([identifier, kind, code]) = part::of_icmp(protocol) {
                w.bytes(identifier, &first);
                w.bytes(kind, &second[..1]);
                w.bytes(code, &second[1..]);
            } else {
                w.bytes(part::SOURCE_PORT, &first);
                w.bytes(part::DESTINATION_PORT, &second);
            }
        });
    });
}

/// A flow from its attributes; `None` when it has no ports, or lacks what a flow has.
fn decode(attributes: &[u8]) -> Option<Flow> {
    let [mut original, mut reply, mut mark, mut zone, mut id] = [None; 5];
    for (kind, value) in wire::attributes(attributes) {
        let slot = match kind {
            attribute::ORIGINAL => &mut original,
            attribute::REPLY => &mut reply,
            attribute::MARK => &mut mark,
            attribute::ZONE => &mut zone,
            attribute::ID => &mut id,
            _ => continue,
        };
        slot.get_or_insert(value);
    }
    let (protocol, original, own_zone) = decode_tuple(original?)?;
    let (_, reply, reply_zone) = decode_tuple(reply?)?;
    let zone = zone.and_then(as_u16);
    Some(Flow {
        protocol,
        original,
        reply,
        mark: mark.and_then(wire::as_u32).unwrap_or(0),
        zone: zone.or(own_zone).unwrap_or(0),
        reply_zone: zone.or(reply_zone).unwrap_or(0),
        id: wire::as_u32(id?)?,
    })
}

/// Protocol, ends and zone of one direction.
fn decode_tuple(tuple: &[u8]) -> Option<(u8, Tuple, Option<u16>)> {
    let (ip, protocol) = (wire::find(tuple, part::IP)?, wire::find(tuple, part::PROTOCOL)?);
    let (mut source, mut destination) = (None, None);
    for (kind, value) in wire::attributes(ip) {
        match kind {
            part::SOURCE_V4 => source = Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            part::DESTINATION_V4 => destination = Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            part::SOURCE_V6 => source = Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            part::DESTINATION_V6 => destination = Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            _ => {}
        }
    }
    let (source, destination) = (source?, destination?);
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let number = *wire::find(protocol, part::NUMBER)?.first()?;
    let port = |kind| wire::find(protocol, kind).and_then(as_u16);
    let byte = |kind| wire::find(protocol, kind)?.first().copied();
    let [first, second] = match part::of_icmp(number) {
        Some([identifier, kind, code]) => [port(identifier)?, u16::from_be_bytes([byte(kind)?, byte(code)?])],
        None => [port(part::SOURCE_PORT)?, port(part::DESTINATION_PORT)?],
    };
    let ends =
        Tuple { source: SocketAddr::new(source, first), destination: SocketAddr::new(destination, second) };
    Some((number, ends, wire::find(tuple, part::ZONE).and_then(as_u16)))
}

fn as_u16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

/// How many IPv4 flows the kernel sends when asked for those of a protocol.
#[cfg(test)]
pub(crate) fn sent_by_kernel(protocol: u8) -> usize {
    let mut sent = 0;
    open().unwrap().dump_of(GET, V4, filter(protocol), |_| sent += 1).unwrap();
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow() -> Flow {
        let tuple = |source: &str, destination: &str| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Flow {
            protocol: 17,
            original: tuple("[fd00::1]:4000", "[fd00::2]:53"),
            reply: tuple("[fd00::3]:5353", "[fd00::1]:4000"),
            mark: 0x5700_0000,
            zone: 7,
            reply_zone: 7,
            id: 0x0102_0304,
        }
    }

    /// A flow as the kernel sends it.
    fn encode(flow: &Flow) -> Vec<u8> {
        let mut message = Writer::default();
        encode_tuple(&mut message, attribute::ORIGINAL, flow.protocol, &flow.original);
        encode_tuple(&mut message, attribute::REPLY, flow.protocol, &flow.reply);
        message.u32(attribute::MARK, flow.mark);
        message.bytes(attribute::ZONE, &flow.zone.to_be_bytes());
        message.u32(attribute::ID, flow.id);
        message.finish().0
    }

    #[test]
    fn icmp_has_its_identifier_type_and_code_where_others_have_ports() {
        for protocol in [1, 58] {
            let echo = Flow { protocol, ..flow() };
            assert_eq!(decode(&encode(&echo)), Some(echo));
        }
    }

    #[test]
    fn a_flow_is_read_among_attributes_that_nobody_knows() {
        assert_eq!(decode(&encode(&flow())), Some(flow()));
        let mut strange = Writer::default();
        strange.bytes(0x3fff, b"something new");
        strange.nest(99, |w| w.u64(1, 1));
        let (mut bytes, _) = strange.finish();
        bytes.extend(encode(&flow()));
        assert_eq!(decode(&bytes), Some(flow()));
    }

    #[test]
    fn a_protocol_without_ports_is_no_flow() {
        let mut request = Writer::default();
        request.nest(attribute::ORIGINAL, |tuple| {
            tuple.nest(part::PROTOCOL, |w| w.bytes(part::NUMBER, &[1]));
        });
        assert_eq!(decode(&request.finish().0), None);
    }

    proptest! {
        #[test]
        fn damaged_flows_are_harmless(cut in 0usize..200, at in 0usize..200, byte: u8, noise: Vec<u8>) {
            let mut bytes = encode(&flow());
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..cut.min(length)]);
            let _ = decode(&noise);
        }
    }
}
