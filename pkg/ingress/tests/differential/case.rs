//! Cases, and how many are made of few: by trying each byte in each place, and by chance.

use crate::seeds;
use std::net::Ipv4Addr;

/// What must become of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Whatever the reference parser says.
    Any,
    /// It is refused, and nothing behind it is read.
    Refused,
    /// All of it is served.
    Served,
}

/// What a client sends on a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) wanted: Wanted,
    /// Where it waits a moment.
    pub(crate) cut: Option<usize>,
    pub(crate) backend: usize,
}

impl Case {
    pub(crate) fn new(name: String, bytes: Vec<u8>, wanted: Wanted) -> Self {
        Self { name, bytes, wanted, cut: None, backend: 0 }
    }
}

/// The address from which a case is sent; the ingress says it to the backend, and nobody else can.
pub(crate) fn address(case: usize) -> Ipv4Addr {
    let number = u32::try_from(case).unwrap() + (1 << 16);
    Ipv4Addr::from((127 << 24) | number)
}

pub(crate) fn of_address(address: &str) -> Option<usize> {
    let number = u32::from(address.parse::<Ipv4Addr>().ok()?);
    (number >> 24 == 127).then_some((number & 0x00ff_ffff) as usize)?.checked_sub(1 << 16)
}

/// Numbers that are the same in each run with the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    pub(crate) fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Requests with a mark in each place that matters.
const MARKED: &[&str] = &[
    "\u{1}G\u{1}ET\u{1} \u{1}/a\u{1}b?c\u{1}d\u{1} \u{1}HTTP\u{1}/1\u{1}.1\u{1}\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.1\r\n\u{1}X\u{1}-Y\u{1}:\u{1} \u{1}a\u{1}b\u{1}\r\u{1}\n\u{1}Host\u{1}:\u{1} h\u{1}x\u{1}\r\n\u{1}\r\u{1}\n",
    "POST / HTTP/1.1\r\nHost: h\r\n\u{1}Content\u{1}-Length\u{1}:\u{1} \u{1}1\u{1}1\u{1}\r\n\r\nhello world",
    "POST / HTTP/1.1\r\nHost: h\r\n\u{1}Transfer\u{1}-Encoding\u{1}:\u{1} \u{1}chu\u{1}nked\u{1}\r\n\r\n\u{1}0\u{1}5\u{1};\u{1}a=b\u{1}\r\u{1}\nhello\u{1}\r\u{1}\n\u{1}0\u{1}\r\u{1}\n\u{1}X\u{1}:\u{1} y\u{1}\r\u{1}\n\u{1}\r\u{1}\n",
    "GET http\u{1}:\u{1}/\u{1}/\u{1}h\u{1}/\u{1}%\u{1}4\u{1}1/.\u{1}a HTTP/1.1\r\nHost: h\r\nConnection:\u{1}keep-alive\u{1},\u{1}x-y\u{1}\r\nX-Y: z\r\n\r\n",
];

/// Each byte in each of those places, or in those of a header and each byte that means something in the others.
pub(crate) fn sweep(all: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, marked) in MARKED.iter().enumerate() {
        let pieces: Vec<&str> = marked.split('\u{1}').collect();
        for place in 1..pieces.len() {
            let means = |byte: &u8| {
                !byte.is_ascii_alphanumeric() && *byte < 0x82 || b"05afx\x85\xa0\xff".contains(byte)
            };
            for byte in (0..=255).filter(|byte| all || at == 1 || means(byte)) {
                let mut bytes = pieces[..place].concat().into_bytes();
                bytes.push(byte);
                bytes.extend(pieces[place..].concat().bytes());
                cases.push(Case::new(format!("byte {byte:#04x}"), bytes, Wanted::Any));
            }
        }
    }
    cases
}

