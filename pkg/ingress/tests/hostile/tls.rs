//! TLS.

use crate::raw::tls_client;
use crate::victim::{Neighbour, Victim, trickle};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What a client says first.
fn hello(victim: &Victim) -> Vec<u8> {
    let mut hello = Vec::new();
    tls_client(victim, b"http/1.1").write_tls(&mut hello).unwrap();
    hello
}

/// The same in records of so many bytes of it each.
fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let fragment = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    hello[5..].chunks(size).flat_map(fragment).collect()
}

fn connect(victim: &Victim) -> TcpStream {
    let stream = TcpStream::connect(victim.tls).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

#[test]
fn hellos_in_pieces_are_understood_or_refused() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    for size in [1, 2, 3, 4, 5, 7, 16, 100] {
        let mut stream = connect(&victim);
        stream.write_all(&fragmented(&hello(&victim), size)).unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        // A handshake, or an alert.
        println!("records of {size}: answered by type {}", answer[0]);
        assert!(matches!(answer[0], 21 | 22), "{answer:?}");
    }
    let mut stream = connect(&victim);
    for byte in hello(&victim) {
        stream.write_all(&[byte]).unwrap();
    }
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2), "a hello of the server");
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn what_is_no_hello_is_refused_at_once() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let begun = Instant::now();
    let endless = [&[22, 3, 1, 0, 4, 1, 255, 255, 255][..], &[22, 3, 1, 64, 0], &[0; 16_384]].concat();
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        vec![0; 100_000],
        vec![255; 100_000],
        endless,
        fragmented(&[&[0; 5][..], &[1, 0, 255, 255], &[7; 65_535]].concat(), 1),
    ] {
        let mut stream = connect(&victim);
        let _ = stream.write_all(&garbage);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    println!("all were refused in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(8), "before the time of a handshake was over");
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn silence_is_ended() {
    let victim = Victim::impatient();
    let neighbour = Neighbour::of(&victim);
    let begun = Instant::now();
    let hello = hello(&victim);
    let mut streams: Vec<TcpStream> = (0..500).map(|_| connect(&victim)).collect();
    for (at, stream) in streams.iter_mut().enumerate() {
        let _ = stream.write_all(&hello[..at % hello.len()]);
    }
    for stream in &mut streams {
        let _ = std::io::copy(stream, &mut std::io::sink());
    }
    println!("500 of them in {:?}", begun.elapsed());
    // A byte at a time does not make it longer.
    let took = trickle(&connect(&victim), hello.iter().copied().cycle());
    println!("a byte at a time: after {took:?}");
    assert!(took < Duration::from_secs(8));
    neighbour.was_served();
    victim.held_at_most(24);
}
