//! HTTP/1.

use crate::common::*;
use crate::victim::{Neighbour, Victim, trickle};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use warren_ingress::{Bounds, Serving};

/// Everything that comes until the end.
fn rest(client: &mut Client) -> String {
    let mut all = Vec::new();
    let _ = client.reader.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn heads_and_bodies_that_hardly_come() {
    let victim = Victim::impatient();
    let neighbour = Neighbour::of(&victim);
    let slow = Client::connect(victim.plain);
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    let took = trickle(&slow.stream, head);
    println!("a slow head was ended after {took:?}");
    assert!(took < Duration::from_secs(8));
    // Silence: at first, within a head, within a body, between requests.
    for said in [
        "",
        "GET / HT",
        "POST /deaf HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ] {
        let clients: Vec<Client> = (0..200)
            .map(|_| {
                let mut client = Client::connect(victim.plain);
                client.send(said);
                client
            })
            .collect();
        let begun = Instant::now();
        for mut client in clients {
            rest(&mut client);
        }
        println!("200 that say {said:?} and no more: ended within {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
    victim.manners.hear();
    until("the backend has nothing of it any more", || victim.manners.held.load(SeqCst) == 0);
    neighbour.was_served();
    victim.held_at_most(24);
}

#[test]
fn trailers_that_hardly_come() {
    let victim = Victim::impatient();
    let neighbour = Neighbour::of(&victim);
    let mut slow = Client::connect(victim.plain);
    slow.send("POST /hold HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ");
    let took = trickle(&slow.stream, std::iter::repeat(b'x'));
    println!("slow trailers were ended after {took:?}");
    assert!(took < Duration::from_secs(8));
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn answers_that_nobody_reads() {
    let victim = Victim::impatient();
    let neighbour = Neighbour::of(&victim);
    let clients: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect(victim.plain);
            client.send("GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
            client
        })
        .collect();
    let manners = &victim.manners;
    until("all were given up", || manners.asked.load(SeqCst) == 100 && manners.held.load(SeqCst) == 0);
    drop(clients);
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn heads_chunks_and_trailers_without_an_end() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, head, more, refused) in [
        ("a million headers", "GET / HTTP/1.1\r\nHost: h\r\n", "a: b\r\n", true),
        ("a header of megabytes", "GET / HTTP/1.1\r\nHost: h\r\nX: ", "xxxxxxxx", true),
        ("a target of megabytes", "GET /", "xxxxxxxx", true),
        ("a chunk extension", &format!("{chunked}1;"), "xxxxxxxx", true),
        ("trailers", &format!("{chunked}0\r\n"), "a: b\r\n", true),
        ("extensions", chunked, "1;a=b;c=d;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\nx\r\n", false),
    ] {
        let mut client = Client::connect(victim.plain);
        client.send(head);
        let more = more.repeat(1_000);
        let took = (0..1_000).take_while(|_| client.stream.write_all(more.as_bytes()).is_ok()).count();
        println!("{what}: {} KiB taken", (took * more.len()) >> 10);
        if refused {
            let answer = rest(&mut client);
            assert!(took * more.len() < 8 << 20, "{what}");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        }
    }
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn thousands_of_requests_at_once() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let many = "GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(5_000);
    let mut client = Client::connect(victim.plain);
    let mut stream = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || stream.write_all(many.as_bytes()));
    for _ in 0..5_000 {
        assert_eq!(client.answer().body, b"hello");
    }
    sending.join().unwrap().unwrap();
    // And nobody reads the answers.
    let many = "GET /large HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1_000);
    let deaf = Client::connect(victim.plain);
    deaf.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let took = (0..1_000).take_while(|_| (&deaf.stream).write_all(many.as_bytes()).is_ok()).count();
    println!("unread: {took} thousand taken into the kernel's buffers, then it waited");
    assert!(took < 1_000);
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn a_body_of_2_gib_to_a_backend_that_does_not_read() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    for framing in ["Content-Length: 2147483648", "Transfer-Encoding: chunked"] {
        let mut client = Client::connect(victim.plain);
        client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        client.send(format!("POST /deaf HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n80000000\r\n"));
        let piece = vec![b'x'; 1 << 20];
        let took = (0..2_048).take_while(|_| client.stream.write_all(&piece).is_ok()).count();
        println!("{framing}: {took} MiB taken by the kernel's buffers, then it waited");
        assert!(took < 64);
    }
    victim.manners.hear();
    until("the backend has nothing of it any more", || victim.manners.held.load(SeqCst) == 0);
    // 2 GiB to one that does, for what it is worth: as much as 256 MiB are.
    let mut client = Client::connect(victim.plain);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 268435456\r\n\r\n");
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..256 {
        client.send(&piece);
    }
    assert_eq!(client.answer().body, b"hello");
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn one_client_does_not_take_all_connections() {
    let origin = Origin::hello();
    let bounds = Bounds { connections: 10, client_connections: 5, ..Bounds::default() };
    let front = Front::start(Serving { bounds, ..config() }, table_to(backend(&[origin.address])));
    let from = |last: u8| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, last], 0)).into()).unwrap();
        socket.connect(&front.address.into()).unwrap();
        // Those who speak are taken in the order in which they do.
        socket.send(b"G").unwrap();
        TcpStream::from(socket)
    };
    let mut many: Vec<TcpStream> = (0..20).map(|_| from(2)).collect();
    for turned_away in &mut many[5..] {
        assert!(matches!(turned_away.read(&mut [0]), Ok(0) | Err(_)));
    }
    assert_eq!((front.ingress.figures().connections, front.ingress.figures().turned_away), (5, 15));
    assert_eq!(front.get("/").body, b"hello");
    // And it has some again when it has given up others.
    drop(many);
    until("they are not counted any more", || front.ingress.figures().connections == 0);
    let mut again = from(2);
    again.write_all(b"ET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    again.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}
