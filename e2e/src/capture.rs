//! A capture of everything that crosses a namespace's links, read by this crate alone: the oracle for clear text.

use crate::frame::{Packet, parse};
use crate::{netns, patient};
use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a capture saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Frames of IPv4, IPv6 and ARP.
    pub packets: u64,
    /// Of these, UDP from or to the tunnel's port.
    pub tunnel: u64,
    /// Those with an address in a pod range, as text, at most the first 20.
    pub clear: Vec<String>,
    /// How many were clear in all.
    pub clear_count: u64,
}

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Seen>>,
    controls: Receiver<IpAddr>,
    ns: PathBuf,
}

/// Where positive controls go: inside the pod ranges of a lab, held by nobody.
const CONTROL_TARGET: Ipv4Addr = Ipv4Addr::new(10, 42, 254, 2);

/// Sources of positive controls, held by nobody either: of the capturing machine, and of the other one.
pub const CONTROLS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 42, 254, 3), Ipv4Addr::new(10, 42, 254, 4)];

impl Capture {
    /// Starts capturing in the namespace at `ns`, on `link` alone or on every one, looking for addresses in `ranges`.
    ///
    /// # Errors
    /// When the namespace or the packet socket cannot be had.
    pub fn start(ns: &Path, link: Option<&str>, ranges: Vec<IpNet>, tunnel_port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let link = link.map(str::to_owned);
        let (socket, index) = netns::run(ns, move || {
            let index = link.map(|l| link_address(&l)).transpose()?.map(|l| l.ifindex());
            Ok((packet_socket()?, index))
        })?;
        let (sighted, controls) = channel();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut buffer = vec![0u8; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                // The receive timeout of the socket bounds how late a stop is seen.
                let Ok((length, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
                    continue;
                };
                if index.is_some() && index != from.map(|f| f.ifindex()) {
                    continue;
                }
                let Some(packet) = buffer.get(..length).and_then(parse) else { continue };
                if packet.dst == IpAddr::V4(CONTROL_TARGET) && CONTROLS.iter().any(|c| packet.src == *c) {
                    // Nobody listens any more once all that were awaited have been seen.
                    let _ = sighted.send(packet.src);
                } else {
                    count(&mut seen, &packet, &ranges, tunnel_port);
                }
            }
            Ok(seen)
        });
        Ok(Self { stop, thread, controls, ns: ns.to_owned() })
    }

    /// Sends one clear packet with pod addresses from `link` in the captured namespace, stops when it and those from
    /// `others` were seen, and returns what was seen besides. A capture that missed one is blind, and an error.
    ///
    /// # Errors
    /// When a control could not be sent or was not seen.
    pub fn finish(self, link: &str, others: &[Ipv4Addr]) -> Result<Seen> {
        let [own, _] = CONTROLS;
        send_control(&self.ns, link, own)?;
        let mut missing: BTreeSet<IpAddr> = others.iter().chain([&own]).copied().map(IpAddr::V4).collect();
        let end = Instant::now() + patient(Duration::from_secs(2));
        // Frames are read in the order of their arrival: when the controls were, so was all that came before.
        while !missing.is_empty() {
            let Ok(seen) = self.controls.recv_timeout(end.saturating_duration_since(Instant::now())) else {
                self.stop.store(true, Ordering::Relaxed);
                bail!("the capture did not see its positive control {missing:?}: it is blind");
            };
            missing.remove(&seen);
        }
        self.stop.store(true, Ordering::Relaxed);
        netns::join(self.thread)
    }
}

fn count(seen: &mut Seen, packet: &Packet, ranges: &[IpNet], tunnel_port: u16) {
    seen.packets += 1;
    if packet.protocol == 17 && packet.ports.is_some_and(|(a, b)| a == tunnel_port || b == tunnel_port) {
        seen.tunnel += 1;
    }
    if ranges.iter().any(|r| r.contains(&packet.src) || r.contains(&packet.dst)) {
        seen.clear_count += 1;
        if seen.clear.len() < 20 {
            seen.clear.push(format!(
                "{} > {} protocol {} ports {:?}",
                packet.src, packet.dst, packet.protocol, packet.ports
            ));
        }
    }
}

fn packet_socket() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("packet socket (needs root)")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20))?;
    Ok(socket)
}

/// Sends one clear UDP packet with pod addresses straight out of `link` in the namespace at `ns`, below every guard. Its
/// checksums are wrong: whoever receives it throws it away.
///
/// # Errors
/// When there is no such link or it takes no packets.
pub fn send_control(ns: &Path, link: &str, source: Ipv4Addr) -> Result<()> {
    let link = link.to_owned();
    netns::run(ns, move || {
        let address = link_address(&link)?;
        let mut frame = vec![0xff; 6];
        frame.extend(address.addr().unwrap_or_default());
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0xba, 0xd0]);
        frame.extend(source.octets());
        frame.extend(CONTROL_TARGET.octets());
        frame.extend([0, 9, 0, 9, 0, 12, 0xba, 0xd0]);
        frame.extend(b"seen");
        let sent = sendto(packet_socket()?.as_raw_fd(), &frame, &address, MsgFlags::empty())
            .with_context(|| format!("send the control on {link}"))?;
        ensure!(sent == frame.len(), "sent {sent} bytes of the control");
        Ok(())
    })
}

/// Index and hardware address of a link in the namespace of this thread.
fn link_address(link: &str) -> Result<LinkAddr> {
    let mut all = getifaddrs()?.filter(|i| i.interface_name == link);
    let found = all.find_map(|i| i.address?.as_link_addr().copied());
    found.with_context(|| format!("there is no link {link}"))
}
