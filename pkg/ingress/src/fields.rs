//! The headers of a message, as bytes and where they lie: one form for HTTP/1 and HTTP/2, made without an allocation each.

use crate::route::HeaderFields;
use bytes::Bytes;

/// Headers that the proxy itself has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Other,
    Authorization,
    Connection,
    ContentLength,
    Cookie,
    Expect,
    Forwarded,
    Host,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authorization`, `Proxy-Authenticate`: between two neighbours alone.
    Hop,
    Origin,
    Te,
    TransferEncoding,
    Upgrade,
    XForwarded,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
}

impl Known {
    pub(crate) fn of(name: &[u8]) -> Self {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match (name.len(), name.first().map_or(0, u8::to_ascii_lowercase)) {
            (2, b't') if is("te") => Self::Te,
            (4, b'h') if is("host") => Self::Host,
            (6, b'c') if is("cookie") => Self::Cookie,
            (6, b'e') if is("expect") => Self::Expect,
            (6, b'o') if is("origin") => Self::Origin,
            (7, b'u') if is("upgrade") => Self::Upgrade,
            (9, b'f') if is("forwarded") => Self::Forwarded,
            (9, b'x') if is("x-real-ip") => Self::XForwarded,
            (10, b'c') if is("connection") => Self::Connection,
            (10, b'k') if is("keep-alive") => Self::Hop,
            (13, b'a') if is("authorization") => Self::Authorization,
            (14, b'c') if is("content-length") => Self::ContentLength,
            (15, b'x') if is("x-forwarded-for") => Self::XForwardedFor,
            (16, b'x') if is("x-forwarded-host") => Self::XForwardedHost,
            (16, b'x') if is("x-forwarded-port") => Self::XForwardedPort,
            (16, b'p') if is("proxy-connection") => Self::Hop,
            (17, b'x') if is("x-forwarded-proto") => Self::XForwardedProto,
            (17, b't') if is("transfer-encoding") => Self::TransferEncoding,
            (18, b'p') if is("proxy-authenticate") => Self::Hop,
            (19, b'p') if is("proxy-authorization") => Self::Hop,
            (12.., b'x') if name[..12].eq_ignore_ascii_case(b"x-forwarded-") => Self::XForwarded,
            _ => Self::Other,
        }
    }

    /// Whether a name is that of a header which the proxy itself has to do with but for underscores in place of dashes. Backends
    /// behind CGI, WSGI and the like cannot tell one from the other, so a client could say there what is not its to say.
    pub(crate) fn is_disguised(name: &[u8]) -> bool {
        if memchr::memchr(b'_', name).is_none() {
            return false;
        }
        let dashed: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
        Self::of(&dashed) != Self::Other
    }

    /// A bit of its own.
    fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether a client may say in `Connection` that the header is for its neighbour alone, and so have it taken away.
    pub(crate) fn is_removable(self) -> bool {
        self == Self::Other
    }

    /// Whether it says for whom a request was, which only a trusted peer may.
    pub(crate) fn is_forwarded(self) -> bool {
        matches!(
            self,
            Self::Forwarded
                | Self::XForwarded
                | Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedProto
        )
    }
}

/// Headers, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    /// Whole lines, as HTTP/1 writes them.
    bytes: Vec<u8>,
    list: Vec<Field>,
    /// The bits of those kinds that were ever put in.
    kinds: u32,
}

/// Headers of most heads.
const FEW: usize = 16;
/// Bytes of them.
const SHORT: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Field {
    known: Known,
    /// Where its line begins.
    begin: usize,
    /// Where its name ends. A colon and a space are between name and value.
    colon: usize,
    /// Where its value ends. The end of the line comes after it.
    end: usize,
}

impl Field {
    fn name(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.begin..self.colon]
    }

    fn value(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.colon + 2..self.end]
    }

    /// Where the next line may begin.
    fn after(self) -> usize {
        self.end + 2
    }
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
        self.kinds = 0;
    }

    /// Bytes of its buffers, about.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.list.capacity() * size_of::<Field>()
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a header; the caller has seen to it that name and value are valid.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_known(Known::of(name), name, |bytes| bytes.extend_from_slice(value));
    }

    /// Adds a header of a known name, whose value is written where it stays. What is there already is not the writer's.
    pub(crate) fn push_known(&mut self, known: Known, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert_eq!(known, Known::of(name));
        self.reserve();
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let colon = self.bytes.len();
        self.bytes.extend_from_slice(b": ");
        write(&mut self.bytes);
        let end = self.bytes.len();
        self.bytes.extend_from_slice(b"\r\n");
        self.add(Field { known, begin, colon, end });
    }

    /// Adds a header by its line, which has one space after the colon, none after the value, and its end.
    pub(crate) fn push_line(&mut self, line: &[u8], colon: usize) {
        self.reserve();
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(line);
        let end = self.bytes.len() - 2;
        self.add(Field { known: Known::of(&line[..colon]), begin, colon: begin + colon, end });
    }

    fn reserve(&mut self) {
        if self.list.capacity() == 0 {
            // What most heads need, at once rather than in five steps.
            self.list.reserve(FEW);
            self.bytes.reserve(SHORT);
        }
    }

    fn add(&mut self, field: Field) {
        self.kinds |= field.known.bit();
        self.list.push(field);
    }

    /// Takes a header's place.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(|_, found| found.eq_ignore_ascii_case(name));
        self.push(name, value);
    }

    pub(crate) fn remove(&mut self, mut which: impl FnMut(Known, &[u8]) -> bool) {
        let bytes = &self.bytes;
        self.list.retain(|field| !which(field.known, field.name(bytes)));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.list.iter().map(|field| (field.known, field.name(&self.bytes), field.value(&self.bytes)))
    }

    /// As [`Fields::iter`], with values that others can keep.
    pub(crate) fn iter_shared(&self) -> impl Iterator<Item = (Known, &[u8], Bytes)> {
        // Who keeps one value keeps all that it was copied with.
        let together = (self.bytes.len() <= SHORT).then(|| Bytes::copy_from_slice(&self.bytes));
        self.list.iter().map(move |field| {
            let value = match &together {
                Some(bytes) => bytes.slice(field.colon + 2..field.end),
                None => Bytes::copy_from_slice(field.value(&self.bytes)),
            };
            (field.known, field.name(&self.bytes), value)
        })
    }

    /// Writes all lines, and the empty one.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (mut begin, mut end) = (0, 0);
        for field in &self.list {
            // Lines that lie together are written together.
            if field.begin != end {
                out.extend_from_slice(&self.bytes[begin..end]);
                begin = field.begin;
            }
            end = field.after();
        }
        out.extend_from_slice(&self.bytes[begin..end]);
        out.extend_from_slice(b"\r\n");
    }

    /// The values of a header.
    pub(crate) fn values(&self, wanted: Known) -> impl Iterator<Item = &[u8]> {
        // Most are not there, and are asked for again and again.
        let list = if self.kinds & wanted.bit() == 0 { &[] } else { self.list.as_slice() };
        list.iter().filter(move |field| field.known == wanted).map(|field| field.value(&self.bytes))
    }

    /// The value of a header by name.
    pub(crate) fn get(&self, wanted: &str) -> Option<&[u8]> {
        let wanted = wanted.as_bytes();
        self.iter().find(|(_, name, _)| name.eq_ignore_ascii_case(wanted)).map(|(.., value)| value)
    }

    /// Whether a header that is a list of tokens has this one.
    pub(crate) fn has_token(&self, wanted: Known, token: &str) -> bool {
        self.values(wanted).flat_map(tokens).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Takes away what is between two neighbours alone: a fixed list, and what `Connection` names unless that is none of the
    /// client's business.
    pub(crate) fn remove_hop_by_hop(&mut self) {
        let named: Vec<Vec<u8>> = self
            .values(Known::Connection)
            .flat_map(tokens)
            // There is no header of the name that connections are closed with (RFC 9110, 16.3.1).
            .filter(|token| !token.eq_ignore_ascii_case(b"close") && Known::of(token).is_removable())
            .map(<[u8]>::to_vec)
            .collect();
        self.remove(|known, name| match known {
            Known::Connection | Known::Hop | Known::Te | Known::TransferEncoding | Known::Upgrade => true,
            Known::Other => named.iter().any(|token| token.eq_ignore_ascii_case(name)),
            _ => false,
        });
    }
}

/// The elements of a list.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

impl HeaderFields for Fields {
    fn any(&self, wanted: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(_, name, value)| name.eq_ignore_ascii_case(wanted.as_bytes()) && test(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::head;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_what_was_put_in_and_not_taken_away(
            lines in prop::collection::vec(
                ("te|host|cookie|upgrade|X-A|Connection|content-length", "( |\t){0,2}", "|[a-z]|[a-z][ a-z]{0,8}[a-z]", "( |\t){0,2}", any::<(bool, bool)>()),
                0..12,
            ),
        ) {
            let (mut fields, mut left) = (Fields::default(), Vec::new());
            for (name, before, value, after, (by_line, removed)) in &lines {
                match by_line {
                    // As they come, with any white space.
                    true => {
                        let line = format!("{name}:{before}{value}{after}\r\n\r\n");
                        prop_assert_eq!(head::fields(line.as_bytes(), &mut fields, 100), Ok(()));
                    }
                    false => fields.push(name.as_bytes(), value.as_bytes()),
                }
                if !removed {
                    left.push((name.as_str(), value.as_str()));
                }
            }
            let mut removed = lines.iter().map(|line| line.4.1);
            fields.remove(|_, _| removed.next().unwrap_or_default());
            let mut written = Vec::new();
            fields.write(&mut written);
            let wanted: String = left.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            prop_assert_eq!(String::from_utf8(written).unwrap(), wanted + "\r\n");
            for known in [Known::Te, Known::Host, Known::Cookie, Known::Upgrade, Known::Connection, Known::Origin] {
                let found: Vec<&[u8]> = fields.values(known).collect();
                let of = |(name, _): &&(&str, &str)| Known::of(name.as_bytes()) == known;
                let wanted: Vec<&[u8]> = left.iter().filter(of).map(|(_, value)| value.as_bytes()).collect();
                prop_assert_eq!(found, wanted);
            }
            fields.clear();
            prop_assert!(fields.is_empty() && fields.values(Known::Host).next().is_none());
        }
    }

    #[test]
    fn every_known_name_is_known_in_any_case_and_no_other() {
        let names = [
            ("TE", Known::Te),
            ("Host", Known::Host),
            ("Cookie", Known::Cookie),
            ("EXPECT", Known::Expect),
            ("Origin", Known::Origin),
            ("Upgrade", Known::Upgrade),
            ("Forwarded", Known::Forwarded),
            ("X-Real-IP", Known::XForwarded),
            ("Connection", Known::Connection),
            ("Keep-Alive", Known::Hop),
            ("Authorization", Known::Authorization),
            ("Content-Length", Known::ContentLength),
            ("X-Forwarded-For", Known::XForwardedFor),
            ("X-Forwarded-Host", Known::XForwardedHost),
            ("X-Forwarded-Port", Known::XForwardedPort),
            ("Proxy-Connection", Known::Hop),
            ("X-Forwarded-Proto", Known::XForwardedProto),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("Proxy-Authenticate", Known::Hop),
            ("Proxy-Authorization", Known::Hop),
            ("X-Forwarded-Server", Known::XForwarded),
            ("X-Forwarded", Known::Other),
            ("Hosts", Known::Other),
        ];
        for (name, known) in names {
            for name in [name.to_owned(), name.to_ascii_lowercase(), name.to_ascii_uppercase()] {
                assert_eq!(Known::of(name.as_bytes()), known, "{name}");
            }
        }
        assert_eq!(Known::of(b""), Known::Other);
    }
}
