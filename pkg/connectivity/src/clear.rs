//! What leaves this node while a pod of it talks to other nodes: packets of the tunnel, and none in clear text.
//!
//! The pod sends datagrams with a text that nobody else sends. Packet sockets on every link that is not Warren's look for
//! that text, which nobody finds in an encrypted packet, and for packets of the tunnel to the other node.

use crate::ask::unspecified;
use crate::echo::PORT;
use crate::runner::{Facts, in_namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use warren_netlink::packet::{Frames, MAX_FRAME, PacketSocket};
use warren_netlink::{NetNs, Netlink, NetlinkError};
use warren_types::NodeName;
use warren_types::connectivity::{Check, CheckKind, Outcome};

/// Datagrams to each address.
const DATAGRAMS: usize = 16;
/// Bytes of each; packets of the tunnel that are as long, or longer, may hold one.
const LENGTH: usize = 1000;
/// How long what was sent may take to be seen: an answer may be here before it.
const LATE: Duration = Duration::from_secs(2);
/// How long clear text is waited for besides, on links other than the tunnel's.
const LAST: Duration = Duration::from_millis(100);
/// Names of Warren's links, where clear text is as it should be, begin with this.
const OWN_LINKS: &str = "wrn";

/// One address of another node's pod that answers.
#[derive(Debug, Clone)]
pub(crate) struct Aim {
    pub(crate) node: NodeName,
    pub(crate) address: IpAddr,
}

/// What the packet sockets saw, by the number of the aim.
#[derive(Debug, Default)]
struct Seen {
    /// Links by which its text left or came in clear.
    clear: BTreeMap<usize, String>,
    /// Packets of the tunnel to its node.
    sealed: BTreeMap<usize, usize>,
}

/// Looks at what leaves while `pod` talks to each of `aims`. `id` is the run's.
///
/// # Errors
/// When the links cannot be listed or listened on.
pub(crate) async fn look(
    netlink: &Netlink,
    pod: &NetNs,
    id: &str,
    aims: &[Aim],
    facts: &Facts,
    limit: Duration,
) -> Result<Vec<Check>, NetlinkError> {
    let (seen, mut look) = watch::channel(Seen::default());
    let word = format!("warren-connectivity {id} ");
    let ends: Vec<BTreeSet<SocketAddr>> = aims
        .iter()
        .map(|aim| facts.endpoints.get(&aim.node).cloned().unwrap_or_default())
        .map(|ends| ends.into_iter().map(|end| (end.ip().to_canonical(), end.port()).into()).collect())
        .collect();
    let mut watches = JoinSet::new();
    for link in netlink.list_links().await? {
        if link.up && link.name != "lo" && !link.name.starts_with(OWN_LINKS) {
            let socket = PacketSocket::in_namespace(netlink.namespace(), link.index, Frames::All).await?;
            let (seen, word, ends) = (seen.clone(), word.clone(), ends.clone());
            watches.spawn(async move { watch(&socket, &link.name, word.as_bytes(), &ends, &seen).await });
        }
    }
    let sent = aims.to_vec();
    let answered = in_namespace(pod, move || async move { talk(&sent, &word, limit).await }).await?;
    let awaited = |seen: &Seen| {
        let of = |number: &usize| ends.get(*number).is_some_and(|ends| !ends.is_empty());
        let mut answered = (0..aims.len()).filter(|number| answered.get(*number) == Some(&true)).filter(of);
        answered.all(|number| seen.sealed.get(&number).is_some_and(|count| *count >= DATAGRAMS))
    };
    // Whether it was seen at all is judged below.
    let _ = timeout(LATE, look.wait_for(awaited)).await;
    tokio::time::sleep(LAST).await;
    watches.shutdown().await;
    let seen = seen.send_replace(Seen::default());
    let check = |(number, aim): (usize, &Aim)| {
        let (outcome, why) = verdict(
            seen.clear.get(&number),
            answered.get(number) == Some(&true),
            ends.get(number).is_some_and(|ends| !ends.is_empty()),
            seen.sealed.get(&number).copied().unwrap_or_default(),
        );
        let (to, address) = (Some(aim.node.clone()), Some(aim.address));
        Check { to, kind: CheckKind::Encryption, address, outcome, why, latency_micros: None, bytes: None }
    };
    Ok(aims.iter().enumerate().map(check).collect())
}

fn verdict(clear: Option<&String>, answered: bool, known: bool, sealed: usize) -> (Outcome, String) {
    match (clear, answered) {
        (Some(link), _) => {
            (Outcome::Failed, format!("packets of pods were seen in clear text on link {link}"))
        }
        (None, false) => (Outcome::Failed, "no answer".into()),
        (None, true) if !known => (
            Outcome::NotChecked,
            "no clear text was seen, but it is not known here where the tunnel leads".into(),
        ),
        (None, true) if sealed < DATAGRAMS => {
            let why = format!("only {sealed} packets of the tunnel were seen for {DATAGRAMS} that were sent");
            (Outcome::Failed, why)
        }
        (None, true) => (Outcome::Held, String::new()),
    }
}

/// Sends to everybody, and says who has answered.
async fn talk(aims: &[Aim], word: &str, limit: Duration) -> Vec<bool> {
    let mut all = JoinSet::new();
    for (number, aim) in aims.iter().cloned().enumerate() {
        let mut text = format!("{word}{number} ").into_bytes();
        text.resize(LENGTH, b'.');
        all.spawn(async move {
            let end = Instant::now() + limit;
            let told = async {
                let socket = UdpSocket::bind((unspecified(aim.address), 0)).await?;
                socket.connect((aim.address, PORT)).await?;
                for _ in 0..DATAGRAMS {
                    socket.send(&text).await?;
                }
                socket.recv(&mut [0; 2048]).await
            };
            (number, matches!(timeout_at(end, told).await, Ok(Ok(_))))
        });
    }
    let answers: BTreeMap<usize, bool> = all.join_all().await.into_iter().collect();
    answers.into_values().collect()
}

/// Reads what passes a link until it is dropped. A link that goes away, or down, shows nothing more.
async fn watch(
    socket: &PacketSocket,
    link: &str,
    word: &[u8],
    ends: &[BTreeSet<SocketAddr>],
    seen: &watch::Sender<Seen>,
) {
    let mut frame = vec![0; MAX_FRAME];
    while let Ok(length) = socket.receive(&mut frame).await {
        let frame = frame.get(..length).unwrap_or_default();
        let (aim, to) = (said(frame, word), destination(frame));
        let sealed = ends.iter().enumerate().filter(|(_, ends)| {
            aim.is_none() && length >= LENGTH && to.is_some_and(|to| ends.contains(&to.into()))
        });
        let sealed: Vec<usize> = sealed.map(|(number, _)| number).collect();
        if aim.is_none() && sealed.is_empty() {
            continue;
        }
        seen.send_modify(|seen| {
            if let Some(aim) = aim {
                seen.clear.insert(aim, link.to_owned());
            }
            for number in sealed {
                *seen.sealed.entry(number).or_default() += packets(length);
            }
        });
    }
}

/// A kernel that leaves segmentation to the link shows several packets as one, cut to the buffer: as many as are awaited.
fn packets(length: usize) -> usize {
    if length >= MAX_FRAME { DATAGRAMS } else { 1 }
}

/// The number behind `word`, where the frame has it.
fn said(frame: &[u8], word: &[u8]) -> Option<usize> {
    let at = frame.windows(word.len()).position(|part| part == word)?;
    let rest = frame.get(at + word.len()..)?;
    let digits: String = rest.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
    digits.parse().ok()
}

/// Address and port of an Ethernet frame's UDP datagram; not of one with options or extension headers.
fn destination(frame: &[u8]) -> Option<(IpAddr, u16)> {
    const UDP: u8 = 17;
    let packet = frame.get(14..)?;
    let (protocol, address, udp): (u8, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (*packet.get(9)?, address.into(), packet.get(20..)?)
        }
        [0x86, 0xdd] => {
            let address: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (*packet.get(6)?, address.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    (protocol == UDP).then_some((address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45]);
        frame.resize(14 + 20, 0);
        frame[14 + 9] = 17;
        frame[14 + 16..14 + 20].copy_from_slice(&[192, 0, 2, 2]);
        frame.extend([0, 1, 0xca, 0x80, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn the_text_and_the_tunnel_are_told_apart() {
        let word = b"warren-connectivity r ";
        assert_eq!(said(&frame(b"warren-connectivity r 12 ..."), word), Some(12));
        assert_eq!(said(&frame(b"warren-connectivity s 12 ..."), word), None);
        assert_eq!(destination(&frame(b"x")), Some(("192.0.2.2".parse().unwrap(), 51_840)));
    }

    #[test]
    fn clear_text_fails_whatever_else_is_seen_and_what_is_not_known_is_not_held() {
        let link = String::from("eth0");
        assert_eq!(verdict(Some(&link), true, true, DATAGRAMS).0, Outcome::Failed);
        assert_eq!(verdict(None, false, true, DATAGRAMS).0, Outcome::Failed);
        assert_eq!(verdict(None, true, false, 0).0, Outcome::NotChecked);
        assert_eq!(verdict(None, true, true, DATAGRAMS - 1).0, Outcome::Failed);
        assert_eq!(verdict(None, true, true, DATAGRAMS).0, Outcome::Held);
    }

    proptest! {
        #[test]
        fn any_frame_is_read_without_panic(frame in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = (destination(&frame), said(&frame, b"w"));
        }
    }
}
