//! Backends of HTTP/2, whose connection clients share: what one does not take must not keep another waiting.

use crate::common::Client;
use crate::victim::{Neighbour, Victim};
use bytes::Bytes;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::task::JoinSet;

/// A backend that answers `/big` without an end, `/hold` never, and all else at once. It takes so many streams of each
/// connection, and counts those that it does not end.
fn backend(streams: u32, begun: Arc<AtomicUsize>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(connection(stream, streams, begun.clone()));
            }
        });
    });
    address
}

async fn connection(stream: tokio::net::TcpStream, most: u32, begun: Arc<AtomicUsize>) {
    let mut builder = h2::server::Builder::new();
    let shake = builder.max_concurrent_streams(most).handshake::<_, Bytes>(stream);
    let Ok(mut connection) = shake.await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let begun = begun.clone();
        streams.spawn(async move {
            let path = request.uri().path().to_owned();
            if path == "/hold" {
                begun.fetch_add(1, SeqCst);
                let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
                return;
            }
            let mut out = respond.send_response(http::Response::new(()), false).unwrap();
            if path != "/big" {
                out.send_data("hello".into(), true).unwrap();
                return;
            }
            begun.fetch_add(1, SeqCst);
            out.reserve_capacity(64 << 10);
            while let Some(Ok(room)) = poll_fn(|cx| out.poll_capacity(cx)).await {
                if out.send_data(vec![b'x'; room].into(), false).is_err() {
                    return;
                }
                out.reserve_capacity(64 << 10);
            }
        });
    }
}

fn ask(victim: &Victim, path: &str, count: usize) -> Vec<Client> {
    let asked = (0..count).map(|_| {
        let mut client = Client::connect(victim.plain);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client
    });
    asked.collect()
}

#[test]
fn answers_that_nobody_reads_leave_the_window_to_others() {
    let begun = Arc::<AtomicUsize>::default();
    let victim = Victim::before_h2c(backend(1_000, begun.clone()));
    let neighbour = Neighbour::of(&victim);
    let clients = ask(&victim, "/big", 64);
    crate::common::until("all have begun", || begun.load(SeqCst) == 64);
    // Each is full when there is nothing more to read from the backend: as long as it takes for others to be served often.
    neighbour.was_served_often();
    drop(clients);
    victim.held_at_most(32);
}

#[test]
fn streams_that_a_backend_never_ends_leave_it_to_others() {
    let begun = Arc::<AtomicUsize>::default();
    let victim = Victim::before_h2c(backend(10, begun.clone()));
    let neighbour = Neighbour::of(&victim);
    let clients = ask(&victim, "/hold", 50);
    crate::common::until("all have begun", || begun.load(SeqCst) == 50);
    neighbour.was_served_often();
    drop(clients);
    victim.held_at_most(16);
}
