//! Tickets by which clients of TLS go on where another connection of theirs ended.
//!
//! Who shows one is not shown a certificate again. So tickets live for hours, not longer, however little is asked; and they end
//! with any certificate that was shown: after a Secret was replaced or its host withdrawn everybody sees what holds now.

use crate::state::lock;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For how long a key seals tickets; for as long again it only opens them.
const LIFETIME: Duration = Duration::from_secs(6 * 60 * 60);

/// Seals and opens tickets by keys that only this process knows.
#[derive(Debug)]
pub(crate) struct Tickets(Mutex<Keys>);

#[derive(Debug)]
struct Keys {
    /// None when the system gave no random numbers: then there are no tickets until it does.
    current: Option<Key>,
    previous: Option<Key>,
}

#[derive(Debug)]
struct Key {
    sealer: Arc<dyn ProducesTickets>,
    since: Instant,
}

impl Key {
    fn new(now: Instant) -> Result<Self, rustls::Error> {
        Ok(Self { sealer: Ticketer::new()?, since: now })
    }

    fn is_younger(&self, age: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < age
    }
}

impl Keys {
    /// Takes a new key when the current one is old enough, and forgets the one before.
    fn roll(&mut self, now: Instant) {
        if self.current.as_ref().is_none_or(|key| !key.is_younger(LIFETIME, now)) {
            let new =
                Key::new(now).inspect_err(|error| tracing::warn!(%error, "no key for tickets of TLS")).ok();
            self.previous = std::mem::replace(&mut self.current, new).or(self.previous.take());
        }
        self.previous.take_if(|key| !key.is_younger(2 * LIFETIME, now));
    }

    fn encrypt(&mut self, message: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.roll(now);
        self.current.as_ref()?.sealer.encrypt(message)
    }

    fn decrypt(&mut self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.roll(now);
        // Each tells by a name in front of a ticket whether it is its own.
        [&self.current, &self.previous].into_iter().flatten().find_map(|key| key.sealer.decrypt(ticket))
    }
}

impl Tickets {
    pub(crate) fn new() -> Self {
        let mut keys = Keys { current: None, previous: None };
        keys.roll(Instant::now());
        Self(Mutex::new(keys))
    }

    /// Forgets keys in time also when nobody shows a ticket.
    pub(crate) fn tick(&self) {
        lock(&self.0).roll(Instant::now());
    }

    /// Opens none of the tickets that were sealed until now.
    pub(crate) fn renew(&self) {
        let mut keys = lock(&self.0);
        (keys.current, keys.previous) = (None, None);
        keys.roll(Instant::now());
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What every ticket can count on, in seconds.
    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, message: &[u8]) -> Option<Vec<u8>> {
        lock(&self.0).encrypt(message, Instant::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        lock(&self.0).decrypt(ticket, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_opened_for_the_life_of_its_key_and_as_long_again() {
        let begun = Instant::now();
        let mut keys = Keys { current: None, previous: None };
        let hours = |hours: u64| begun + Duration::from_secs(hours * 3600);
        let first = keys.encrypt(b"state", hours(0)).unwrap();
        assert_eq!(keys.decrypt(&first, hours(5)).unwrap(), b"state");
        let early = keys.encrypt(b"other", hours(5)).unwrap();
        assert_eq!(first[..16], early[..16], "one key");
        // The next key seals; the old one opens.
        let second = keys.encrypt(b"state", hours(7)).unwrap();
        assert_ne!(first[..16], second[..16], "another key");
        assert_eq!(keys.decrypt(&first, hours(11)).unwrap(), b"state");
        assert_eq!(keys.decrypt(&first, hours(12)), None);
        assert_eq!(keys.decrypt(&early, hours(12)), None);
        assert_eq!(keys.decrypt(&second, hours(14)).unwrap(), b"state");
    }

    #[test]
    fn an_old_ticket_is_not_opened_since_nobody_asked_meanwhile() {
        let begun = Instant::now();
        let mut keys = Keys { current: None, previous: None };
        let ticket = keys.encrypt(b"state", begun).unwrap();
        assert_eq!(keys.decrypt(&ticket, begun + 3 * LIFETIME), None);
    }

    #[test]
    fn renewed_keys_open_nothing_of_before() {
        let tickets = Tickets::new();
        let ticket = tickets.encrypt(b"state").unwrap();
        tickets.tick();
        assert_eq!(tickets.decrypt(&ticket).unwrap(), b"state");
        tickets.renew();
        assert_eq!(tickets.decrypt(&ticket), None);
        let ticket = tickets.encrypt(b"state").unwrap();
        assert_eq!(tickets.decrypt(&ticket).unwrap(), b"state");
        assert_eq!(tickets.decrypt(b"forged"), None);
    }
}
