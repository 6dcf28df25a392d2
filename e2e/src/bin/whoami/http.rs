//! HTTP/1.1 as a plain client speaks it, and as much of it as a server of one line needs.

use std::io::{self, BufRead, ErrorKind, Write};

/// An answer to a request.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the connection ends with it.
    pub(crate) last: bool,
}

/// Asks on a connection. A connection that ends before the first byte of an answer is `UnexpectedEof`,
/// `ConnectionReset` or `BrokenPipe`; what ends an answer midway is another error.
pub(crate) fn get(
    write: &mut impl Write,
    read: &mut impl BufRead,
    host: &str,
    path: &str,
    keep: bool,
) -> io::Result<Reply> {
    let connection = if keep { "keep-alive" } else { "close" };
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n");
    write.write_all(head.as_bytes())?;
    let mut first = String::new();
    if read.read_line(&mut first)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    rest(&first, read).map_err(|error| io::Error::other(format!("an answer that ended midway: {error}")))
}

fn rest(first: &str, read: &mut impl BufRead) -> io::Result<Reply> {
    let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {first:?}")))?;
    let (mut length, mut last) = (0, false);
    loop {
        let mut field = String::new();
        if read.read_line(&mut field)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "connection" => last = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body)?;
    Ok(Reply { status, body: String::from_utf8_lossy(&body).into_owned(), last })
}

/// Serves a request whose first line has been read: the answer is `text`.
pub(crate) fn answer(read: &mut impl BufRead, write: &mut impl Write, text: &str) -> io::Result<()> {
    let mut field = String::new();
    while read.read_line(&mut field)? > 0 && !field.trim_end().is_empty() {
        field.clear();
    }
    write.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).as_bytes())
}
