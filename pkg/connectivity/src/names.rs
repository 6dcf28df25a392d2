//! Questions to cluster DNS, from the network namespace of the calling thread.

use crate::ask::unspecified;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;

const PORT: u16 = 53;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
/// Bytes of the largest answer without EDNS.
const LARGEST: usize = 512;

/// The addresses of a name, of both families.
///
/// # Errors
/// When there is no such name, or the server does not answer with one. It waits for ever for one that is silent.
pub(crate) async fn resolve(server: IpAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind((unspecified(server), 0)).await?;
    socket.connect(SocketAddr::new(server, PORT)).await?;
    let mut found = Vec::new();
    for rtype in [TYPE_A, TYPE_AAAA] {
        socket.send(&question(name, rtype)?).await?;
        found.extend(answer(&socket, rtype).await?);
    }
    Ok(found)
}

async fn answer(socket: &UdpSocket, rtype: u16) -> io::Result<Vec<IpAddr>> {
    let mut buffer = [0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        // The id is the type: an answer to the question before is no answer to this one.
        if bytes.get(..2) != Some(&rtype.to_be_bytes()) {
            continue;
        }
        let message = Message::from_vec(bytes).map_err(io::Error::other)?;
        match message.metadata.response_code {
            ResponseCode::NoError => {}
            code => return Err(io::Error::other(format!("the answer is {code}"))),
        }
        let addresses = message.answers.iter().filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        });
        return Ok(addresses.collect());
    }
}

/// A question as RFC 1035 has it, with its type for an id, and recursion desired.
fn question(name: &str, rtype: u16) -> io::Result<Vec<u8>> {
    let mut out = rtype.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n));
        out.push(length.ok_or_else(|| io::Error::other(format!("{name:?} is not a name")))?);
        out.extend(label.bytes());
    }
    out.push(0);
    out.extend(rtype.to_be_bytes());
    out.extend([0, 1]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_as_it_was_meant() {
        let message = Message::from_vec(&question("a.svc.cluster.local.", TYPE_AAAA).unwrap()).unwrap();
        let asked: Vec<String> = message.queries.iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["a.svc.cluster.local. IN AAAA"]);
        for bad in ["", "a..b", &"x".repeat(64)] {
            assert!(question(bad, TYPE_A).is_err(), "{bad:?}");
        }
    }
}
