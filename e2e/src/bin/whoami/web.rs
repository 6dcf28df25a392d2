//! A server of HTTP/1.1 of our own make, which shares no code with Warren's: it says who it is and what it was asked.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::thread;

const STACK: usize = 128 << 10;

/// Serves until it is killed.
pub(crate) fn run(name: &str, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    println!("ready");
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || converse(stream, &name));
    }
    Ok(())
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn converse(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let request = line(&mut reader)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let field = line(&mut reader)?;
            let Some((name, value)) = field.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        if header("upgrade").is_some() {
            return echo(reader, writer);
        }
        if header("expect") == Some("100-continue") {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        if header("transfer-encoding") == Some("chunked") {
            chunks(&mut reader, &mut body)?;
        } else if let Some(length) = header("content-length").and_then(|l| l.parse().ok()) {
            reader.by_ref().take(length).read_to_end(&mut body)?;
        }
        let mut words = request.split(' ');
        let said = serde_json::json!({
            "name": name,
            "method": words.next(),
            "target": words.next(),
            "headers": headers,
            "body": body.len(),
        });
        let said = said.to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
        writer.write_all(format!("{head}: {}\r\n\r\n{said}", said.len()).as_bytes())?;
    }
}

fn chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = u64::from_str_radix(&line(reader)?, 16).map_err(io::Error::other)?;
        reader.by_ref().take(size).read_to_end(body)?;
        if size == 0 {
            while !line(reader)?.is_empty() {}
            return Ok(());
        }
        line(reader)?;
    }
}

/// What comes after an upgrade comes back.
fn echo(mut reader: BufReader<TcpStream>, mut writer: TcpStream) -> io::Result<()> {
    writer.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")?;
    io::copy(&mut reader, &mut writer).map(drop)
}
