//! HTTP/2 to HTTP/1: what a client says in frames, and what a parser of HTTP/1 reads behind the ingress.

mod seeds;

use crate::backends::{self, Backends, Entry, Headers, Request};
use crate::case::{Random, address};
use crate::common::{Front, backend, config, forward};
use crate::judge::{self, Differences};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use warren_ingress::Serving;
use warren_ingress::route::*;
use warren_ingress::tls::{Certificates, certified};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// What a client asks by one stream.
#[derive(Clone)]
pub(crate) struct Asked {
    name: String,
    headers: Lines,
    data: Vec<Vec<u8>>,
    trailers: Option<Lines>,
}

/// What the reference makes of a connection, and what the server said by it.
#[derive(Debug, Deserialize)]
struct Read {
    streams: HashMap<u32, Stream>,
    answered: Answered,
}

#[derive(Debug, Deserialize)]
struct Stream {
    headers: Headers,
    body: String,
    trailers: Headers,
    complete: bool,
    error: String,
}

#[derive(Debug, Deserialize)]
struct Answered {
    streams: HashMap<u32, Answer>,
    going_away: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    status: u16,
    id: Option<String>,
    reset: bool,
}

fn lines(list: &[(&str, &str)]) -> Lines {
    list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn integer(value: usize, bits: u32, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        return out.push(value as u8);
    }
    out.push(most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        out.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// Headers as they are, with no table and no Huffman.
fn block(lines: &Lines) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in lines {
        out.push(0);
        for text in [name, value] {
            integer(text.len(), 7, &mut out);
            out.extend_from_slice(text);
        }
    }
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
}

impl Asked {
    fn new(name: &str, list: &[(&str, &str)], data: &[&str]) -> Self {
        let data = data.iter().map(|piece| piece.as_bytes().to_vec()).collect();
        Self { name: name.to_owned(), headers: lines(list), data, trailers: None }
    }

    fn write(&self, stream: u32, out: &mut Vec<u8>) {
        let bodiless = self.data.is_empty() && self.trailers.is_none();
        frame(HEADERS, END_HEADERS | u8::from(bodiless), stream, &block(&self.headers), out);
        for (at, piece) in self.data.iter().enumerate() {
            let last = at + 1 == self.data.len() && self.trailers.is_none();
            frame(DATA, u8::from(last) * END_STREAM, stream, piece, out);
        }
        if let Some(trailers) = &self.trailers {
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(trailers), out);
        }
    }
}

/// How many streams a connection has.
const STREAMS: usize = 8;

/// The number of a stream.
fn number(at: usize) -> u32 {
    at as u32 * 2 + 1
}

/// The bytes of a connection that asks these, and then something plain.
fn bytes(asked: &[Asked]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    asked.iter().enumerate().for_each(|(at, asked)| asked.write(number(at), &mut out));
    Asked::new("end", &seeds::PLAIN, &[]).write(number(asked.len()), &mut out);
    out
}

async fn converse(
    from: IpAddr,
    to: SocketAddr,
    tls: &tokio_rustls::TlsConnector,
    bytes: &[u8],
    streams: usize,
) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    let mut stream = tls.connect(ServerName::try_from("h").unwrap(), stream).await.unwrap();
    let mut said = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.flush().await?;
        let mut buffer = [0; 4096];
        // Until all streams are at their end; who is served no more is told so.
        while !is_over(&said, streams) {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => said.extend_from_slice(&buffer[..count]),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), talk).await.expect("all streams come to an end");
    said
}

