//! The parser under any bytes, in any pieces.

use super::Bad;
use super::body::{Decoder, Step};
use super::head::{self, Framing, Request, Response};
use http::Method;
use proptest::prelude::*;

/// Decodes bytes that come in pieces, and says what is left of them.
fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Bad> {
    let mut decoder = Decoder::new(framing);
    let (mut pending, mut body) = (Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        loop {
            match decoder.step(&pending, (4096, 16))? {
                Step::Skip(count) => drop(pending.drain(..count)),
                Step::Data(count) => body.extend(pending.drain(..count)),
                Step::More | Step::Done => break,
            }
        }
    }
    Ok((body, decoder.is_done(), pending))
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> =
        cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

proptest! {
    #[test]
    fn chunks_are_read_alike_however_they_come(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend_from_slice(format!("{:x};a=b\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\nX-A: b\r\n\r\n");
        bytes.extend_from_slice(&behind);
        let read = decode(Framing::Chunked, &pieces(&bytes, &cuts)).unwrap();
        prop_assert_eq!(read, (chunks.concat(), true, behind));
    }

    #[test]
    fn any_bytes_are_read_alike_however_they_come(
        bytes in prop::collection::vec(prop::sample::select(&b"0123f;=\r\n\r\nX: y"[..]), 0..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        length in 0u64..50,
    ) {
        for framing in [Framing::Chunked, Framing::Length(length), Framing::Close] {
            let (whole, parts) = (decode(framing, &[&bytes]), decode(framing, &pieces(&bytes, &cuts)));
            prop_assert_eq!(whole.is_err(), parts.is_err());
            if let (Ok(whole), Ok(parts)) = (whole, parts) {
                prop_assert_eq!(whole, parts);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_head_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200), line in "[A-Z]{1,4} /[ -~]{0,9} HTTP/1.[01]\r\n") {
        for bytes in [bytes.clone(), [line.as_bytes(), b"Host: h\r\n", &bytes, b"\r\n\r\n"].concat()] {
            let mut scanned = 0;
            if let Ok(Some(end)) = head::find_end(&bytes, &mut scanned) {
                let _ = head::request(&bytes[..end], &mut Request::default(), 100);
                let _ = head::response(&bytes[..end], &mut Response::default(), 100, &Method::GET);
            }
        }
    }

    /// Whatever is taken for a request has one reading: lines end with CR LF, names are tokens, values are text.
    #[test]
    fn what_is_taken_has_no_second_reading(middle in "[\\x00-\\x20a:A;,\\r\\n]{0,24}") {
        let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\n{middle}\r\n\r\n").into_bytes();
        let mut request = Request::default();
        let mut scanned = 0;
        let Ok(Some(end)) = head::find_end(&bytes, &mut scanned) else { return Ok(()) };
        if head::request(&bytes[..end], &mut request, 100).is_ok() {
            let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let lines: Vec<&str> = text.split("\r\n").skip(1).take_while(|line| !line.is_empty()).collect();
            prop_assert_eq!(lines.len(), request.fields.len());
            for (line, (_, name, value)) in lines.iter().zip(request.fields.iter()) {
                let (found, said) = line.split_once(':').unwrap();
                prop_assert_eq!(found.as_bytes(), name);
                prop_assert_eq!(said.trim_matches([' ', '\t']).as_bytes(), value);
                prop_assert!(!line.contains(['\r', '\n', '\0']));
            }
        }
    }
}
