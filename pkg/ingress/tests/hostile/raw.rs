//! A client of HTTP/2 over TLS that writes frames byte by byte.

use crate::victim::Victim;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const CALM: u32 = 11;

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a request, from the static table, without Huffman.
pub(crate) fn block(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x87, 0x04, path.len() as u8];
    block.extend(path.as_bytes());
    block.extend(b"\x01\x0bexample.org");
    block
}

/// The whole of a GET.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(0x82, path))
}

/// An extended CONNECT for a WebSocket (RFC 8441).
pub(crate) fn websocket(stream: u32, path: &str) -> Vec<u8> {
    let mut block = b"\x02\x07CONNECT\x87\x04".to_vec();
    block.push(path.len() as u8);
    block.extend(path.as_bytes());
    block.extend(b"\x01\x0bexample.org\x00\x09:protocol\x09websocket");
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// The head of a POST.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(0x83, path))
}

/// The connection of such a client.
pub(crate) struct Raw {
    tls: ClientConnection,
    socket: TcpStream,
    inbox: Vec<u8>,
    /// Whether the other side has closed.
    pub(crate) ended: bool,
    /// The code of a GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// Frames that came, by kind, but for acknowledgements of ours.
    pub(crate) came: [usize; 16],
}

pub(crate) fn tls_client(victim: &Victim, alpn: &[u8]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(victim.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from("example.org").unwrap()).unwrap()
}

impl Raw {
    /// With these settings: number and value.
    pub(crate) fn connect(victim: &Victim, settings: &[(u16, u32)]) -> Self {
        let mut tls = tls_client(victim, b"h2");
        tls.set_buffer_limit(None);
        let mut socket = TcpStream::connect(victim.tls).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).unwrap();
        }
        let mut raw = Self { tls, socket, inbox: Vec::new(), ended: false, goaway: None, came: [0; 16] };
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(number, value)| [&number.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        raw.send(&frame(SETTINGS, 0, 0, &settings));
        raw
    }

    /// Sends; false when the other side takes no more, or has closed.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        let _ = self.tls.writer().write_all(bytes);
        while self.tls.wants_write() {
            if let Err(error) = self.tls.write_tls(&mut self.socket) {
                self.ended |= !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                return false;
            }
        }
        true
    }

    /// Takes what has come.
    pub(crate) fn look(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.read() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// Waits for what comes, until something holds or the other side has closed.
    pub(crate) fn wait(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) && !self.ended {
            assert!(self.read() || self.ended, "nothing comes");
        }
    }

    fn read(&mut self) -> bool {
        match self.tls.read_tls(&mut self.socket) {
            Ok(1..) => {}
            Ok(0) => {
                self.ended = true;
                return false;
            }
            Err(error) => {
                self.ended |= !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                return false;
            }
        }
        self.tls.process_new_packets().unwrap();
        let _ = self.tls.reader().read_to_end(&mut self.inbox);
        self.parse();
        true
    }

    fn parse(&mut self) {
        let mut at = 0;
        while let Some(head) = self.inbox.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let Some(payload) = self.inbox.get(at + 9..at + 9 + length) else { break };
            if kind == GOAWAY {
                self.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            if kind != SETTINGS || flags & 1 == 0 {
                self.came[usize::from(kind)] += 1;
            }
            at += 9 + length;
        }
        self.inbox.drain(..at);
    }

    /// Sends what is made for each number, and takes what comes, until the other side has had enough. Says how many it took.
    pub(crate) fn flood(&mut self, most: u32, mut make: impl FnMut(u32) -> Vec<u8>) -> u32 {
        let mut batch = Vec::new();
        for at in 0..most {
            batch.extend(make(at));
            if batch.len() >= 8 << 10 || at + 1 == most {
                let mut sent = self.send(&std::mem::take(&mut batch));
                self.look();
                // It may have waited for us to read.
                while !sent && !self.ended && self.goaway.is_none() {
                    sent = self.send(&[]);
                    self.look();
                }
                if self.ended || self.goaway.is_some() {
                    return at;
                }
            }
        }
        most
    }
}
