//! Heads of messages: first line and headers.

use super::Bad;
use crate::fields::{Fields, Known};
use crate::target;
use http::Method;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    Close,
}

impl Framing {
    pub(crate) const NONE: Self = Self::Length(0);
}

/// The head of a request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path and query, as sent.
    pub(crate) target: Vec<u8>,
    /// Where the question mark is, or the end.
    pub(crate) path_end: usize,
    /// The host as sent, with its port.
    pub(crate) authority: String,
    /// The host in lower case, without port.
    pub(crate) host: String,
    pub(crate) fields: Fields,
    pub(crate) version: Version,
    /// Whether the client waits for `100 Continue`.
    pub(crate) expects: bool,
    /// Whether it is for a WebSocket on a stream of HTTP/2.
    pub(crate) websocket: bool,
}

/// The version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    V10,
    #[default]
    V11,
    V2,
}

impl Request {
    pub(crate) fn path(&self) -> &[u8] {
        &self.target[..self.path_end]
    }

    pub(crate) fn query(&self) -> Option<&[u8]> {
        self.target.get(self.path_end + 1..)
    }

    /// Takes path and query.
    pub(crate) fn set_target(&mut self, bytes: &[u8]) {
        self.target.clear();
        self.target.extend_from_slice(bytes);
        self.path_end = bytes.iter().position(|byte| *byte == b'?').unwrap_or(bytes.len());
    }
}

/// The head of an answer.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) version: Version,
}

/// How long a head is, once all of it is there. `scanned` is how far it was looked at before, 0 at first.
pub(crate) fn find_end(bytes: &[u8], scanned: &mut usize) -> Result<Option<usize>, Bad> {
    while let Some(found) = memchr::memchr(b'\n', &bytes[*scanned..]) {
        let at = *scanned + found;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(Bad::Line);
        }
        *scanned = at + 1;
        if at >= 3 && bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
        if at == 1 {
            return Err(Bad::FirstLine);
        }
    }
    *scanned = bytes.len();
    Ok(None)
}

/// Reads the head of a request; `bytes` are all of it. Returns how its body is framed.
pub(crate) fn request(bytes: &[u8], into: &mut Request, most: usize) -> Result<Framing, Bad> {
    let (line, rest) = first_line(bytes)?;
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Bad::FirstLine);
    };
    into.version = parse_version(version)?;
    if method.is_empty() || method.len() > 32 || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Bad::FirstLine);
    }
    into.method = Method::from_bytes(method).map_err(|_| Bad::FirstLine)?;
    into.fields.clear();
    fields(rest, &mut into.fields, most)?;
    let authority = take_target(target, into)?;
    take_host(authority, into)?;
    into.expects = into.version == Version::V11 && into.fields.has_token(Known::Expect, "100-continue");
    request_framing(into)
}

/// Path and query of the target, and the authority when it names one.
fn take_target<'a>(target: &'a [u8], into: &mut Request) -> Result<Option<&'a [u8]>, Bad> {
    if target == b"*" && into.method == Method::OPTIONS {
        into.set_target(target);
        return Ok(None);
    }
    if !target::is_method(&into.method) {
        return Err(Bad::Target);
    }
    let mut authority = None;
    if target.first() == Some(&b'/') {
        into.set_target(target);
    } else {
        let rest = ["http://", "https://"].iter().find_map(|scheme| {
            let (head, rest) = target.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme.as_bytes()).then_some(rest)
        });
        let rest = rest.ok_or(Bad::Target)?;
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        authority = Some(&rest[..end]);
        match rest.get(end) {
            Some(b'/') => into.set_target(&rest[end..]),
            _ => into.set_target(&[b"/", &rest[end..]].concat()),
        }
    }
    match target::is_acceptable(into.path(), into.query()) {
        true => Ok(authority),
        false => Err(Bad::Target),
    }
}

fn take_host(authority: Option<&[u8]>, into: &mut Request) -> Result<(), Bad> {
    into.authority.clear();
    into.host.clear();
    let mut hosts = into.fields.values(Known::Host);
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, None) if into.version == Version::V10 && authority.is_none() => return Ok(()),
        _ => return Err(Bad::Host),
    };
    if authority.is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
        return Err(Bad::Host);
    }
    let host = std::str::from_utf8(host).map_err(|_| Bad::Host)?;
    let name = target::host_of(host).ok_or(Bad::Host)?;
    into.host.push_str(name);
    into.host.make_ascii_lowercase();
    into.authority.push_str(host);
    Ok(())
}

