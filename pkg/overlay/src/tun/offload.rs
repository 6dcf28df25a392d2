//! Taking apart TCP packets that stand for many, and putting them together. Pure.
//!
//! Checksums are sums of 16-bit words in ones' complement, which do not care for the order of bytes (RFC 1071): words are
//! read and written as the processor has them.

use gotatun::packet::Packet;

/// Length of `struct virtio_net_hdr`.
pub(super) const HEADER: usize = 10;
/// The checksum is to be filled in.
const NEEDS_CSUM: u8 = 1;
/// The checksum was looked at and is right.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Explicit congestion notification, beside the kind.
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const IPV4: usize = 20;
const IPV6: usize = 40;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
/// Longest packet, and longest headers (60 and 60 bytes).
const PACKET_MAX: usize = 65_535;
const HEADS_MAX: usize = 120;
/// Packets put into one; the kernel takes a write of 1024 pieces.
const PARTS_MAX: usize = 128;
/// So many streams are put together at once.
const STREAMS: usize = 16;

/// `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct VnetHeader {
    flags: u8,
    kind: u8,
    head: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHeader {
    /// The header of a frame, and the packet behind it.
    pub(super) fn parse(frame: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (raw, packet) = frame.split_first_chunk_mut::<HEADER>()?;
        let word = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        let header = Self {
            flags: raw[0],
            kind: raw[1] & !GSO_ECN,
            head: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        Some((header, packet))
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        (out[0], out[1]) = (self.flags, self.kind);
        for (at, word) in [(2, self.head), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            out[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }
}

/// Sum of the words of `bytes`.
fn sum(bytes: &[u8]) -> u64 {
    let mut wide = bytes.chunks_exact(4);
    let mut total: u64 = 0;
    for word in &mut wide {
        total += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut rest = wide.remainder().chunks_exact(2);
    for word in &mut rest {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = rest.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    // Folded below.
    total as u16
}

/// What TCP's checksum covers of the IP header, and the length.
fn pseudo(packet: &[u8], length: usize) -> u64 {
    let addresses = if is_v4(packet) { &packet[12..20] } else { &packet[8..40] };
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    sum(addresses) + sum(&length.to_be_bytes()) + sum(&[0, TCP])
}

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

fn put(packet: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn get_long(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// Writes the length of a packet with these headers and this much payload.
fn set_length(head: &mut [u8], payload: usize) {
    if is_v4(head) {
        put(head, 2, head.len() + payload);
        head[10..12].fill(0);
        let ip = usize::from(head[0] & 15) * 4;
        let csum = !fold(sum(&head[..ip]));
        head[10..12].copy_from_slice(&csum.to_ne_bytes());
    } else {
        put(head, 4, head.len() - IPV6 + payload);
    }
}

/// Emits the packets (headers, payload) that one packet of the kernel stands for, with all checksums done. What makes no
/// sense is dropped.
pub(super) fn split(header: VnetHeader, packet: &mut [u8], mut emit: impl FnMut(&[u8], &[u8])) {
    let start = usize::from(header.csum_start);
    if header.kind == GSO_NONE {
        if header.flags & NEEDS_CSUM != 0 {
            let at = start + usize::from(header.csum_offset);
            if at + 2 > packet.len() || start > at {
                return;
            }
            // The field holds the sum of the pseudo header already. A sum of zero is written as its other form: to UDP
            // a zero means that there is none.
            let csum = match !fold(sum(&packet[start..])) {
                0 => 0xffff,
                csum => csum,
            };
            packet[at..at + 2].copy_from_slice(&csum.to_ne_bytes());
        }
        emit(packet, &[]);
        return;
    }
    let size = usize::from(header.gso_size);
    let least = if header.kind == GSO_TCPV4 { IPV4 } else { IPV6 };
    if !matches!(header.kind, GSO_TCPV4 | GSO_TCPV6)
        || size == 0
        || start < least
        || packet.len() < start + 20
    {
        return;
    }
    if is_v4(packet) != (header.kind == GSO_TCPV4)
        || (is_v4(packet) && usize::from(packet[0] & 15) * 4 > start)
    {
        return;
    }
    let heads = start + usize::from(packet[start + 12] >> 4) * 4;
    if heads > packet.len() || heads > HEADS_MAX || heads < start + 20 {
        return;
    }
    let (original, payload) = packet.split_at(heads);
    let mut buffer = [0; HEADS_MAX];
    let head = &mut buffer[..heads];
    let last = payload.len().div_ceil(size).saturating_sub(1);
    for (i, piece) in payload.chunks(size).enumerate() {
        head.copy_from_slice(original);
        if is_v4(head) {
            let id = get(head, 4).wrapping_add(u16::try_from(i).unwrap_or(0));
            put(head, 4, usize::from(id));
        }
        set_length(head, piece.len());
        let offset = u32::try_from(i * size).unwrap_or(0);
        let sequence = get_long(head, start + 4).wrapping_add(offset);
        head[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
        if i != last {
            head[start + 13] &= !(FIN | PSH);
        }
        if i != 0 {
            head[start + 13] &= !CWR;
        }
        head[start + 16..start + 18].fill(0);
        let total = pseudo(head, heads - start + piece.len()) + sum(&head[start..]) + sum(piece);
        head[start + 16..start + 18].copy_from_slice(&(!fold(total)).to_ne_bytes());
        emit(head, piece);
    }
}

/// Packets to be written as one.
pub(super) struct Group {
    pub(super) header: VnetHeader,
    /// The packets; of all but the first only what is behind the headers.
    pub(super) parts: Vec<Packet>,
    /// Length of the headers of each.
    pub(super) head: usize,
    /// Where TCP's header begins; 0 when it is no such packet.
    tcp: usize,
    /// Payload of each but the last.
    size: usize,
    payload: usize,
    /// Whether another may follow.
    open: bool,
}

/// Puts packets of one stream together, in order. Streams may overtake each other.
#[derive(Default)]
pub(super) struct Coalescer {
    groups: Vec<Group>,
}

impl Coalescer {
    /// Takes a packet in.
    pub(super) fn push(&mut self, packet: Packet) {
        let Some(tcp) = tcp_at(&packet) else {
            self.groups.push(Group::alone(packet, 0, 0));
            return;
        };
        let head = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
        let data = head <= packet.len() && head >= tcp + 20 && head <= HEADS_MAX;
        let flags = packet[tcp + 13];
        let fit = data
            && packet.len() > head
            && flags & !PSH == ACK
            && fold(pseudo(&packet, packet.len() - tcp) + sum(&packet[tcp..])) == 0xffff;
        // Whatever belongs to the stream ends what was before it, or is put to it.
        let found = self
            .groups
            .iter_mut()
            .rev()
            .take(STREAMS)
            .find(|g| g.tcp == tcp && same_stream(&g.parts[0], &packet, tcp));
        match found {
            Some(group) if fit && group.takes(&packet, head) => group.add(packet),
            Some(group) => {
                group.open = false;
                self.groups.push(Group::alone(packet, tcp, if fit { head } else { 0 }));
            }
            None => self.groups.push(Group::alone(packet, tcp, if fit { head } else { 0 })),
        }
    }

    /// What is to be written, in order; headers filled in.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = &Group> {
        self.groups.iter_mut().map(|group| {
            group.finish();
            &*group
        })
    }

    /// Forgets the packets.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }
}

/// Where TCP begins in a whole packet without options, extensions and fragments.
fn tcp_at(packet: &[u8]) -> Option<usize> {
    let (tcp, length) = match packet.first()? {
        0x45 if packet.len() >= IPV4 + 20 && packet[9] == TCP && get(packet, 6) & 0x3fff == 0 => {
            (IPV4, usize::from(get(packet, 2)))
        }
        first if first >> 4 == 6 && packet.len() >= IPV6 + 20 && packet[6] == TCP => {
            (IPV6, usize::from(get(packet, 4)) + IPV6)
        }
        _ => return None,
    };
    (length == packet.len()).then_some(tcp)
}

/// Same addresses and ports.
fn same_stream(one: &[u8], other: &[u8], tcp: usize) -> bool {
    let addresses = if tcp == IPV4 { 12..20 } else { 8..40 };
    one[addresses.clone()] == other[addresses] && one[tcp..tcp + 4] == other[tcp..tcp + 4]
}

impl Group {
    /// `head`: length of the headers of a packet that others may follow; 0 for any other.
    fn alone(packet: Packet, tcp: usize, head: usize) -> Self {
        let pushed = head > 0 && packet[tcp + 13] & PSH != 0;
        let payload = if head > 0 { packet.len() - head } else { 0 };
        // What was looked at for this need not be looked at again.
        let header = VnetHeader { flags: if head > 0 { DATA_VALID } else { 0 }, ..VnetHeader::default() };
        Self { header, parts: vec![packet], head, tcp, size: payload, payload, open: head > 0 && !pushed }
    }

    fn takes(&self, packet: &[u8], head: usize) -> bool {
        let (first, tcp) = (&self.parts[0][..], self.tcp);
        if !self.open || head != self.head || self.parts.len() >= PARTS_MAX {
            return false;
        }
        let payload = packet.len() - head;
        if payload > self.size || self.head + self.payload + payload > PACKET_MAX {
            return false;
        }
        let follows = get_long(first, tcp + 4).wrapping_add(u32::try_from(self.payload).unwrap_or(0));
        let same_ip = if tcp == IPV4 {
            let id = get(first, 4).wrapping_add(u16::try_from(self.parts.len()).unwrap_or(0));
            let whole = get(packet, 6) & 0x4000 != 0;
            first[1] == packet[1] && first[6..9] == packet[6..9] && (whole || get(packet, 4) == id)
        } else {
            first[..4] == packet[..4] && first[7] == packet[7]
        };
        // Acknowledgement and header length, window, urgent pointer and options.
        same_ip
            && get_long(packet, tcp + 4) == follows
            && first[tcp + 8..tcp + 13] == packet[tcp + 8..tcp + 13]
            && first[tcp + 14..tcp + 16] == packet[tcp + 14..tcp + 16]
            && first[tcp + 18..head] == packet[tcp + 18..head]
    }

    fn add(&mut self, packet: Packet) {
        let payload = packet.len() - self.head;
        let pushed = packet[self.tcp + 13] & PSH;
        self.payload += payload;
        self.open = payload == self.size && pushed == 0;
        self.parts[0][self.tcp + 13] |= pushed;
        self.parts.push(packet);
    }

    /// Makes the first packet's headers those of the whole.
    fn finish(&mut self) {
        if self.parts.len() < 2 {
            return;
        }
        let (tcp, heads) = (self.tcp, self.head);
        let (head, payload) = (&mut self.parts[0][..heads], self.payload);
        set_length(head, payload);
        let start = fold(pseudo(head, heads - tcp + payload));
        head[tcp + 16..tcp + 18].copy_from_slice(&start.to_ne_bytes());
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        self.header = VnetHeader {
            flags: NEEDS_CSUM,
            kind: if tcp == IPV4 { GSO_TCPV4 } else { GSO_TCPV6 },
            head: short(heads),
            gso_size: short(self.size),
            csum_start: short(tcp),
            csum_offset: 16,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TCP packet with right checksums.
    fn segment(
        v4: bool,
        port: u16,
        sequence: u32,
        flags: u8,
        id: u16,
        options: usize,
        payload: &[u8],
    ) -> Vec<u8> {
        let tcp = if v4 { IPV4 } else { IPV6 };
        let heads = tcp + 20 + options;
        let mut packet = vec![0; heads];
        if v4 {
            packet[0] = 0x45;
            put(&mut packet, 4, usize::from(id));
            (packet[8], packet[9]) = (64, TCP);
            packet[12..20].copy_from_slice(&[10, 42, 1, 2, 10, 42, 2, 3]);
        } else {
            (packet[0], packet[6], packet[7]) = (0x60, TCP, 64);
            (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 2, 0xfd, 3);
        }
        set_length(&mut packet, payload.len());
        put(&mut packet, tcp, usize::from(port));
        put(&mut packet, tcp + 2, 80);
        packet[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        packet[tcp + 12] = u8::try_from((20 + options) / 4 * 16).unwrap();
        packet[tcp + 13] = flags;
        packet[tcp + 15] = 99;
        packet[tcp + 20..].fill(1);
        packet.extend_from_slice(payload);
        let total = pseudo(&packet, packet.len() - tcp) + sum(&packet[tcp..]);
        packet[tcp + 16..tcp + 18].copy_from_slice(&(!fold(total)).to_ne_bytes());
        packet
    }

    fn packet(bytes: &[u8]) -> Packet {
        Packet::from_bytes(bytes.into())
    }

    /// What the kernel would make of what is written: packets again.
    fn through(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let mut coalescer = Coalescer::default();
        for bytes in packets {
            coalescer.push(packet(bytes));
        }
        let (mut out, mut writes) = (Vec::new(), 0);
        for group in coalescer.groups() {
            writes += 1;
            let mut frame = group.header.to_bytes().to_vec();
            for (i, part) in group.parts.iter().enumerate() {
                frame.extend_from_slice(if i == 0 { part } else { &part[group.head..] });
            }
            assert!(frame.len() <= HEADER + PACKET_MAX);
            let (header, whole) = VnetHeader::parse(&mut frame).unwrap();
            split(header, whole, |head, payload| out.push([head, payload].concat()));
        }
        (out, writes)
    }

    #[test]
    fn a_stream_becomes_one_write_and_comes_out_as_it_was() {
        for v4 in [true, false] {
            let data: Vec<u8> = (0..9000u32).map(|i| (i * 7) as u8).collect();
            let pieces = data.chunks(1400).enumerate();
            let stream: Vec<Vec<u8>> = pieces
                .map(|(i, piece)| {
                    let flags = if piece.len() < 1400 { ACK | PSH } else { ACK };
                    segment(
                        v4,
                        5,
                        (u32::MAX - 1000).wrapping_add(1400 * i as u32),
                        flags,
                        65_530u16.wrapping_add(i as u16),
                        12,
                        piece,
                    )
                })
                .collect();
            assert_eq!(through(&stream), (stream, 1), "v4: {v4}");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut stream: Vec<Vec<u8>> =
            (0..3u16).map(|i| segment(true, 5, u32::from(i) * 100, ACK, i, 0, &[7; 100])).collect();
        stream[1][60] ^= 1;
        assert_eq!(through(&stream), (stream, 3));
    }

    #[test]
    fn an_unfinished_checksum_is_finished() {
        let whole = segment(true, 5, 1, ACK, 1, 0, b"odd");
        let mut raw = whole.clone();
        let start = fold(pseudo(&raw, raw.len() - IPV4));
        raw[36..38].copy_from_slice(&start.to_ne_bytes());
        let header =
            VnetHeader { flags: NEEDS_CSUM, csum_start: 20, csum_offset: 16, ..VnetHeader::default() };
        let mut out = Vec::new();
        split(header, &mut raw, |head, payload| out = [head, payload].concat());
        assert_eq!(out, whole);
    }

    fn any_segment() -> impl Strategy<Value = (bool, u16, u8, u8, usize, usize)> {
        (
            any::<bool>(),
            0u16..2,
            prop_oneof![8 => Just(ACK), 1 => Just(ACK | PSH), 1 => any::<u8>()],
            0u8..20,
            0usize..2,
            0usize..4,
        )
    }

    proptest! {
        /// Each stream comes out byte for byte, in its order.
        #[test]
        fn nothing_is_lost_altered_or_reordered(all in proptest::collection::vec(any_segment(), 0..60)) {
            let mut next = std::collections::BTreeMap::new();
            let mut id = 0u16;
            let packets: Vec<Vec<u8>> = all
                .iter()
                .map(|(v4, port, flags, skip, options, size)| {
                    let sequence = next.entry((*v4, *port)).or_insert(0u32);
                    if *skip == 0 {
                        *sequence += 1;
                    }
                    id += 1;
                    let payload = vec![id as u8; [0, 50, 100, 100][*size]];
                    let made = segment(*v4, *port, *sequence, *flags, id, options * 12, &payload);
                    *sequence += payload.len() as u32;
                    made
                })
                .collect();
            let (out, writes) = through(&packets);
            prop_assert!(writes <= packets.len());
            for (v4, port) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
                let tcp = if v4 { IPV4 } else { IPV6 };
                // Identifiers tell fragments apart; a packet put together has the first one's and counts on.
                let of = |list: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    let own = list.iter().filter(|p| is_v4(p) == v4 && get(p, tcp) == port);
                    own.cloned().collect()
                };
                prop_assert_eq!(of(&out), of(&packets));
            }
        }

        #[test]
        fn a_hostile_frame_does_no_harm(mut frame in proptest::collection::vec(any::<u8>(), 0..300)) {
            let kind = frame.get(1).map(|k| k % 6);
            if let (Some(k), Some(at)) = (kind, frame.get_mut(1)) {
                *at = k;
            }
            let mut coalescer = Coalescer::default();
            coalescer.push(packet(&frame));
            coalescer.push(packet(&frame));
            prop_assert!(coalescer.groups().count() <= 2);
            if let Some((header, packet)) = VnetHeader::parse(&mut frame) {
                if packet.is_empty() {
                    return Ok(());
                }
                split(header, packet, |head, _| assert!(head.len() < 300));
            }
        }
    }
}
