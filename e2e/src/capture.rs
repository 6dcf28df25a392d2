//! A capture of everything that crosses a namespace's links, read by this crate alone: the oracle for clear text.

use crate::frame::{Packet, parse};
use crate::netns;
use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

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
    ns: PathBuf,
}

/// Where the positive control goes: inside the pod ranges of a lab, held by nobody.
const CONTROL: &str = "10.42.254.2";

impl Capture {
    /// Starts capturing on every link of the namespace at `ns`, looking for addresses in `ranges`.
    ///
    /// # Errors
    /// When the namespace or the packet socket cannot be had.
    pub fn start(ns: &Path, ranges: Vec<IpNet>, tunnel_port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let socket = netns::run(ns, packet_socket)?;
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut buffer = vec![0u8; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                // The receive timeout of the socket bounds how late a stop is seen.
                let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
                if let Some(packet) = buffer.get(..length).and_then(parse) {
                    count(&mut seen, &packet, &ranges, tunnel_port);
                }
            }
            Ok(seen)
        });
        Ok(Self { stop, thread, ns: ns.to_owned() })
    }

    /// Sends one clear packet with pod addresses from `link` in the captured namespace, stops, and returns what was seen
    /// without it. A capture that missed it is blind, and an error.
    ///
    /// # Errors
    /// When the control could not be sent or was not seen.
    pub fn finish(self, link: &str) -> Result<Seen> {
        let link = link.to_owned();
        netns::run(&self.ns, move || send_control(&link))?;
        // The control is delivered to the packet socket before send returns; one receive timeout later it was read.
        std::thread::park_timeout(std::time::Duration::from_millis(200));
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = netns::join(self.thread)?;
        let is_control = |line: &String| line.contains(CONTROL);
        let controls = seen.clear.iter().filter(|l| is_control(l)).count();
        ensure!(
            controls > 0 || seen.clear_count > 20,
            "the capture did not see its positive control: it is blind"
        );
        seen.clear.retain(|line| !is_control(line));
        seen.clear_count -= u64::try_from(controls)?;
        Ok(seen)
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

/// Sends one UDP datagram to a pod address that nobody holds, straight out of `link`.
fn send_control(link: &str) -> Result<()> {
    let neighbour = ["neigh", "replace", CONTROL, "lladdr", "02:00:00:00:00:57", "dev", link];
    let status = Command::new("ip").args(neighbour).status().context("ip neigh (package iproute2)")?;
    ensure!(status.success(), "ip neigh replace {CONTROL} dev {link}: {status}");
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    setsockopt(&socket, sockopt::BindToDevice, &link.into())?;
    socket
        .send_to(b"positive control", (CONTROL, 9))
        .with_context(|| format!("send the control on {link}"))?;
    Ok(())
}