fn request_framing(head: &Request) -> Result<Framing, Bad> {
    let length = content_length(&head.fields)?;
    let chunked = is_chunked(&head.fields)?;
    match (length, chunked) {
        (Some(_), true) => Err(Bad::Both),
        (None, true) if head.version == Version::V10 => Err(Bad::TransferEncoding),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// Reads the head of an answer to a request of this method. Returns how its body is framed.
pub(crate) fn response(
    bytes: &[u8],
    into: &mut Response,
    most: usize,
    method: &Method,
) -> Result<Framing, Bad> {
    let (line, rest) = first_line(bytes)?;
    let (version, line) = line.split_at_checked(8).ok_or(Bad::FirstLine)?;
    into.version = parse_version(version)?;
    into.status = match line {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..]
            if rest.first().is_none_or(|byte| *byte == b' ') && rest.iter().all(|byte| is_text(*byte)) =>
        {
            [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(*digit - b'0'))
        }
        _ => return Err(Bad::FirstLine),
    };
    into.fields.clear();
    fields(rest, &mut into.fields, most)?;
    let length = content_length(&into.fields)?;
    let chunked = is_chunked(&into.fields)?;
    if length.is_some() && chunked {
        return Err(Bad::Both);
    }
    if chunked && into.version == Version::V10 {
        return Err(Bad::TransferEncoding);
    }
    if method == Method::HEAD || matches!(into.status, 100..=199 | 204 | 304) {
        return Ok(Framing::NONE);
    }
    Ok(match length {
        Some(length) => Framing::Length(length),
        None if chunked => Framing::Chunked,
        None => Framing::Close,
    })
}

fn first_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Bad> {
    let end = memchr::memchr(b'\r', bytes).ok_or(Bad::FirstLine)?;
    match bytes.get(end + 1) {
        Some(b'\n') => Ok((&bytes[..end], &bytes[end + 2..])),
        _ => Err(Bad::Line),
    }
}

fn parse_version(bytes: &[u8]) -> Result<Version, Bad> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::V11),
        b"HTTP/1.0" => Ok(Version::V10),
        _ if bytes.starts_with(b"HTTP/") => Err(Bad::Version),
        _ => Err(Bad::FirstLine),
    }
}

/// Reads header lines up to the empty one.
pub(crate) fn fields(mut bytes: &[u8], into: &mut Fields, most: usize) -> Result<(), Bad> {
    loop {
        let end = memchr::memchr(b'\r', bytes).ok_or(Bad::Line)?;
        if bytes.get(end + 1) != Some(&b'\n') {
            return Err(Bad::Line);
        }
        let line = &bytes[..end];
        if line.is_empty() {
            return Ok(());
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Bad::Folded);
        }
        let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(Bad::Field)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Bad::Field);
        }
        let value = trim(&line[colon + 1..]);
        // All of them, many at once, rather than one by one up to the first.
        if !value.iter().fold(true, |fine, byte| fine & is_text(*byte)) {
            return Err(Bad::Field);
        }
        if into.len() == most {
            return Err(Bad::TooLarge);
        }
        match line.len() == colon + 2 + value.len() && line[colon + 1] == b' ' {
            true => into.push_line(&bytes[..end + 2], colon),
            false => into.push(&line[..colon], value),
        }
        bytes = &bytes[end + 2..];
    }
}

/// Without spaces and tabs at either end; nothing else is white space here.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn content_length(fields: &Fields) -> Result<Option<u64>, Bad> {
    let mut values = fields.values(Known::ContentLength);
    let Some(value) = values.next() else { return Ok(None) };
    let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    if values.next().is_some() || !digits {
        return Err(Bad::Length);
    }
    Ok(Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))))
}

fn is_chunked(fields: &Fields) -> Result<bool, Bad> {
    let mut values = fields.values(Known::TransferEncoding);
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(Bad::TransferEncoding),
    }
}

/// Whether a byte may stand in a method or the name of a header.
pub(crate) fn is_token(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut at = 0;
        while at < 256 {
            let byte = at as u8;
            table[at] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            at += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

/// Whether a byte may stand in the value of a header.
fn is_text(byte: u8) -> bool {
    // Without a branch, so that many bytes are looked at in one step.
    (byte == b'\t') | ((byte >= 0x20) & (byte != 0x7f))
}
