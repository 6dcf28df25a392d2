//! Every pod reaches every pod by its own address.

use super::pair;
use crate::lab::{Lab, netns_of};
use crate::{netns, patient};
use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// The connectivity check of the lab succeeds: TCP, UDP, HTTP, ICMP, every pod to every pod, node to pod, pod to node,
/// pod to outside.
///
/// # Errors
/// The table, when a cell fails.
pub fn connectivity(lab: &Lab) -> Result<()> {
    let took = lab.check_within(Duration::from_secs(20))?;
    println!("connectivity: complete {} ms after the lab was up", took.as_millis());
    Ok(())
}

/// With sockets of the test's own: the receiver on another node sees the sender's pod address, over TCP and UDP.
///
/// # Errors
/// When an address was changed, or nothing arrived.
pub fn sources_are_kept(lab: &Lab) -> Result<()> {
    let [(from_pid, from), (to_pid, to)] = pair(lab, "node-1", "node-2")?;
    let listener = netns::run(&netns_of(to_pid), move || Ok(TcpListener::bind(SocketAddr::new(to, 0))?))?;
    let target = listener.local_addr()?;
    let client = netns::spawn(&netns_of(from_pid), move || {
        let mut stream =
            TcpStream::connect_timeout(&target, patient(Duration::from_secs(20))).context("connect")?;
        stream.write_all(b"hello")?;
        Ok(stream)
    })?;
    // The connect above has a deadline, so a lost connection ends the client, and this accept is bounded by it.
    let client = netns::join(client)?;
    let (mut stream, peer) = listener.accept()?;
    let mut heard = [0; 5];
    stream.read_exact(&mut heard)?;
    ensure!(peer.ip() == from, "TCP: the receiver saw {} instead of {from}", peer.ip());
    drop(client);

    let server = netns::run(&netns_of(to_pid), move || Ok(UdpSocket::bind(SocketAddr::new(to, 0))?))?;
    server.set_read_timeout(Some(patient(Duration::from_secs(20))))?;
    let target = server.local_addr()?;
    netns::run(&netns_of(from_pid), move || {
        UdpSocket::bind(SocketAddr::new(from, 0))?.send_to(b"hello", target).context("send")
    })?;
    let (_, peer) = server.recv_from(&mut heard)?;
    ensure!(peer.ip() == from, "UDP: the receiver saw {} instead of {from}", peer.ip());
    Ok(())
}
