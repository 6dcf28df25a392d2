//! Telling a service manager how it is: the protocol of sd_notify(3), one datagram a message.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said. "Ready" means that the agent runs and has started its
//! subsystems, not that every input has arrived: a node whose API is away must not be started again and again.

use crate::board::Board;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How often the state is looked at, at least.
const LOOK: Duration = Duration::from_secs(2);

/// Who is told; nobody when no service manager asked.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Whoever `NOTIFY_SOCKET` names, and how long it waits for a sign of life, as `WATCHDOG_USEC` says.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let other = std::env::var("WATCHDOG_PID").is_ok_and(|pid| pid != std::process::id().to_string());
        Self::to(&name, micros.filter(|_| !other).map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!(%error, socket = %name.to_string_lossy(), "the service manager cannot be told anything");
            Self::default()
        })
    }

    fn to(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(socket), watchdog })
    }

    /// Says something, such as `READY=1`. A manager that does not listen is its own affair.
    pub fn say(&self, what: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(what.as_bytes());
        }
    }

    /// Says that the agent is ready, then that it lives and how it is, as long as the runtime gets to it.
    pub(crate) async fn keep(&self, board: &Board) -> Infallible {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        self.say("READY=1");
        let mut tick = tokio::time::interval(self.watchdog.map_or(LOOK, |w| LOOK.min(w / 3)));
        let mut said = None;
        loop {
            tick.tick().await;
            self.say("WATCHDOG=1");
            let missing = board.missing();
            let status = match missing.first() {
                None => "pods can be attached".to_owned(),
                Some(first) => format!("not ready: {}", first.replace('\n', " ")),
            };
            if said.as_ref() != Some(&status) {
                self.say(&format!("STATUS={status}"));
                said = Some(status);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_and_nobody_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.as_os_str(), None).unwrap();
        notifier.say("READY=1");
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        drop(manager);
        notifier.say("READY=1");
        Notifier::default().say("READY=1");
        assert!(Notifier::to(OsStr::new("/no/such/socket"), None).is_err());
    }
}
