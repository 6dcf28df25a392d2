//! The echo server: TCP and UDP on port 8080, HTTP on port 8081, both families. Every answer names the server and the
//! peer's address as the server sees it.
//!
//! TCP and UDP answer `NAME ADDRESS TEXT` to each line or datagram, of which UDP sends back the beginning; HTTP answers `{"name":NAME,"peer":ADDRESS}`.

use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// TCP and UDP port of the echo.
pub const PORT: u16 = 8080;
/// TCP port of the echo over HTTP.
pub const HTTP_PORT: u16 = 8081;
const MAX_CONNECTIONS: usize = 512;
const MAX_LINE: u64 = 64 << 10;
/// Bytes of a datagram that are sent back.
const MAX_ECHO: usize = 512;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// Serves in the network namespace of the calling thread, until it is dropped. Needs a tokio runtime.
///
/// # Errors
/// When a port cannot be listened on.
pub async fn serve(name: &str) -> io::Result<()> {
    let name: Arc<str> = name.into();
    let named = |what: &str| {
        let what = format!("listen on {what}");
        move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"))
    };
    let stream = tcp(PORT).map_err(named(&format!("TCP port {PORT}")))?;
    let http = tcp(HTTP_PORT).map_err(named(&format!("TCP port {HTTP_PORT}")))?;
    let (udp, v6) = udp().map_err(named(&format!("UDP port {PORT}")))?;
    tokio::join!(
        accept(stream, |stream| lines(stream, Arc::clone(&name))),
        accept(http, |stream| web(stream, Arc::clone(&name))),
        datagrams(udp, v6, &name),
    );
    Ok(())
}

/// A socket for both families, or for IPv4 where there is no IPv6.
fn socket(kind: Type, protocol: Protocol, port: u16) -> io::Result<(Socket, bool)> {
    let any: [(Domain, IpAddr); 2] =
        [(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()), (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())];
    let open = |(domain, addr): (Domain, IpAddr)| {
        let socket = Socket::new(domain, kind, Some(protocol))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(addr, port).into())?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>((socket, domain == Domain::IPV6))
    };
    let [v6, v4] = any;
    open(v6).or_else(|_| open(v4))
}

fn tcp(port: u16) -> io::Result<TcpListener> {
    let (socket, _) = socket(Type::STREAM, Protocol::TCP, port)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Datagrams are answered from the address that they were sent to, of which a node has several.
fn udp() -> io::Result<(UdpSocket, bool)> {
    let (socket, v6) = socket(Type::DGRAM, Protocol::UDP, PORT)?;
    if v6 {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok((UdpSocket::from_std(socket.into())?, v6))
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F,
) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

fn peer(stream: &TcpStream) -> IpAddr {
    stream.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical())
}

async fn lines(stream: TcpStream, name: Arc<str>) {
    let seen = peer(&stream);
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_LINE);
        match tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => return,
        }
        let mut answer = format!("{name} {seen} ").into_bytes();
        answer.extend_from_slice(&line);
        if write.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// One request a connection: the head is read to its end, and answered whatever it asks for.
async fn web(stream: TcpStream, name: Arc<str>) {
    let seen = peer(&stream);
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(MAX_LINE));
    let head = async {
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line).await {
                Ok(n) if n > 2 => {}
                Ok(n) => return n > 0,
                Err(_) => return false,
            }
        }
    };
    if !tokio::time::timeout(IDLE, head).await.unwrap_or(false) {
        return;
    }
    let body = serde_json::json!({"name": &*name, "peer": seen}).to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len() + 1
    );
    let _ = write.write_all(format!("{head}{body}\n").as_bytes()).await;
    let _ = write.shutdown().await;
}

async fn datagrams(socket: UdpSocket, v6: bool, name: &str) {
    let mut buffer = vec![0; 65_536];
    loop {
        if v6 {
            let _ =
                socket.async_io(Interest::READABLE, || answer_from_same(&socket, &mut buffer, name)).await;
        } else if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let answer = datagram(name, peer.ip(), buffer.get(..length).unwrap_or_default());
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

fn datagram(name: &str, peer: IpAddr, text: &[u8]) -> Vec<u8> {
    let mut answer = format!("{name} {} ", peer.to_canonical()).into_bytes();
    // So that the answer to the largest packet that passes one way is no test of the other.
    answer.extend_from_slice(text.get(..MAX_ECHO).unwrap_or(text));
    answer
}

fn answer_from_same(socket: &UdpSocket, buffer: &mut [u8], name: &str) -> io::Result<()> {
    let mut space = cmsg_space!(libc::in6_pktinfo);
    let fd = socket.as_raw_fd();
    let (length, peer, to) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let got = recvmsg::<SockaddrIn6>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
        let mut control = got.cmsgs()?;
        let to = control.find_map(|c| match c {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
            _ => None,
        });
        (got.bytes, got.address, to)
    };
    let Some(peer) = peer else { return Ok(()) };
    let text = buffer.get(..length).unwrap_or_default();
    let answer = datagram(name, peer.ip().into(), text);
    // The way out is the routing table's to choose.
    let from = to.map(|info| libc::in6_pktinfo { ipi6_ifindex: 0, ..info });
    let control: Vec<ControlMessage<'_>> = from.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    // An answer that cannot be sent is a lost datagram.
    let _ = sendmsg(fd, &[IoSlice::new(&answer)], &control, MsgFlags::MSG_DONTWAIT, Some(&peer));
    Ok(())
}
