//! What a client sends, what the ingress makes of it, and what parsers of other make read of that at the backend: the same
//! requests, or the client is refused.
//!
//! Each case is a connection from an address of its own, which the ingress says to the backend: what a backend takes for a
//! request without being sent one has none. The reference reads the client's own bytes.
//! `WARREN_DIFFERENTIAL_CASES` and `WARREN_DIFFERENTIAL_SEED` say how many cases and which.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it must be"
)]

mod backends;
mod case;
#[path = "../common/mod.rs"]
mod common;
mod h2;
mod judge;
mod seeds;

use backends::{Backends, Entry, NAMES, Read};
use case::{Case, Random, Wanted};
use common::{Front, backend, config, table_to};
use judge::{Differences, Outcome};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use warren_ingress::{Bounds, Serving};

/// Connections at once.
const CLIENTS: usize = 200;

/// What differs and may, with the reason.
const JUSTIFIED: &[(&str, &str)] = &[
    ("the reference refuses lengths in trailers", "they are left out on the way (RFC 9110, 6.5.1)"),
    (
        "nginx refuses at once",
        "nginx knows upper-case methods alone, and one Authorization; it answers 400 and closes",
    ),
    ("nginx refuses: status 405", "nginx serves no TRACE"),
    (
        "llhttp refuses: HttpParserInvalidMethodError",
        "llhttp has a list of methods; it answers 400 and closes",
    ),
    (
        "waitress refuses: BadRequest: Malformed HTTP method",
        "waitress knows upper-case methods alone; it answers 400 and closes",
    ),
];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn cases() -> Vec<Case> {
    let count = number("WARREN_DIFFERENTIAL_CASES", 20_000) as usize;
    let seed = number("WARREN_DIFFERENTIAL_SEED", 1);
    let seeds = seeds::all();
    let mut cases: Vec<Case> = (0..NAMES.len())
        .flat_map(|backend| seeds.iter().map(move |seed| Case { backend, ..seed.clone() }))
        .collect();
    cases.extend(case::sweep(count > 100_000));
    let mut random = Random(seed);
    while cases.len() < count {
        cases.push(case::mutated(&mut random, &seeds));
    }
    for (at, case) in cases.iter_mut().enumerate() {
        if case.name.starts_with("byte") || case.name.ends_with("changed") {
            case.backend = at % NAMES.len();
        }
        case.bytes.extend_from_slice(seeds::END.as_bytes());
    }
    cases
}

/// Bounds that those cases meet which wait for more.
fn bounds() -> Bounds {
    let (short, long) = (Duration::from_millis(250), Duration::from_secs(5));
    Bounds { head: short, first_byte: long, idle: short, body: short, linger: long, ..Bounds::default() }
}

async fn converse(from: IpAddr, to: SocketAddr, case: &Case) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let mut said = Vec::new();
    let talk = async {
        let cut = case.cut.unwrap_or(0);
        if cut > 0 {
            stream.write_all(&case.bytes[..cut]).await?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stream.write_all(&case.bytes[cut..]).await?;
        stream.read_to_end(&mut said).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(20), talk).await.expect("the connection is closed");
    said
}

/// Sends all cases. What clients were told.
fn send(cases: &Arc<Vec<Case>>, fronts: &Arc<Vec<SocketAddr>>) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (cases, fronts, next) = (cases.clone(), fronts.clone(), next.clone());
            clients.spawn(async move {
                let mut said = Vec::new();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return said };
                    let from = IpAddr::V4(case::address(at));
                    said.push((at, converse(from, fronts[case.backend], case).await));
                }
            });
        }
        let mut said: Vec<(usize, Vec<u8>)> = clients.join_all().await.into_iter().flatten().collect();
        said.sort_by_key(|(at, _)| *at);
        said.into_iter().map(|(_, said)| said).collect()
    })
}

#[test]
fn what_backends_read_is_what_clients_sent() {
    let begun = Instant::now();
    let mut backends = Backends::start();
    let fronts: Vec<Front> = backends
        .addresses
        .iter()
        .map(|address| Front::start(Serving { bounds: bounds(), ..config() }, table_to(backend(&[*address]))))
        .collect();
    let cases = Arc::new(cases());
    let addresses = Arc::new(fronts.iter().map(|front| front.address).collect());
    let said = send(&cases, &addresses);
    let sent = begun.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for front in fronts {
        runtime.block_on(front.ingress.drain(Duration::from_secs(5)));
    }
    let seen = backends.seen();
    let sent_bytes: Vec<Vec<&[u8]>> = cases.iter().map(|case| vec![&*case.bytes]).collect();
    let read: Vec<Read> = backends::reference(&sent_bytes);

    let mut differences = Differences::default();
    let mut by_case: HashMap<usize, Vec<&Entry>> = HashMap::new();
    for entry in &seen {
        match judge::case_of(entry).filter(|case| *case < cases.len()) {
            Some(case) => by_case.entry(case).or_default().push(entry),
            None if entry.backend == "nginx" && entry.error == "status 400" => {
                differences.add("nginx refuses at once", || format!("{entry:?}"));
            }
            // Nothing was read of it but its end.
            None if !entry.complete && entry.error.is_empty() && entry.headers.is_none() => {}
            None => differences.add("a backend saw what nobody sent", || format!("{entry:?}")),
        }
    }
    // Without a head nobody knows whose those are; there are no more than were sent.
    let to_nginx = cases.iter().zip(&read).filter(|(case, _)| case.backend == NAMES.len() - 1);
    let beyond =
        to_nginx.flat_map(|(_, read)| &read.requests).filter(|request| judge::is_beyond_nginx(request));
    let at_once = differences.0.get("nginx refuses at once").map_or(0, |(count, _)| *count);
    assert!(at_once <= beyond.count(), "nginx refuses what nobody sent");
    let mut outcomes = [0_usize; 3];
    let mut stricter = 0;
    for (at, case) in cases.iter().enumerate() {
        let seen = by_case.remove(&at).unwrap_or_default();
        let outcome = judge::case(case, &read[at], &seen, &said[at], &mut differences);
        outcomes[outcome as usize] += 1;
        stricter += usize::from(outcome == Outcome::Refused && read[at].error.is_empty());
    }
    println!(
        "{} cases in {:.1?} ({:.1?} to send them): {} served whole, {} refused ({} of them well formed to h11), {} waited for more; {} requests at backends",
        cases.len(),
        begun.elapsed(),
        sent,
        outcomes[0],
        outcomes[1],
        stricter,
        outcomes[2],
        seen.len()
    );
    differences.judge(JUSTIFIED);
    assert!(outcomes[0] > 2_000, "next to nothing is served");
}

#[test]
fn the_reference_is_no_mirror() {
    // The test would pass if nothing were compared: a backend that read something else is found.
    let case = Case::new("x".into(), b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Wanted::Any);
    let read: Vec<Read> = backends::reference(&[vec![&case.bytes]]);
    let entry = Entry {
        id: "1".into(),
        method: "GET".into(),
        target: "/b".into(),
        complete: true,
        ..Entry::default()
    };
    let mut differences = Differences::default();
    judge::case(
        &case,
        &read[0],
        &[&entry, &entry],
        b"HTTP/1.1 200 OK\r\nx-id: 1\r\ncontent-length: 0\r\n\r\n",
        &mut differences,
    );
    let kinds: Vec<&String> = differences.0.keys().collect();
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}
