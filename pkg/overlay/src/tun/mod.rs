//! The TUN link of the userspace tunnel. The kernel hands over, and takes, TCP packets of up to 64 KiB that stand for many:
//! one system call and one walk through its stack for all of them.

mod offload;

use std::io::{self, IoSlice};
use std::sync::Arc;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use warren_netlink::Netlink;
use warren_netlink::tun::Tun;

use offload::{Coalescer, HEADER, VnetHeader};

/// Largest packet that the kernel hands over, and its header.
const FRAME: usize = HEADER + 65_536;
/// Packets that may wait to be written.
const QUEUE: usize = 1024;
/// Packets looked at together.
const BATCH: usize = 256;

/// The way to the link's kernel side.
pub(crate) struct TunSend {
    queue: mpsc::Sender<Packet<Ip>>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

/// The way from it.
pub(crate) struct TunRecv {
    link: Arc<Tun>,
    frame: Vec<u8>,
    packets: Vec<Packet<Ip>>,
    mtu: watch::Receiver<u16>,
}

/// Makes the TUN link `name`, down, with `mtu`.
pub(crate) async fn open(name: &str, mtu: u32) -> io::Result<(TunSend, TunRecv)> {
    let link = Arc::new(warren_netlink::tun::open(name)?);
    let netlink = Netlink::current().map_err(io::Error::other)?;
    let mut changes = netlink.changes().await.map_err(io::Error::other)?;
    netlink.set_mtu(name, mtu).await.map_err(io::Error::other)?;
    let (tell, told) = watch::channel(u16::try_from(mtu).unwrap_or(u16::MAX));
    let (queue, packets) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(write(Arc::clone(&link), packets));
    let name = name.to_owned();
    tasks.spawn(async move {
        while changes.changed().await.is_ok() {
            if let Ok(Some(link)) = netlink.get_link(&name).await {
                let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
                tell.send_if_modified(|old| std::mem::replace(old, mtu) != mtu);
            }
        }
    });
    let recv = TunRecv { link, frame: vec![0; FRAME], packets: Vec::new(), mtu: told };
    Ok((TunSend { queue, _tasks: tasks }, recv))
}

impl IpSend for TunSend {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let closed = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the TUN link is gone");
        self.queue.send(packet).await.map_err(closed)
    }
}

/// Writes packets, those of one TCP stream that are there together as one.
async fn write(link: Arc<Tun>, mut queue: mpsc::Receiver<Packet<Ip>>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut coalescer = Coalescer::default();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        for packet in batch.drain(..) {
            coalescer.push(packet.into_bytes());
        }
        for group in coalescer.groups() {
            let header = group.header.to_bytes();
            let mut slices = Vec::with_capacity(group.parts.len() + 1);
            slices.push(IoSlice::new(&header));
            let whole = group.parts.iter().enumerate();
            slices.extend(whole.map(|(i, p)| IoSlice::new(if i == 0 { p } else { &p[group.head..] })));
            let written = link.write(&slices).await;
            match written.as_ref().map_err(io::Error::raw_os_error) {
                Ok(_) => {}
                Err(Some(nix::libc::EBADFD | nix::libc::EBADF)) => return,
                // A link that is down (EIO), or a packet that the kernel does not like: the packet is lost.
                Err(_) => tracing::debug!(?written, "packet dropped"),
            }
        }
        coalescer.clear();
    }
}

impl IpRecv for TunRecv {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let frame = &mut self.frame;
        let length = self.link.read(frame).await?;
        let packets = &mut self.packets;
        packets.clear();
        if let Some((header, packet)) = VnetHeader::parse(&mut self.frame[..length]) {
            offload::split(header, packet, |head, payload| {
                let mut whole = pool.get();
                let buffer = whole.buf_mut();
                buffer.clear();
                buffer.extend_from_slice(head);
                buffer.extend_from_slice(payload);
                packets.extend(whole.try_into_ip());
            });
        }
        Ok(packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}
