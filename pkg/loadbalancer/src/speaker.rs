//! The announcer of one link at work: its sockets, its clock.

use crate::announce::frame::Heard;
use crate::announce::{Announcer, State};
use crate::link::LanLink;
use crate::status::{AddressState, AddressStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_netlink::packet::{Frames, MAX_FRAME, PacketSocket};
use warren_netlink::{NetNs, NetlinkError};

/// After a socket failed.
const RETRY: Duration = Duration::from_millis(200);

/// Between two tellings of states: a thousand addresses may change theirs within a second.
const TELL: Duration = Duration::from_millis(100);

/// States of addresses on one link.
pub(crate) type States = BTreeMap<IpAddr, AddressStatus>;

/// Announces on one link what `wanted` says, until `stop`; then it is silent. `tell` is told of each change of state.
///
/// # Errors
/// When the link or its sockets are gone; the caller looks again what links there are.
pub(crate) async fn speak(
    link: LanLink,
    namespace: NetNs,
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    tell: impl Fn(States),
    stop: CancellationToken,
) -> Result<(), NetlinkError> {
    let sockets = Sockets::open(&link, &namespace).await?;
    let mut announcer = Announcer::new(link.mac);
    announcer.set(Instant::now(), &wanted.borrow_and_update().clone());
    let (mut arp, mut ndp) = ([0; MAX_FRAME], [0; MAX_FRAME]);
    let mut told = States::new();
    let (mut changes, mut tell_at) = (0, Some(Instant::now()));
    let mut open = true;
    loop {
        announcer.tick(Instant::now());
        while let Some(frame) = announcer.take() {
            let socket = if frame.address.is_ipv4() { &sockets.arp } else { &sockets.ndp };
            if let Err(error) = socket.send(&frame.bytes).await {
                // A link that is down: its LAN has other holders, and this one is heard again when it is back.
                tracing::debug!(%error, link = link.name, address = %frame.address, "could not announce");
            }
        }
        let now = Instant::now();
        if announcer.changes() != changes {
            changes = announcer.changes();
            tell_at = tell_at.or(Some(now + TELL));
        }
        if tell_at.is_some_and(|at| at <= now) {
            let states = states(&announcer);
            log(&link, &told, &states);
            tell(states.clone());
            (told, tell_at) = (states, None);
        }
        let wake = announcer.wake().into_iter().chain(tell_at).min();
        let heard = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            length = sockets.arp.receive(&mut arp) => received(length, &arp, &link).await,
            length = sockets.ndp.receive(&mut ndp) => received(length, &ndp, &link).await,
            change = wanted.changed(), if open => {
                open = change.is_ok();
                announcer.set(Instant::now(), &wanted.borrow_and_update().clone());
                None
            }
            () = until(wake) => None,
        };
        if let Some(heard) = heard {
            announcer.hear(Instant::now(), &heard);
        }
    }
}

struct Sockets {
    arp: PacketSocket,
    ndp: PacketSocket,
}

impl Sockets {
    async fn open(link: &LanLink, namespace: &NetNs) -> Result<Self, NetlinkError> {
        let open = |frames| PacketSocket::in_namespace(namespace, link.index, frames);
        Ok(Self { arp: open(Frames::Arp).await?, ndp: open(Frames::NeighbourDiscovery).await? })
    }
}

/// What a reading gave. A link that went down says so once on each socket, and may come back.
async fn received(length: io::Result<usize>, frame: &[u8], link: &LanLink) -> Option<Heard> {
    match length {
        Ok(length) => frame.get(..length).and_then(Heard::read),
        Err(error) => {
            tracing::debug!(%error, link = link.name, "could not listen");
            tokio::time::sleep(RETRY).await;
            None
        }
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

fn states(announcer: &Announcer) -> States {
    let status = |(address, state, since)| {
        let state = match state {
            State::Listening { .. } => AddressState::Listening,
            State::Backup { holder, .. } => AddressState::Backup { holder },
            State::Holder { .. } => AddressState::Holder,
        };
        (address, AddressStatus { state, since })
    };
    announcer.states().map(status).collect()
}

fn log(link: &LanLink, before: &States, now: &States) {
    for (address, status) in now {
        let old = before.get(address).map(|old| old.state);
        match (old, status.state) {
            (Some(old), new) if old == new => {}
            (_, AddressState::Holder) => tracing::info!(%address, link = link.name, "answering for address"),
            (Some(AddressState::Holder), AddressState::Backup { holder }) => {
                tracing::info!(%address, link = link.name, %holder, "another node answers for address");
            }
            _ => {}
        }
    }
}
