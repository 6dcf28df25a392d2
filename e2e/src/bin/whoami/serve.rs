//! The server: each line, datagram or HTTP request without a body is answered by `NAME ADDRESS:PORT TEXT`.

use crate::http;
use nix::ifaddrs::getifaddrs;
use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// A handler of a connection needs little.
const STACK: usize = 64 << 10;

/// Serves until it is killed.
pub(crate) fn run(name: &str, tcp: &[u16], udp: &[u16], on: Option<IpAddr>) -> io::Result<()> {
    let mut servers = Vec::new();
    for port in tcp {
        let listener = match on {
            Some(ip) => TcpListener::bind((ip, *port)),
            // One socket for both families, where there are both.
            None => TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))),
        };
        let (listener, name) = (listener.map_err(|e| at("TCP", *port, &e))?, name.to_owned());
        servers.push(thread::spawn(move || accept(&listener, &name)));
    }
    // A datagram is answered from the address it was sent to, so each address has a socket of its own.
    let addresses = on.map_or_else(own_addresses, |ip| Ok(BTreeSet::from([ip])))?;
    for port in udp {
        for ip in &addresses {
            let socket = UdpSocket::bind((*ip, *port)).map_err(|e| at("UDP", *port, &e))?;
            let name = name.to_owned();
            servers.push(thread::spawn(move || datagrams(&socket, &name)));
        }
    }
    println!("ready");
    for server in servers {
        let _ = server.join();
    }
    Ok(())
}

fn at(what: &str, port: u16, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} port {port}: {error}"))
}

/// The addresses of this place, without link-local ones.
pub(crate) fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let found = getifaddrs()?.filter_map(|i| i.address);
    let ips = found.filter_map(|a| match (a.as_sockaddr_in(), a.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) if !v6.ip().is_unicast_link_local() => Some(IpAddr::V6(v6.ip())),
        _ => None,
    });
    Ok(ips.collect())
}

fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || lines(stream, &name));
    }
}

fn lines(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let peer = plain(stream.peer_addr()?);
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let text = format!("{name} {peer} {line}");
        match line.starts_with("GET /") {
            true => http::answer(&mut reader, &mut stream, &text)?,
            false => stream.write_all(text.as_bytes())?,
        }
        line.clear();
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        // An error is the word of a client that has gone: the next datagram is another's.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        let _ = socket.send_to(format!("{name} {} {text}", plain(peer)).as_bytes(), peer);
    }
}
