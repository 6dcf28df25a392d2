//! HTTP/2.

use crate::common::until;
use crate::raw::*;
use crate::victim::{Neighbour, Victim};
use std::sync::atomic::Ordering::SeqCst;

/// What one connection may have under way, by the bounds.
const STREAMS: usize = 128;
/// What it may have reset.
const RESETS: u32 = 200;
/// More than fits into the buffers of a connection whose other end has ceased to read. How much of it goes is up to the kernel; and
/// who has sent more than is read behind the word of the end is reset, perhaps before the word is heard.
const FLOOD: u32 = 1_000_000;

/// Makes frames for a number.
type Make = fn(u32) -> Vec<u8>;

fn id(at: u32) -> u32 {
    at * 2 + 1
}

/// What the backend saw of it is bounded, and given up.
fn backend_was_spared(victim: &Victim, asked: usize) {
    let manners = &victim.manners;
    println!("the backend held {:?} at most and was asked {:?} times", manners.peak, manners.asked);
    assert!(manners.peak.load(SeqCst) <= STREAMS, "{:?}", manners.peak);
    assert!(manners.asked.load(SeqCst) <= asked, "{:?}", manners.asked);
    until("the backend has nothing of it any more", || manners.held.load(SeqCst) == 0);
}

/// Streams that are opened by `open` and reset at once end their connection.
fn are_taken_back_at_once(open: impl Fn(u32) -> Vec<u8>) {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let mut raw = Raw::connect(&victim, &[]);
    let took =
        raw.flood(FLOOD, |at| [open(id(at)), frame(RST_STREAM, 0, id(at), &8u32.to_be_bytes())].concat());
    println!("ended with {:?} after {took}", raw.goaway);
    assert!(took < FLOOD && raw.goaway.is_none_or(|why| why == CALM), "{took} {:?}", raw.goaway);
    drop(raw);
    backend_was_spared(&victim, STREAMS + RESETS as usize + 64);
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn requests_that_are_taken_back_at_once() {
    are_taken_back_at_once(|id| get(id, "/hold"));
}

#[test]
fn requests_that_are_taken_back_once_the_backend_has_them() {
    in_waves(|id| frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
}

#[test]
fn requests_that_the_server_is_made_to_take_back_once_the_backend_has_them() {
    in_waves(|id| frame(WINDOW_UPDATE, 0, id, &0u32.to_be_bytes()));
    in_waves(|id| frame(WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes()));
    in_waves(|id| frame(DATA, 0, id, b"more"));
}

/// As many requests as may be under way, each of which the backend has when it is taken back, again and again.
fn in_waves(take_back: Make) {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let mut raw = Raw::connect(&victim, &[]);
    let asked = || victim.manners.asked.load(SeqCst);
    let (mut at, mut waves) = (0, 0);
    while !raw.ended && raw.goaway.is_none() && waves < 50 {
        let wave: Vec<u32> = (at..at + STREAMS as u32).map(id).collect();
        let before = asked();
        raw.send(&wave.iter().flat_map(|id| get(*id, "/hold")).collect::<Vec<u8>>());
        until("the backend has them", || {
            raw.look();
            asked() == before + STREAMS || raw.goaway.is_some() || raw.ended
        });
        let resets = wave.iter().flat_map(|id| take_back(*id));
        raw.send(&resets.collect::<Vec<u8>>());
        (at, waves) = (at + STREAMS as u32, waves + 1);
    }
    println!("ended with {:?} after {waves} waves of {STREAMS}", raw.goaway);
    assert!(waves <= 3, "{waves}");
    drop(raw);
    // The backend learns that a request was taken back by a close, which it may see after the next has come.
    let manners = &victim.manners;
    println!("the backend held {:?} at most and was asked {:?} times", manners.peak, manners.asked);
    assert!(asked() <= 3 * STREAMS);
    until("the backend has nothing of it any more", || manners.held.load(SeqCst) == 0);
    neighbour.was_served();
    victim.held_at_most(24);
}

#[test]
fn requests_that_are_taken_back_in_the_middle_of_their_answers() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let mut raw = Raw::connect(&victim, &[]);
    let mut at = 0;
    while !raw.ended && raw.goaway.is_none() && at < 2_000 {
        raw.send(&get(id(at), "/drip"));
        raw.wait(|raw| raw.came[usize::from(DATA)] > at as usize || raw.goaway.is_some());
        raw.send(&frame(RST_STREAM, 0, id(at), &8u32.to_be_bytes()));
        at += 1;
    }
    println!("ended with {:?} after {at}", raw.goaway);
    assert!(at <= RESETS + 64 && raw.goaway == Some(CALM), "{at} {:?}", raw.goaway);
    drop(raw);
    backend_was_spared(&victim, STREAMS + RESETS as usize + 64);
    neighbour.was_served();
    victim.held_at_most(16);
}

#[test]
fn frames_that_make_the_server_take_requests_back() {
    let wrongs: [(&str, Make); 5] = [
        ("a window of nothing more", |id| frame(WINDOW_UPDATE, 0, id, &0u32.to_be_bytes())),
        ("a window beyond the largest", |id| {
            frame(WINDOW_UPDATE, 0, id, &0x7fff_ffffu32.to_be_bytes()).repeat(2)
        }),
        ("data behind the end", |id| frame(DATA, 0, id, b"more")),
        ("headers behind the end", |id| get(id, "/hold")),
        ("a stream that depends on itself", |id| {
            frame(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[1]].concat())
        }),
    ];
    for (what, wrong) in wrongs {
        let victim = Victim::start();
        let neighbour = Neighbour::of(&victim);
        let mut raw = Raw::connect(&victim, &[]);
        let ends = what != "a stream that depends on itself";
        let most = if ends { FLOOD } else { 50_000 };
        let took = raw.flood(most, |at| [get(id(at), "/hold"), wrong(id(at))].concat());
        println!("{what}: ended with {:?} after {took}", raw.goaway);
        if ends {
            assert!(took < most, "{what}: {took}");
        }
        drop(raw);
        backend_was_spared(&victim, STREAMS + RESETS as usize + 64);
        neighbour.was_served();
        victim.held_at_most(16);
    }
}

