//! Heads of messages with their buffers, lent from one message to the next: a connection that waits for a request has none,
//! and one that has another finds its buffers large enough.

use crate::h1::head::{Request, Response};
use std::cell::RefCell;
use std::thread::LocalKey;

/// How many unused heads of a kind a thread keeps: as many as streams that a few busy connections have.
const SPARE: usize = 256;
/// Bytes of buffers up to which they are worth keeping.
const LARGE: usize = 8 << 10;

/// They are lent: who has none has room for a pointer.
type Spares<T> = RefCell<Vec<Box<T>>>;

thread_local! {
    static REQUESTS: Spares<Request> = const { RefCell::new(Vec::new()) };
    static RESPONSES: Spares<Response> = const { RefCell::new(Vec::new()) };
}

/// A head that can be lent.
pub(crate) trait Head: Default + 'static {
    /// Where unused ones of this thread are.
    fn spares() -> &'static LocalKey<Spares<Self>>;
    /// Makes it as new, but for its buffers.
    fn clear(&mut self);
    /// Bytes of its buffers, about.
    fn capacity(&self) -> usize;
}

impl Head for Request {
    fn spares() -> &'static LocalKey<Spares<Self>> {
        &REQUESTS
    }

    fn clear(&mut self) {
        self.set_target(b"");
        self.authority.clear();
        self.host.clear();
        self.fields.clear();
        (self.method, self.version) = Default::default();
        (self.expects, self.websocket) = Default::default();
    }

    fn capacity(&self) -> usize {
        self.target.capacity() + self.fields.capacity()
    }
}

impl Head for Response {
    fn spares() -> &'static LocalKey<Spares<Self>> {
        &RESPONSES
    }

    fn clear(&mut self) {
        self.fields.clear();
        (self.status, self.version) = Default::default();
    }

    fn capacity(&self) -> usize {
        self.fields.capacity()
    }
}

/// An empty head.
pub(crate) fn take<T: Head>() -> Box<T> {
    T::spares().with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a head back, unless it has grown large or there are enough.
pub(crate) fn give<T: Head>(mut head: Box<T>) {
    T::spares().with_borrow_mut(|spares| {
        if spares.len() < SPARE && head.capacity() <= LARGE {
            head.clear();
            spares.push(head);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::head::Version;

    #[test]
    fn a_head_is_lent_empty_and_a_large_one_is_not_kept() {
        let mut request = take::<Request>();
        request.set_target(b"/secret?of=somebody");
        request.fields.push(b"authorization", b"x");
        (request.websocket, request.expects) = (true, true);
        request.host.push_str("a.example");
        request.authority.push_str("a.example:80");
        give(request);
        let again = take::<Request>();
        assert!(again.target.capacity() > 0, "the same buffers");
        assert_eq!(format!("{:?}", *again), format!("{:?}", Request::default()));
        let mut large = take::<Request>();
        large.set_target(&[b'a'; 16 << 10]);
        give(large);
        assert_eq!(take::<Request>().target.capacity(), 0);
        let mut response = take::<Response>();
        (response.status, response.version) = (200, Version::V2);
        response.fields.push(b"set-cookie", b"of=somebody");
        give(response);
        let again = take::<Response>();
        assert!(again.fields.capacity() > 0, "the same buffers");
        assert_eq!(format!("{:?}", *again), format!("{:?}", Response::default()));
    }
}
