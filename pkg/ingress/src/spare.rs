//! Heads of requests with their buffers, lent from one request to the next: a connection that waits for a request has none,
//! and one that has another finds its buffers large enough.

use crate::h1::head::Request;
use std::cell::RefCell;

/// How many unused heads a thread keeps.
const SPARE: usize = 64;

/// They are lent: an idle connection has room for a pointer.
type Spares = Vec<Box<Request>>;

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Vec::new()) };
}

/// An empty head.
pub(crate) fn take() -> Box<Request> {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes a head back, unless it has grown large or there are enough.
pub(crate) fn give(mut request: Box<Request>) {
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARE && request.is_small() {
            request.clear();
            spares.push(request);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_lent_empty_and_a_large_one_is_not_kept() {
        let mut request = take();
        request.set_target(b"/secret?of=somebody");
        request.fields.push(b"authorization", b"x");
        (request.websocket, request.expects) = (true, true);
        request.host.push_str("a.example");
        request.authority.push_str("a.example:80");
        give(request);
        let again = take();
        assert!(again.target.capacity() > 0, "the same buffers");
        assert_eq!(format!("{:?}", *again), format!("{:?}", Request::default()));
        let mut large = take();
        large.set_target(&[b'a'; 16 << 10]);
        give(large);
        assert_eq!(take().target.capacity(), 0);
    }
}
