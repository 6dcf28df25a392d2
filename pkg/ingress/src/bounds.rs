//! What a client or a backend may take: sizes, counts and times. Nothing is without a bound.

use std::time::Duration;

/// Bounds of the data path, the same for all routes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Bytes of the head of a request or an answer, and of trailers: 32 KiB.
    pub head_bytes: usize,
    /// Headers of a head: 100.
    pub head_fields: usize,
    /// From the first byte of a head to its last: 10 s.
    pub head: Duration,
    /// From a connection to the first byte of its first request: 10 s.
    pub first_byte: Duration,
    /// Between two requests of a connection: 75 s.
    pub idle: Duration,
    /// A TLS handshake, or a PROXY header: 10 s.
    pub handshake: Duration,
    /// Between two reads of a request's body, and between two writes of an answer: 60 s.
    pub body: Duration,
    /// How long the rest of a body is read after an answer was given without it: 2 s.
    pub linger: Duration,
    /// How much of it is read: 1 MiB.
    pub linger_bytes: usize,
    /// Connections at once: 20,000.
    pub connections: usize,
    /// Of these by one client, which is an IPv4 address or an IPv6 network of 64 bits: half of them. Proxies that are trusted may have all.
    pub client_connections: usize,
    /// Streams at once of one connection of HTTP/2: 128.
    pub streams: u32,
    /// Streams that one connection of HTTP/2 may reset in a minute of its life, beyond which it is ended: 200.
    pub resets: usize,
    /// Frames of one connection of HTTP/2 in 10 s that are neither of a request nor about its flow, as SETTINGS and PING are, beyond
    /// which it is ended: 1,000, and one for each 256 bytes that go either way.
    pub control_frames: usize,
    /// Idle connections that are kept for each endpoint, on each thread: 256. Fewer than are in use at once costs a new
    /// connection for every request beyond; what is not used for `pool_idle` is closed.
    pub pool: usize,
    /// How long a connection to an endpoint is kept unused: 60 s.
    pub pool_idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            head_bytes: 32 << 10,
            head_fields: 100,
            head: seconds(10),
            first_byte: seconds(10),
            idle: seconds(75),
            handshake: seconds(10),
            body: seconds(60),
            linger: seconds(2),
            linger_bytes: 1 << 20,
            connections: 20_000,
            client_connections: 10_000,
            streams: 128,
            resets: 200,
            control_frames: 1000,
            pool: 256,
            pool_idle: seconds(60),
        }
    }
}