fn is_over(said: &[u8], streams: usize) -> bool {
    let (mut at, mut over) = (0, std::collections::HashSet::new());
    while let Some(head) = said.get(at..at + 9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if said.len() < at + 9 + length {
            break;
        }
        if head[3] <= HEADERS && head[4] & END_STREAM != 0 || head[3] == RST_STREAM {
            over.insert(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
        at += 9 + length;
    }
    over.len() == streams
}

fn secure(to: SocketAddr, key: Arc<rustls::sign::CertifiedKey>) -> RouteTable {
    let mut builder = RouteTable::builder();
    let route = Arc::new(Route::new("route", Action::Forward(forward(backend(&[to])))));
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &route);
    let mut certificates = Certificates::default();
    certificates.set_default(key);
    builder.certificates(certificates);
    builder.build()
}

/// What differs and may, with the reason.
const JUSTIFIED: &[(&str, &str)] = &[
    (
        "another target, without its fragment",
        "the h2 crate leaves a fragment out before anybody sees it, as nginx does",
    ),
    ("the reference refuses trailers", "what cannot stand in trailers is left out on the way"),
    (
        "llhttp refuses: HttpParserInvalidMethodError",
        "llhttp has a list of methods; it answers 400 and closes",
    ),
    ("mismatched :authority and Host headers: b'h' / b'H'", "hosts are the same in upper and lower case"),
];

/// Whether the connection is likely to end for it, and what else it carries.
fn is_deadly(asked: &Asked) -> bool {
    let all = asked.headers.iter().chain(asked.trailers.iter().flatten());
    let token = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_:".contains(byte);
    let mut pseudo = [":method", ":scheme", ":path", ":authority"].iter().map(|name| {
        let found = asked.headers.iter().position(|(found, _)| found == name.as_bytes());
        found.is_some_and(|at| at < 4)
    });
    let odd = all.clone().any(|(name, value)| {
        name.is_empty()
            || !name.iter().all(token)
            || value.iter().any(|byte| byte.is_ascii_control())
            || !value.is_ascii()
    });
    odd || asked.name.contains("pseudo") || !pseudo.all(|there| there)
}

#[test]
fn what_is_said_in_frames_is_what_backends_read() {
    let begun = std::time::Instant::now();
    let count = crate::number("WARREN_DIFFERENTIAL_H2_CASES", 2_500) as usize;
    let mut random = Random(crate::number("WARREN_DIFFERENTIAL_SEED", 1));
    let seeds = seeds::all();
    let mut cases = seeds.clone();
    while cases.len() < count {
        cases.push(seeds::mutated(&mut random, &seeds));
    }
    let (deadly, fine): (Vec<Asked>, Vec<Asked>) = cases.into_iter().partition(is_deadly);
    let groups: Vec<&[Asked]> = deadly.chunks(1).chain(fine.chunks(STREAMS)).collect();
    let sent: Arc<Vec<Vec<u8>>> = Arc::new(groups.iter().map(|group| bytes(group)).collect());
    let counts: Arc<Vec<usize>> = Arc::new(groups.iter().map(|group| group.len() + 1).collect());

    let mut backends = Backends::start();
    let made = rcgen::generate_simple_self_signed(vec!["h".to_owned()]).unwrap();
    let key = certified(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let fronts: Vec<Front> = backends.addresses[..2]
        .iter()
        .map(|to| Front::start(Serving { bounds: crate::bounds(), ..config() }, secure(*to, key.clone())))
        .collect();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(client));
    let addresses: Arc<Vec<SocketAddr>> = Arc::new(fronts.iter().map(|front| front.tls).collect());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut said: Vec<(usize, Vec<u8>)> = runtime.block_on(async {
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..32 {
            let (sent, addresses, next, tls, counts) =
                (sent.clone(), addresses.clone(), next.clone(), tls.clone(), counts.clone());
            clients.spawn(async move {
                let mut said = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(bytes) = sent.get(at) else { return said };
                    said.push((
                        at,
                        converse(IpAddr::V4(address(at)), addresses[at % 2], &tls, bytes, counts[at]).await,
                    ));
                }
            });
        }
        clients.join_all().await.into_iter().flatten().collect()
    });
    said.sort_by_key(|(at, _)| *at);
    for front in fronts {
        runtime.block_on(front.ingress.drain(Duration::from_secs(5)));
    }
    let seen = backends.seen();
    let connections: Vec<Vec<&[u8]>> =
        sent.iter().zip(&said).map(|(sent, (_, came))| vec![&**sent, &**came]).collect();
    let read: Vec<Read> = backends::reference(&connections);

    let mut differences = Differences::default();
    let by_id: HashMap<&str, &Entry> = seen.iter().map(|entry| (&*entry.id, entry)).collect();
    let mut by_connection: HashMap<usize, Vec<&Entry>> = HashMap::new();
    for entry in &seen {
        if !entry.error.is_empty() {
            differences.add(format!("{} refuses: {}", entry.backend, entry.error), || format!("{entry:?}"));
        }
    }
    for entry in seen.iter().filter(|entry| entry.complete) {
        match judge::case_of(entry).filter(|at| *at < sent.len()) {
            Some(at) => by_connection.entry(at).or_default().push(entry),
            None => differences.add("a backend saw what nobody sent", || format!("{entry:?}")),
        }
    }
    let (mut served, mut refused, mut ended, mut lost) = (0, 0, 0, 0);
    for (at, read) in read.iter().enumerate() {
        let own = by_connection.remove(&at).unwrap_or_default();
        let mut told = 0;
        let mut cut = 0;
        for (place, asked) in groups[at].iter().enumerate() {
            let Some(stream) = read.streams.get(&number(place)) else { continue };
            let answer = read.answered.streams.get(&number(place));
            let id = answer.and_then(|answer| answer.id.as_deref());
            let entry = id.and_then(|id| by_id.get(id));
            let show = || {
                let (headers, trailers) =
                    (block(&asked.headers), asked.trailers.as_ref().map(block).unwrap_or_default());
                format!(
                    "{}: {} {}\n    {stream:?}\n    {answer:?}\n    {entry:?}",
                    asked.name,
                    headers.escape_ascii(),
                    trailers.escape_ascii()
                )
            };
            cut += usize::from(stream.error.contains("InvalidBodyLength"));
            let Some(answer) = answer else {
                ended += 1;
                lost += usize::from(groups[at].len() > 1);
                continue;
            };
            if id.is_none() {
                refused += 1;
                if !answer.reset && !matches!(answer.status, 400 | 404) {
                    differences.add(format!("the ingress says {}", answer.status), show);
                }
                continue;
            }
            (served, told) = (served + 1, told + 1);
            match entry.filter(|entry| own.iter().any(|own| own.id == entry.id)) {
                None => differences.add("an answer is another's", show),
                Some(entry) if stream.error.is_empty() => {
                    let fragment =
                        stream.headers.iter().any(|(name, value)| name == ":path" && value.contains('#'));
                    let more = if fragment { ", without its fragment" } else { "" };
                    for what in judge::compare(entry, &request(stream)) {
                        differences.add(format!("{what}{more}"), show);
                    }
                }
                Some(_) if asked.trailers.is_some() => {
                    differences.add(format!("the reference refuses trailers: {}", stream.error), show);
                }
                Some(_) => differences.add(format!("the reference refuses: {}", stream.error), show),
            }
        }
        let ends = read.answered.streams.get(&number(counts[at] - 1)).and_then(|answer| answer.id.as_deref());
        if !ends.is_some_and(|id| own.iter().any(|entry| entry.id == id && entry.target == "/a"))
            && !read.answered.going_away
        {
            differences.add("the connection does not go on", || format!("{read:?}"));
        }
        // A body that is not as long as was said is known to be none after its head was sent on; nobody is told of an answer.
        told += usize::from(ends.is_some());
        if own.len() < told || own.len() > told + cut {
            differences.add("answers are not those of the requests that the backend saw", || {
                format!("{read:?}\n    {own:?}")
            });
        }
    }
    println!(
        "{} streams of {} connections of HTTP/2 in {:.1?}: {served} served, {refused} refused, {ended} by ending the connection; {} requests at backends",
        count,
        sent.len(),
        begun.elapsed(),
        seen.len()
    );
    differences.judge(JUSTIFIED);
    assert!(served > 200 && lost < count / 20, "next to nothing is served");
}

/// A request of HTTP/2 as one of HTTP/1.
fn request(stream: &Stream) -> Request {
    let pseudo =
        |wanted: &str| stream.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let mut headers: Headers = stream
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with(':') && name != "host" && name != "cookie")
        .cloned()
        .collect();
    headers.extend(
        pseudo(":authority")
            .or_else(|| {
                stream.headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone())
            })
            .map(|host| ("host".to_owned(), host)),
    );
    let crumbs: Vec<&str> =
        stream.headers.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| &**value).collect();
    if !crumbs.is_empty() {
        headers.push(("cookie".to_owned(), crumbs.join("; ")));
    }
    Request {
        method: pseudo(":method").unwrap_or_default(),
        target: pseudo(":path").unwrap_or_default(),
        headers,
        body: stream.body.clone(),
        trailers: stream.trailers.clone(),
        complete: stream.complete,
    }
}
