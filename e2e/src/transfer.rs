//! A long TCP transfer between two namespaces: it must never be reset.

use crate::{netns, patient};
use anyhow::{Context as _, Result, bail};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running transfer.
pub struct Transfer {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
}

impl Transfer {
    /// Connects from `from_ns` to `to` in `to_ns` and sends without pause.
    ///
    /// # Errors
    /// When a namespace or a socket cannot be had, or the connection does not come up within 5 s.
    pub fn start(from_ns: &Path, to_ns: &Path, to: IpAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let listener = netns::run(to_ns, move || Ok(TcpListener::bind(SocketAddr::new(to, 0))?))?;
        let target = listener.local_addr()?;
        let receiver = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
            loop {
                match stream.read(&mut buffer).context("receiver")? {
                    0 => return Ok(total),
                    n => total += u64::try_from(n)?,
                }
            }
        });
        let mut stream = netns::run(from_ns, move || {
            TcpStream::connect_timeout(&target, patient(Duration::from_secs(20)))
                .with_context(|| format!("connect {target}"))
        })?;
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let (mut total, block) = (0, [0x57; 16 * 1024]);
            while !stopped.load(Ordering::Relaxed) {
                match stream.write(&block) {
                    Ok(0) => bail!("the connection closed"),
                    Ok(n) => total += u64::try_from(n)?,
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(e) => return Err(e).context("sender"),
                }
            }
            Ok(total)
        });
        Ok(Self { stop, sender, receiver })
    }

    /// Ends the transfer in order; returns the bytes sent, all of which arrived.
    ///
    /// # Errors
    /// When the connection was reset, or bytes are missing.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = netns::join(self.sender)?;
        let received = netns::join(self.receiver)?;
        if sent != received {
            bail!("sent {sent} bytes, {received} arrived");
        }
        Ok(sent)
    }
}
