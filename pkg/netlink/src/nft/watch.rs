//! Word of changes that others make to the table.

use super::wire::{self, FAMILY_INET, SUBSYSTEM, message};
use super::{Nft, Socket, TABLE, own_sockets};
use crate::NetlinkError;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::libc;
use std::future::poll_fn;
use std::io;
use std::sync::PoisonError;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// The head of a message is enough, but a datagram holds the messages of many operations.
const READ_BUFFER: usize = 64 * 1024;

impl Nft {
    /// A stream of "somebody else changed `inet warren`"; carries no content and is never the truth. Changes through
    /// handles of this process do not count, unless the table or a set comes or goes by another one; else each pod would set
    /// off a check of the whole table. Lost messages (ENOBUFS) count as a change.
    ///
    /// The receiver ends when the last clone of this handle is dropped.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub async fn changes(&self) -> Result<watch::Receiver<u64>, NetlinkError> {
        let runtime = Handle::current();
        let socket = self.0.namespace.run_async(move || subscribe(&runtime)).await?;
        let socket = socket.map_err(|source| NetlinkError::Kernel {
            op: "watch",
            object: "nftables".into(),
            source,
        })?;
        let (changed, receiver) = watch::channel(0);
        let mut watchers = self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        while watchers.try_join_next().is_some() {}
        watchers.spawn(read(socket, changed, self.0.own));
        Ok(receiver)
    }
}

fn subscribe(runtime: &Handle) -> io::Result<TokioSocket> {
    let _context = runtime.enter();
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 1 << (GROUP - 1)))?;
    Ok(socket)
}

/// Counts until nobody listens any more.
async fn read(socket: TokioSocket, changed: watch::Sender<u64>, own: Socket) {
    let mut datagram = Vec::with_capacity(READ_BUFFER);
    loop {
        datagram.clear();
        let outcome = tokio::select! {
            () = changed.closed() => return,
            outcome = poll_fn(|cx| socket.poll_recv(cx, &mut datagram)) => outcome,
        };
        match outcome.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) if !is_change(&datagram, own) => {}
            Ok(()) | Err(Some(libc::ENOBUFS)) => changed.send_modify(|count| *count = count.wrapping_add(1)),
            Err(Some(libc::EINTR)) => {}
            Err(_) => {
                tracing::warn!(?outcome, "the kernel's messages about nftables ended");
                return;
            }
        }
    }
}

/// Whether a datagram tells of a change to the table by another socket than `own`.
pub(super) fn is_change(datagram: &[u8], own: Socket) -> bool {
    wire::messages(datagram).any(|message| {
        let [subsystem, kind] = message.kind.to_be_bytes();
        let (family, attributes) = message.attributes();
        subsystem == SUBSYSTEM
            && kind != message::NEW_GENERATION
            && family == FAMILY_INET
            && message.port != own.1
            // In every kind of message the table's name is attribute 1.
            && wire::find(attributes, 1).is_some_and(|name| wire::as_text(name) == TABLE)
            // The other handles of this process keep to their own sections. But one may begin anew, or make the set that
            // another waits for.
            && (is_shape(kind) || !own_sockets().contains(&(own.0, message.port)))
    })
}

/// Whether a message tells that the table, or a set of it, came or went.
fn is_shape(kind: u8) -> bool {
    matches!(kind, message::NEW_TABLE | message::DEL_TABLE | message::NEW_SET | message::DEL_SET)
}
