//! The headers of a message, as bytes and where they lie: one form for HTTP/1 and HTTP/2, made without an allocation each.

use crate::route::HeaderFields;

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
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("cookie") => Self::Cookie,
            6 if is("expect") => Self::Expect,
            6 if is("origin") => Self::Origin,
            7 if is("upgrade") => Self::Upgrade,
            9 if is("forwarded") => Self::Forwarded,
            9 if is("x-real-ip") => Self::XForwarded,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::Hop,
            13 if is("authorization") => Self::Authorization,
            14 if is("content-length") => Self::ContentLength,
            15 if is("x-forwarded-for") => Self::XForwardedFor,
            16 if is("x-forwarded-host") => Self::XForwardedHost,
            16 if is("x-forwarded-port") => Self::XForwardedPort,
            16 if is("proxy-connection") => Self::Hop,
            17 if is("x-forwarded-proto") => Self::XForwardedProto,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            18 if is("proxy-authenticate") => Self::Hop,
            19 if is("proxy-authorization") => Self::Hop,
            12.. if name[..12].eq_ignore_ascii_case(b"x-forwarded-") => Self::XForwarded,
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
    bytes: Vec<u8>,
    list: Vec<Field>,
}

/// Headers of most heads.
const FEW: usize = 16;
/// Bytes of them.
const SHORT: usize = 512;

#[derive(Clone, Copy, Debug)]
struct Field {
    known: Known,
    name: (usize, usize),
    value: (usize, usize),
}

impl Fields {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
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
        self.push_with(name, |bytes| bytes.extend_from_slice(value));
    }

    /// Adds a header whose value is written where it stays. What is there already is not the writer's.
    pub(crate) fn push_with(&mut self, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        if self.list.capacity() == 0 {
            // What most heads need, at once rather than in five steps.
            self.list.reserve(FEW);
            self.bytes.reserve(SHORT);
        }
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        write(&mut self.bytes);
        let known = Known::of(name);
        self.list.push(Field { known, name: (begin, middle), value: (middle, self.bytes.len()) });
    }

    /// Takes a header's place.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(|_, found| found.eq_ignore_ascii_case(name));
        self.push(name, value);
    }

    pub(crate) fn remove(&mut self, mut which: impl FnMut(Known, &[u8]) -> bool) {
        let bytes = &self.bytes;
        self.list.retain(|field| !which(field.known, &bytes[field.name.0..field.name.1]));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.list.iter().map(|field| {
            let name = &self.bytes[field.name.0..field.name.1];
            (field.known, name, &self.bytes[field.value.0..field.value.1])
        })
    }

    /// The values of a header.
    pub(crate) fn values(&self, wanted: Known) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(known, ..)| *known == wanted).map(|(.., value)| value)
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
            .filter(|token| Known::of(token).is_removable())
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
