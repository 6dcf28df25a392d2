//! WebSockets on streams of HTTP/2 (RFC 8441): to a backend each is an upgrade of HTTP/1.1 (RFC 6455).

use crate::fields::Fields;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use ring::rand::{SecureRandom, SystemRandom};

/// What is asked for.
pub(crate) const PROTOCOL: &[u8] = b"websocket";
/// Where a backend is told a number, and where it shows that it has read it.
const KEY: &str = "sec-websocket-key";
const ACCEPT: &str = "sec-websocket-accept";
/// What everybody who knows the protocol puts behind the number (RFC 6455, 1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Puts a number of our own into a request; HTTP/2 has none. False when the system has no random numbers.
pub(crate) fn ask(fields: &mut Fields) -> bool {
    let mut number = [0; 16];
    let made = SystemRandom::new().fill(&mut number).is_ok();
    fields.set(KEY.as_bytes(), STANDARD.encode(number).as_bytes());
    made
}

/// Whether the answer to a request shows that the backend has understood it.
pub(crate) fn is_accepted(request: &Fields, answer: &Fields) -> bool {
    let Some(key) = request.get(KEY) else { return false };
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(MAGIC);
    let expected = STANDARD.encode(context.finish());
    answer.get("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL))
        && answer.get(ACCEPT) == Some(expected.as_bytes())
}

/// Takes away from an answer what HTTP/2 does not say.
pub(crate) fn strip(fields: &mut Fields) {
    fields.remove_hop_by_hop();
    fields.remove(|_, name| {
        name.eq_ignore_ascii_case(ACCEPT.as_bytes()) || name.eq_ignore_ascii_case(b"content-length")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_accepted_and_no_other_answer() {
        let mut request = Fields::default();
        assert!(ask(&mut request));
        let own = request.get(KEY).unwrap().to_vec();
        assert!(ask(&mut request));
        assert!(own.len() == 24 && request.get(KEY) != Some(&own), "a number for each");
        request.set(KEY.as_bytes(), b"dGhlIHNhbXBsZSBub25jZQ==");
        let answer = |protocol: &str, accept: &str| {
            let mut fields = Fields::default();
            fields.push(b"upgrade", protocol.as_bytes());
            fields.push(b"Sec-WebSocket-Accept", accept.as_bytes());
            fields
        };
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert!(is_accepted(&request, &answer("WebSocket", right)));
        for (protocol, accept) in [("websocket", "x"), ("other", right), ("websocket", "")] {
            assert!(!is_accepted(&request, &answer(protocol, accept)), "{protocol} {accept}");
        }
        assert!(!is_accepted(&request, &Fields::default()));
    }
}