#[test]
fn heads_without_an_end() {
    let literal = |size: usize| {
        let mut field = b"\x00\x01a".to_vec();
        // A length of 127 and more goes on in the next bytes.
        field.extend([0x7f, ((size - 127) & 127) as u8 | 128, ((size - 127) >> 7) as u8]);
        field.extend("v".repeat(size).as_bytes());
        field
    };
    let large = frame(CONTINUATION, 0, 1, &literal(10_000));
    let indexed = frame(CONTINUATION, 0, 1, &[0x90; 16_000]);
    let empty = frame(CONTINUATION, 0, 1, b"");
    for (what, more) in [("large", large), ("a million from the table", indexed), ("empty", empty)] {
        let victim = Victim::start();
        let neighbour = Neighbour::of(&victim);
        let mut raw = Raw::connect(&victim, &[]);
        raw.send(&frame(HEADERS, END_STREAM, 1, &block(0x82, "/")));
        let took = raw.flood(200_000, |_| more.clone());
        println!("{what}: ended with {:?} after {took} frames", raw.goaway);
        assert!(took < 100_000 && (raw.ended || raw.goaway.is_some()), "{what}: {took}");
        neighbour.was_served();
        victim.held_at_most(16);
    }
}

#[test]
fn heads_that_are_small_on_the_wire_and_large_behind() {
    let victim = Victim::start();
    let neighbour = Neighbour::of(&victim);
    let mut raw = Raw::connect(&victim, &[]);
    // A field of 3 KiB goes into the table once, and is said 12,000 times by one byte each: 36 MiB.
    let mut first = block(0x82, "/");
    first.extend(b"\x40\x01a\x7f");
    first.extend([((3_000 - 127) & 127) as u8 | 128, ((3_000 - 127) >> 7) as u8]);
    first.extend("v".repeat(3_000).as_bytes());
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first));
    raw.wait(|raw| raw.came[usize::from(HEADERS)] == 1);
    let took = raw.flood(1_000, |at| {
        let mut bomb = block(0x82, "/");
        bomb.extend([0xbe; 12_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, id(at + 1), &bomb)
    });
    println!("{took} taken, {:?} ended it, {} were refused", raw.goaway, raw.came[usize::from(HEADERS)] - 1);
    // The table has the authority in it too, by now; whichever it says, nothing of it came to the backend.
    neighbour.was_served();
    victim.held_at_most(24);
}

