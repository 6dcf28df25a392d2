//! The userspace tunnel's UDP socket: gotatun's, and packets of one size to one peer are sent as one (`UDP_SEGMENT`).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gotatun::packet::Packet;
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use tokio::io::Interest;

/// Packets sent as one at most: the kernel's own limit, before Linux 6.9.
const SEGMENTS: usize = 64;
/// Longest payload of a datagram, with room for the headers of either family.
const DATAGRAM: usize = 65_535 - 48;
/// What gotatun's socket takes at once.
const PLAIN: usize = 100;
/// Packets taken at once.
const BATCH: usize = 128;

/// Makes such sockets.
pub(crate) struct Factory(pub(crate) UdpSocketFactory);

impl UdpTransportFactory for Factory {
    type Send = Sender;
    type Recv = UdpSocket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Sender, UdpSocket)> {
        let (socket, recv) = self.0.bind(params).await?;
        Ok((Sender { socket, segments: Arc::new(AtomicBool::new(true)) }, recv))
    }
}

/// The sending half.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: UdpSocket,
    /// Whether the kernel takes many packets as one.
    segments: Arc<AtomicBool>,
}

impl Sender {
    async fn send_as_one(&self, packets: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, to)) = packets.first() else { return Ok(()) };
        let to = SockaddrStorage::from(*to);
        let slices: Vec<IoSlice<'_>> = packets.iter().map(|(p, _)| IoSlice::new(p)).collect();
        let size = u16::try_from(first.len()).unwrap_or(u16::MAX);
        let segments = [ControlMessage::UdpGsoSegments(&size)];
        let control = if packets.len() > 1 { &segments[..] } else { &[] };
        let socket = self.socket.socket();
        let send = || Ok(sendmsg(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_DONTWAIT, Some(&to))?);
        socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    async fn send_plain(
        &self,
        buf: &mut <UdpSocket as UdpSend>::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        while !packets.is_empty() {
            let mut some: Vec<_> = packets.drain(..packets.len().min(PLAIN)).collect();
            self.socket.send_many_to(buf, &mut some).await?;
        }
        Ok(())
    }
}

impl UdpSend for Sender {
    type SendManyBuf = <UdpSocket as UdpSend>::SendManyBuf;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.socket.send_to(packet, destination).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        BATCH
    }

    async fn send_many_to(
        &self,
        buf: &mut Self::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        while !packets.is_empty() && self.segments.load(Ordering::Relaxed) {
            let count = run_length(packets);
            match self.send_as_one(&packets[..count]).await {
                Ok(()) => drop(packets.drain(..count)),
                // Larger than the path: by themselves they are cut into fragments.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) && count > 1 => {
                    let mut some = packets.drain(..count).collect();
                    self.send_plain(buf, &mut some).await?;
                }
                // The output link cannot do checksums.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EOPNOTSUPP)) && count > 1 => {
                    tracing::info!(error = %e, "packets are sent one by one");
                    self.segments.store(false, Ordering::Relaxed);
                }
                // This peer cannot be reached; the others can.
                Err(e) => {
                    tracing::trace!(error = %e, "packets dropped");
                    packets.drain(..count);
                }
            }
        }
        self.send_plain(buf, packets).await
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSocket::local_addr(&self.socket).map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// How many packets, from the first, can be sent as one: to one peer, of one size, the last may be smaller.
fn run_length(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, to)) = packets.first() else { return 0 };
    let most = (DATAGRAM / first.len().max(1)).clamp(1, SEGMENTS);
    let mut count = 1;
    for (packet, other) in packets.iter().take(most).skip(1) {
        if other != to || packet.len() > first.len() || packet.is_empty() {
            break;
        }
        count += 1;
        if packet.len() < first.len() {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(of: &[(usize, u16)]) -> Vec<(Packet, SocketAddr)> {
        of.iter()
            .map(|(len, port)| {
                (Packet::copy_from(&vec![0u8; *len][..]), SocketAddr::from(([127, 0, 0, 1], *port)))
            })
            .collect()
    }

    #[test]
    fn only_what_the_kernel_can_tell_apart_again_is_sent_as_one() {
        assert_eq!(run_length(&packets(&[])), 0);
        assert_eq!(run_length(&packets(&[(100, 1), (100, 1), (60, 1), (60, 1)])), 3);
        assert_eq!(run_length(&packets(&[(100, 1), (101, 1)])), 1);
        assert_eq!(run_length(&packets(&[(100, 1), (100, 2)])), 1);
        assert_eq!(run_length(&packets(&[(100, 1); 100])), SEGMENTS);
        assert_eq!(run_length(&packets(&[(1500, 1); 100])), 43);
        assert_eq!(run_length(&packets(&[(65_500, 1); 2])), 1);
    }
}
