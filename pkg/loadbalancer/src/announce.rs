//! Who answers for an address on the LAN: a state machine without I/O or clock.
//!
//! The holder of an address announces it to everyone every [`INTERVAL`]: a gratuitous ARP, or an unsolicited neighbour
//! advertisement. That keeps the switches' and hosts' tables right, and it is the heartbeat. For each address the nodes
//! have a rank, a hash of the address and their hardware address, so that addresses spread over the nodes. A node that can
//! serve an address listens first for [`LISTEN`]; whoever hears an announcement of a better rank is backup, and holder
//! after [`SILENCE`] without one. A holder that hears a worse rank announces at once, and that one falls silent. Nodes of a
//! better rank run out of patience a little sooner, so that mostly one alone steps forward.
//!
//! After a holder's death its addresses are taken over in at most [`SILENCE`] + [`SPREAD`] = 2.3 s. Three announcements in
//! a row may be lost without consequence.

pub mod frame;
#[cfg(test)]
mod tests;

use frame::{Frame, Heard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two announcements of an address.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// So long without an announcement of a better rank makes a holder.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How long a newcomer listens first. Shorter than [`SILENCE`], so that an agent that only restarts takes its own
/// addresses up again before others do.
pub const LISTEN: Duration = Duration::from_millis(1200);
/// The worst rank waits this much longer than the best.
pub const SPREAD: Duration = Duration::from_millis(300);
/// A holder answers announcements of worse ranks at most this often.
const DEFEND: Duration = Duration::from_millis(50);

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The rank of a node for an address; the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(u64, Mac);

impl Rank {
    /// The rank of the node with this hardware address. Every version of Warren must reckon the same.
    #[must_use]
    pub fn of(address: IpAddr, mac: Mac) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        // FNV-1a, and the finish of MurmurHash3, without which neighbours in the pool would have neighbouring hashes.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in octets.into_iter().chain(mac.0) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        Self(hash ^ (hash >> 33), mac)
    }

    /// The extra patience of this rank.
    fn spread(self) -> Duration {
        let part = u32::try_from(self.0 >> 32).unwrap_or(u32::MAX);
        SPREAD.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

/// What this node is to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It listens until then.
    Listening {
        /// The end of listening.
        until: Instant,
    },
    /// Another one answers.
    Backup {
        /// Its hardware address.
        holder: Mac,
        /// When it was heard last.
        heard: Instant,
    },
    /// It answers, and announces next then.
    Holder {
        /// The next announcement.
        next: Instant,
        /// The last announcement.
        last: Instant,
    },
}

/// One address.
#[derive(Debug, Clone, Copy)]
struct Entry {
    state: State,
    since: Instant,
    rank: Rank,
    /// The last announcement of a better rank, while listening.
    better: Option<(Mac, Instant)>,
}

impl Entry {
    /// When something is to be done, unless a frame comes first.
    fn due(&self) -> Instant {
        match self.state {
            State::Listening { until } => until,
            State::Backup { heard, .. } => heard + SILENCE + self.rank.spread(),
            State::Holder { next, .. } => next,
        }
    }
}

/// The announcer of one link, for the addresses that this node can serve.
#[derive(Debug)]
pub struct Announcer {
    mac: Mac,
    entries: BTreeMap<IpAddr, Entry>,
    /// The same in the order of [`Entry::due`]: there may be a thousand, and as many frames a second.
    due: BTreeSet<(Instant, IpAddr)>,
    outbox: VecDeque<Frame>,
    changes: u64,
}

impl Announcer {
    /// An announcer of the link with this hardware address, with no addresses yet.
    #[must_use]
    pub fn new(mac: Mac) -> Self {
        Self { mac, entries: BTreeMap::new(), due: BTreeSet::new(), outbox: VecDeque::new(), changes: 0 }
    }

    /// The addresses that this node can serve from now on. It falls silent at once for those that are missing.
    pub fn set(&mut self, now: Instant, wanted: &BTreeSet<IpAddr>) {
        self.changes += 1;
        self.entries.retain(|address, _| wanted.contains(address));
        for address in wanted {
            let rank = Rank::of(*address, self.mac);
            let until = now + LISTEN + rank.spread();
            let fresh = Entry { state: State::Listening { until }, since: now, rank, better: None };
            self.entries.entry(*address).or_insert(fresh);
        }
        self.due = self.entries.iter().map(|(address, entry)| (entry.due(), *address)).collect();
    }

    /// Takes in a frame that was heard.
    pub fn hear(&mut self, now: Instant, heard: &Heard) {
        match *heard {
            Heard::Announcement { address, mac } if mac != self.mac => self.announced(now, address, mac),
            Heard::Announcement { .. } => {}
            Heard::Question { address, asker } => {
                let holds =
                    matches!(self.entries.get(&address), Some(Entry { state: State::Holder { .. }, .. }));
                if holds && asker.map(|a| a.mac) != Some(self.mac) {
                    self.outbox.push_back(Frame::answer(address, self.mac, asker));
                }
            }
        }
    }

    fn announced(&mut self, now: Instant, address: IpAddr, mac: Mac) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        let better = Rank::of(address, mac) < entry.rank;
        self.due.remove(&(entry.due(), address));
        match &mut entry.state {
            State::Listening { .. } if better => entry.better = Some((mac, now)),
            State::Backup { holder, heard } if better => {
                self.changes += u64::from(*holder != mac);
                (*holder, *heard) = (mac, now);
            }
            State::Holder { .. } if better => {
                entry.state = State::Backup { holder: mac, heard: now };
                entry.since = now;
                self.changes += 1;
            }
            // The worse one is to hear who is here.
            State::Holder { next, last } if now >= *last + DEFEND => *next = now,
            _ => {}
        }
        self.due.insert((entry.due(), address));
        self.tick(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some((at, address)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            let better = match entry.state {
                State::Listening { .. } => entry.better.filter(|(_, heard)| now < *heard + SILENCE),
                _ => None,
            };
            if !matches!(entry.state, State::Holder { .. }) {
                entry.since = now;
                self.changes += 1;
            }
            match better {
                Some((holder, heard)) => entry.state = State::Backup { holder, heard },
                None => Self::announce(&mut self.outbox, now, address, entry),
            }
            self.due.insert((entry.due(), address));
        }
    }

    fn announce(outbox: &mut VecDeque<Frame>, now: Instant, address: IpAddr, entry: &mut Entry) {
        // The first gap is shorter by a part of its own, so that many addresses do not stay in step.
        let first = !matches!(entry.state, State::Holder { .. });
        let early =
            if first { INTERVAL.mul_f64((entry.rank.0 & 0xff) as f64 / 512.0) } else { Duration::ZERO };
        entry.state = State::Holder { next: now + INTERVAL - early, last: now };
        outbox.push_back(Frame::announcement(address, entry.rank.1));
    }

    /// When [`Announcer::tick`] has something to do next.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The next frame to send.
    pub fn take(&mut self) -> Option<Frame> {
        self.outbox.pop_front()
    }

    /// Grows with each change of what this node is to an address.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What this node is to each address, and since when.
    pub fn states(&self) -> impl Iterator<Item = (IpAddr, State, Instant)> {
        self.entries.iter().map(|(address, entry)| (*address, entry.state, entry.since))
    }
}