#[test]
fn data_without_anything_in_it() {
    let plain = |_: u32| frame(DATA, 0, 1, b"");
    let padded = |_: u32| frame(DATA, 8, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for (what, make) in [("empty", plain as Make), ("padding alone", padded)] {
        for path in ["/", "/deaf"] {
            let victim = Victim::start();
            let neighbour = Neighbour::of(&victim);
            let mut raw = Raw::connect(&victim, &[]);
            raw.send(&post(1, path));
            let took = raw.flood(500_000, make);
            println!("{what} to {path}: {took} taken, {:?} ended it", raw.goaway);
            neighbour.was_served();
            victim.held_at_most(16);
        }
    }
}

#[test]
fn frames_that_ask_for_an_answer_each() {
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]);
    let ping = frame(PING, 0, 0, b"01234567");
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]);
    let unknown = frame(0xbb, 0, 0, b"?");
    let all = [("settings", settings), ("pings", ping), ("priorities", priority), ("unknown", unknown)];
    for (what, one) in all {
        let victim = Victim::start();
        let neighbour = Neighbour::of(&victim);
        let told = (0..5).any(|_| {
            let mut raw = Raw::connect(&victim, &[]);
            let took = raw.flood(FLOOD, |_| one.clone());
            println!("{what}: {took} taken, {:?} ended it", raw.goaway);
            assert!(
                took < FLOOD && raw.goaway.is_none_or(|why| why == CALM),
                "{what}: {took} {:?}",
                raw.goaway
            );
            raw.goaway.is_some()
        });
        assert!(told, "{what}");
        // And without reading what it is told.
        let mut raw = Raw::connect(&victim, &[]);
        let many = one.repeat(1_000);
        let took = (0..1_000).take_while(|_| raw.send(&many)).count() * 1_000;
        println!("{what}, unread: {took} taken, then it was ended");
        until("it is ended", || {
            raw.look();
            raw.ended
        });
        neighbour.was_served();
        victim.held_at_most(16);
    }
}

#[test]
fn answers_that_are_never_let_in() {
    // A window of nothing, and windows without bound on a connection that nobody reads: 8 and 16 MiB for each of four
    // connections.
    for (window, mib) in [(0, 32), (0x7fff_ffff, 64)] {
        let victim = Victim::impatient();
        let neighbour = Neighbour::of(&victim);
        let mut raws = Vec::new();
        for _ in 0..4 {
            let mut raw = Raw::connect(&victim, &[(4, window)]);
            if window > 0 {
                raw.send(&frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffffu32 - 65_535).to_be_bytes()));
            }
            let asked: Vec<u8> = (0..STREAMS as u32).flat_map(|at| get(id(at), "/big")).collect();
            raw.send(&asked);
            raws.push(raw);
        }
        let manners = &victim.manners;
        until("the backend was asked", || manners.asked.load(SeqCst) >= STREAMS);
        until("all were given up", || {
            manners.asked.load(SeqCst) == 4 * STREAMS && manners.held.load(SeqCst) == 0
        });
        println!("window {window}: the backend held {:?} at most", manners.peak);
        neighbour.was_served();
        victim.held_at_most(mib);
    }
}

#[test]
fn websockets_that_are_never_let_in() {
    // Bounds as for answers.
    for (window, mib) in [(0, 32), (0x7fff_ffff, 64)] {
        let victim = Victim::start();
        let neighbour = Neighbour::of(&victim);
        let mut raws = Vec::new();
        for _ in 0..4 {
            let mut raw = Raw::connect(&victim, &[(4, window)]);
            if window > 0 {
                raw.send(&frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffffu32 - 65_535).to_be_bytes()));
            }
            let asked: Vec<u8> = (0..STREAMS as u32).flat_map(|at| websocket(id(at), "/socket")).collect();
            raw.send(&asked);
            raws.push(raw);
        }
        let manners = &victim.manners;
        until("the backend was asked", || manners.asked.load(SeqCst) == 4 * STREAMS);
        neighbour.was_served();
        victim.held_at_most(mib);
        drop(raws);
        until("all were given up", || manners.held.load(SeqCst) == 0);
    }
}

#[test]
fn websockets_that_are_taken_back() {
    are_taken_back_at_once(|id| websocket(id, "/socket"));
}