/// Bytes and pieces that parsers have stumbled over.
const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\r\n",
    "\n\n",
    " ",
    "\t",
    "\0",
    "\u{b}",
    "\u{c}",
    ":",
    ",",
    ";",
    "\"",
    "\\",
    "/",
    "%",
    "%2f",
    "%2e",
    "..",
    "#",
    "?",
    "@",
    "0",
    "1",
    "f",
    "0\r\n\r\n",
    "5\r\n",
    "\r\n\r\n",
    "\r\n ",
    "\r\n\t",
    "\u{7f}",
    "\u{80}",
    "\u{a0}",
    "\u{ff}",
    "+",
    "-",
    "_",
    "0x",
    "HTTP/1.1",
    "HTTP/1.0",
    "GET ",
    "POST / HTTP/1.1\r\n",
    "Host: h\r\n",
    "chunked",
    "identity",
    "close",
    "keep-alive",
];

/// A case made of another by some changes.
pub(crate) fn mutated(random: &mut Random, seeds: &[Case]) -> Case {
    let seed = random.of(seeds);
    let mut bytes = seed.bytes.clone();
    for _ in 0..=random.below(3) {
        change(random, &mut bytes, seeds);
    }
    let cut = (random.below(8) == 0 && bytes.len() > 1).then(|| 1 + random.below(bytes.len() - 1));
    Case { name: format!("{}, changed", seed.name), cut, ..Case::new(String::new(), bytes, Wanted::Any) }
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Case]) {
    let at = random.below(bytes.len() + 1);
    let piece = random.of(PIECES).as_bytes().to_vec();
    match random.below(10) {
        0 => {
            bytes.splice(at..at, piece);
        }
        1 => {
            let end = (at + 1 + random.below(4)).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        2 => {
            let end = (at + 1 + random.below(3)).min(bytes.len());
            bytes.drain(at..end);
        }
        3 => {
            let byte = random.below(256) as u8;
            match bytes.get_mut(at) {
                Some(found) => *found = byte,
                None => bytes.push(byte),
            }
        }
        // A line again, or away, or somewhere else.
        4 => {
            let mut lines: Vec<Vec<u8>> =
                bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let (one, other) = (random.below(lines.len()), random.below(lines.len()));
            if let Some(line) = lines.get(one).cloned() {
                match random.below(3) {
                    0 => lines.insert(other, line),
                    1 => drop(lines.remove(one)),
                    _ => lines.swap(one, other),
                }
            }
            *bytes = lines.concat();
        }
        // A header line of the lists, behind the first line or before the end of the head.
        5 | 6 => {
            let lists = [seeds::ENCODINGS, seeds::LENGTHS, seeds::HOSTS, seeds::HEADERS];
            let line = format!("{}\r\n", {
                let list = lists[random.below(lists.len())];
                random.of(list)
            });
            let ends: Vec<usize> = bytes
                .windows(2)
                .enumerate()
                .filter(|(_, two)| *two == b"\r\n")
                .map(|(at, _)| at + 2)
                .collect();
            let at = if ends.is_empty() { 0 } else { *random.of(&ends) };
            bytes.splice(at..at, line.into_bytes());
        }
        // Another end of a line.
        7 => {
            let ends: Vec<usize> =
                bytes.windows(2).enumerate().filter(|(_, two)| *two == b"\r\n").map(|(at, _)| at).collect();
            if !ends.is_empty() {
                let at = *random.of(&ends);
                let new = *random.of(&["\n", "\r", "\r\r\n", "\n\r", "\r\n\r\n", " \r\n", "\r\n "]);
                bytes.splice(at..at + 2, new.bytes());
            }
        }
        // What another one ends with.
        8 => {
            let other = &random.of(seeds).bytes;
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        // Another one behind it, or a request that must not be one.
        _ => match random.below(2) {
            0 => bytes.extend_from_slice(&random.of(seeds).bytes),
            _ => bytes.splice(at..at, seeds::SMUGGLED.bytes()).for_each(drop),
        },
    }
}
