//! Which paths and hosts are taken. What a backend might read as another path is refused, never made straight.

/// Whether path and query of a request are unambiguous.
///
/// Refused are bytes that RFC 3986 does not allow in a path, encodings that are none, encoded slashes, backslashes and NULs,
/// and the segments `.` and `..`, encoded or not, with parameters or without.
pub(crate) fn is_acceptable(path: &[u8], query: Option<&[u8]>) -> bool {
    let query_is_fine = query.is_none_or(|query| query.iter().all(|byte| is_query(*byte)));
    path.first() == Some(&b'/') && query_is_fine && path.split(|byte| *byte == b'/').all(is_segment)
}

/// Whether a request of this method is for somebody behind the proxy: not a tunnel, nor what connections of HTTP/2 begin with.
pub(crate) fn is_method(method: &http::Method) -> bool {
    *method != http::Method::CONNECT && method.as_str() != "PRI"
}

fn is_query(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

fn is_segment(segment: &[u8]) -> bool {
    let mut at = 0;
    // How the segment begins, decoded: dots alone, as far as was seen, and how many.
    let mut dots = Some(0);
    while let Some(byte) = segment.get(at) {
        let decoded = match byte {
            b'%' => {
                let digit = |at: usize| segment.get(at).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return false };
                at += 2;
                match (high * 16 + low) as u8 {
                    b'/' | b'\\' | 0 => return false,
                    decoded => decoded,
                }
            }
            byte if is_path(*byte) => *byte,
            _ => return false,
        };
        at += 1;
        dots = match (dots, decoded) {
            (Some(count), b'.') => Some(count + 1),
            (Some(1 | 2), b';') => return false,
            _ => None,
        };
    }
    !matches!(dots, Some(1 | 2))
}

fn is_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

/// The host of an authority (`example.org:80`, `[::1]`), without port and without a dot at the end; nothing when it is
/// malformed, has an empty label or user information.
pub(crate) fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..end + 2], &rest[end + 1..])
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let host = &authority[..end];
            let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            let gap = host.starts_with('.') || host.contains("..");
            if host.is_empty() || host.len() > 254 || gap || !host.bytes().all(named) {
                return None;
            }
            (host.strip_suffix('.').unwrap_or(host), &authority[end..])
        }
    };
    let port_is_fine = match port.strip_prefix(':') {
        Some(port) => {
            port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    (port_is_fine && !host.is_empty()).then_some(host)
}
