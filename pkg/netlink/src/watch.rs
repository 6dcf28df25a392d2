//! Word of changes in a namespace's links, addresses, routes and rules.

use crate::{Netlink, NetlinkError};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::libc;
use std::future::poll_fn;
use std::io;
use std::sync::PoisonError;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// `RTNLGRP_*`: links; addresses, routes and rules of both families.
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];

impl Netlink {
    /// A stream of "something about links, addresses or routes changed" in this namespace; carries no content and is
    /// never the truth. Lost messages (ENOBUFS) count as a change.
    ///
    /// The receiver ends when the last clone of this handle is dropped.
    pub async fn changes(&self) -> Result<watch::Receiver<u64>, NetlinkError> {
        let runtime = Handle::current();
        let socket = self.0.namespace.run_async(move || subscribe(&runtime)).await?;
        let socket = socket.map_err(|source| NetlinkError::Kernel {
            op: "watch",
            object: "links, addresses and routes".into(),
            source,
        })?;
        let (changed, receiver) = watch::channel(0);
        let mut watchers = self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        while watchers.try_join_next().is_some() {}
        watchers.spawn(read(socket, changed));
        Ok(receiver)
    }
}

fn subscribe(runtime: &Handle) -> io::Result<TokioSocket> {
    let _context = runtime.enter();
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

/// Counts messages until nobody listens any more. What they say does not matter, so their heads are enough.
async fn read(socket: TokioSocket, changed: watch::Sender<u64>) {
    let mut head = Vec::with_capacity(16);
    loop {
        head.clear();
        let outcome = tokio::select! {
            () = changed.closed() => return,
            outcome = poll_fn(|cx| socket.poll_recv(cx, &mut head)) => outcome,
        };
        match outcome.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) | Err(Some(libc::ENOBUFS)) => changed.send_modify(|count| *count = count.wrapping_add(1)),
            Err(Some(libc::EINTR)) => {}
            Err(_) => {
                tracing::warn!(?outcome, "the kernel's messages about changes ended");
                return;
            }
        }
    }
}
