//! Bytes together with file descriptors, over a connected unix socket (`SCM_RIGHTS`).
//!
//! How one process hands an open network namespace to another that cannot see its path.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Most descriptors that the kernel passes with one message (`SCM_MAX_FD`): with room for them none can be lost.
const MOST: usize = 253;

/// Sends bytes, and `fds` with the first of them. Returns how many bytes were taken; the descriptors went with them.
///
/// # Errors
/// The socket's; `EPIPE` instead of a signal when the peer is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match sendmsg::<UnixAddr>(socket, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Receives up to `buffer.len()` bytes, and the descriptors that came with them, close-on-exec. 0 bytes: the peer has
/// ended.
///
/// # Errors
/// The socket's.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            received.extend(fds.into_iter().map(own));
        }
    }
    Ok((message.bytes, received))
}

#[expect(unsafe_code, reason = "a received descriptor is told as a number only")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor in our table for this message; it is open, nobody else knows
    // its number, and each number of a message is taken once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_travels_with_its_bytes() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut file, peer) = UnixStream::pair().unwrap();
        assert_eq!(send(&near, b"hello", &[peer.as_fd()]).unwrap(), 5);
        assert_eq!(send(&near, b"more", &[]).unwrap(), 4);
        drop((near, peer));
        let mut buffer = [0u8; 64];
        let (n, fds) = receive(&far, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], fds.len()), (&b"hello"[..], 1));
        let (n, none) = receive(&far, &mut buffer).unwrap();
        assert_eq!((&buffer[..n], none.len()), (&b"more"[..], 0));
        assert_eq!(receive(&far, &mut buffer).unwrap().0, 0);
        // The copy that travelled is the last one: closing it ends the stream.
        drop(fds);
        assert_eq!(file.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(send(&near, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
