//! Expectations: what a connection meets, now and a moment later.

use super::Battery;
use crate::{eventually, patient};
use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long the data plane may take for a change, from the API to a connection.
const SETTLED: Duration = Duration::from_secs(3);
/// A rejection that takes longer is a silence.
const AT_ONCE: u64 = 500;

/// How to ask; the fields are the options of `whoami ask`.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Where: a pod, a node, `outside`.
    pub from: String,
    /// Whom.
    pub target: SocketAddr,
    /// By UDP.
    pub udp: bool,
    /// How often; 0: until told to finish.
    pub count: u64,
    /// How long an attempt may take, in milliseconds.
    pub timeout: u64,
    /// Between two attempts, in milliseconds.
    pub gap: u64,
    /// So many a second, whatever answers take, while fewer than `threads` are waited for; 0: by `gap`.
    pub rate: u64,
    /// From this address.
    pub source: Option<IpAddr>,
    /// From this port.
    pub source_port: u16,
    /// All over one connection.
    pub keep: bool,
    /// Over HTTP, for this host.
    pub http: Option<String>,
    /// At a time.
    pub threads: u64,
    /// End at the first that is no answer.
    pub fail_fast: bool,
    /// Tell only what was no answer, and the counts.
    pub summary: bool,
}

impl Ask {
    /// One question by TCP.
    #[must_use]
    pub fn tcp(from: &str, target: SocketAddr) -> Self {
        Self {
            from: from.to_owned(),
            target,
            udp: false,
            count: 1,
            timeout: 1000,
            gap: 0,
            rate: 0,
            source: None,
            source_port: 0,
            keep: false,
            http: None,
            threads: 1,
            fail_fast: false,
            summary: false,
        }
    }

    /// One question by UDP.
    #[must_use]
    pub fn udp(from: &str, target: SocketAddr) -> Self {
        Self { udp: true, ..Self::tcp(from, target) }
    }

    pub(super) fn words(&self, whoami: &str) -> Vec<String> {
        let timeout = patient(Duration::from_millis(self.timeout)).as_millis();
        let mut words = vec![whoami.to_owned(), "ask".into(), self.target.to_string()];
        let numbers = [
            ("--count", u128::from(self.count)),
            ("--timeout", timeout),
            ("--from-port", self.source_port.into()),
            ("--threads", self.threads.into()),
        ];
        words.extend(numbers.into_iter().flat_map(|(flag, n)| [flag.to_owned(), n.to_string()]));
        let (pace, number) = if self.rate > 0 { ("--rate", self.rate) } else { ("--gap", self.gap) };
        words.extend([pace.to_owned(), number.to_string()]);
        words.extend(self.http.iter().flat_map(|host| ["--http".to_owned(), host.clone()]));
        words.extend(self.source.iter().flat_map(|ip| ["--from".to_owned(), ip.to_string()]));
        let flags = [
            ("--udp", self.udp),
            ("--keep", self.keep),
            ("--fail-fast", self.fail_fast),
            ("--summary", self.summary),
        ];
        words.extend(flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag.to_owned()));
        words
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Deserialize)]
pub struct Got {
    /// `answer`, `refused`, `reset`, `unreachable`, `denied`, `timeout` or `error`.
    pub result: String,
    /// Who answered.
    #[serde(default)]
    pub server: String,
    /// As whom the server saw the client.
    pub client: Option<SocketAddr>,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the system said, when it is no answer.
    #[serde(default)]
    pub why: String,
}

impl Got {
    /// Whether it was rejected, and at once: by a reset, or by ICMP.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        let at_once = u128::from(self.ms) < patient(Duration::from_millis(AT_ONCE)).as_millis();
        at_once && matches!(self.result.as_str(), "refused" | "reset" | "denied")
    }
}

/// What connections are to meet.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// An answer by one of these, and by each of these in the end.
    By(&'a [&'a str]),
    /// An answer by any of these.
    ByOneOf(&'a [&'a str]),
    /// A rejection, at once.
    Refused,
    /// Nothing.
    Silence,
}

/// An expectation of connections from a place to an address.
#[derive(Clone)]
pub struct Expect<'a> {
    battery: &'a Battery,
    ask: Ask,
    seen: BTreeSet<IpAddr>,
    unseen: BTreeSet<IpAddr>,
    limit: Duration,
}

impl Battery {
    /// Expects something of connections by TCP.
    #[must_use]
    pub fn tcp(&self, from: &str, target: SocketAddr) -> Expect<'_> {
        self.expect(Ask::tcp(from, target))
    }

    /// Expects something of datagrams.
    #[must_use]
    pub fn udp(&self, from: &str, target: SocketAddr) -> Expect<'_> {
        self.expect(Ask::udp(from, target))
    }

    /// Expects something of these questions.
    #[must_use]
    pub fn expect(&self, ask: Ask) -> Expect<'_> {
        Expect { battery: self, ask, seen: BTreeSet::new(), unseen: BTreeSet::new(), limit: SETTLED }
    }
}

impl Expect<'_> {
    /// The server is to see one of the client's own addresses: nobody masqueraded.
    ///
    /// # Errors
    /// When the client's addresses cannot be had.
    pub fn seen_as_itself(self) -> Result<Self> {
        let own = self.battery.addresses(&self.ask.from)?;
        Ok(self.seen_as(own))
    }

    /// The server is to see one of these addresses.
    #[must_use]
    pub fn seen_as(mut self, seen: impl IntoIterator<Item = IpAddr>) -> Self {
        self.seen.extend(seen);
        self
    }

    /// The server is to see none of these addresses.
    #[must_use]
    pub fn not_seen_as(mut self, unseen: impl IntoIterator<Item = IpAddr>) -> Self {
        self.unseen.extend(unseen);
        self
    }

    /// It may take so long until it is so.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Each of `servers` answers in the end, and nobody else.
    ///
    /// # Errors
    /// When it is not so in time, or is not so any more then.
    pub fn reaches(self, servers: &[&str]) -> Result<Duration> {
        self.holds(Answer::By(servers))
    }

    /// Some of `servers` answer, and nobody else.
    ///
    /// # Errors
    /// As [`Expect::reaches`].
    pub fn reaches_one_of(self, servers: &[&str]) -> Result<Duration> {
        self.holds(Answer::ByOneOf(servers))
    }

    /// Connections are rejected, at once.
    ///
    /// # Errors
    /// As [`Expect::reaches`].
    pub fn is_refused(self) -> Result<Duration> {
        self.holds(Answer::Refused)
    }

    /// Nothing comes back.
    ///
    /// # Errors
    /// As [`Expect::reaches`].
    pub fn is_dropped(self) -> Result<Duration> {
        self.holds(Answer::Silence)
    }

    /// Waits until it is so, then asks again: it must be so still. Returns how long it took.
    ///
    /// # Errors
    /// As [`Expect::reaches`].
    pub fn holds(mut self, answer: Answer<'_>) -> Result<Duration> {
        let (first, again) = match answer {
            // With n servers, (1 - 1/n)^(20 n) is below one in 10^8: all are met.
            // Nor is a second one, which is to be there no more, missed by chance.
            Answer::By(servers) => (20 * servers.len() as u64, 10),
            Answer::ByOneOf(_) => (5, 10),
            Answer::Refused => (1, 2),
            Answer::Silence => (1, 1),
        };
        if self.ask.source_port != 0 || self.ask.keep {
            self.ask.gap = self.ask.gap.max(20);
        }
        self.ask.fail_fast = matches!(answer, Answer::By(_) | Answer::ByOneOf(_));
        let what =
            format!("{} {} -> {}", if self.ask.udp { "UDP" } else { "TCP" }, self.ask.from, self.ask.target);
        self.ask.count = first;
        let (_, took) = eventually(self.limit, || self.check(answer, true)).with_context(|| what.clone())?;
        self.ask.count = again;
        let again = match (answer, self.ask.udp) {
            (Answer::Refused, true) => self.is_refused_still(),
            _ => self.check(answer, false),
        };
        again.with_context(|| format!("{what}: it was so once, after {took:?}, and no more"))?;
        Ok(took)
    }

    /// The kernel sends a client six ICMP errors, then one a second: a silence tells nothing, an answer does.
    fn is_refused_still(&self) -> Result<()> {
        let told = eventually(Duration::from_secs(3), || {
            let got = self.battery.ask(&Ask { count: 1, timeout: 500, ..self.ask.clone() })?;
            if let Some(answer) = got.iter().find(|g| g.result == "answer") {
                return Ok(Err(anyhow!("an answer: {answer:?}")));
            }
            ensure!(got.iter().all(Got::is_rejection), "no rejection, or a late one: {got:?}");
            Ok(Ok(()))
        });
        told?.0
    }

    fn check(&self, answer: Answer<'_>, all: bool) -> Result<()> {
        let mut met = BTreeSet::new();
        let got = self.battery.ask(&self.ask)?;
        ensure!(!got.is_empty(), "nothing was asked");
        for got in &got {
            match answer {
                Answer::Refused => ensure!(got.is_rejection(), "no rejection, or a late one: {got:?}"),
                Answer::Silence => ensure!(got.result == "timeout", "not silence: {got:?}"),
                Answer::By(servers) | Answer::ByOneOf(servers) => {
                    ensure!(got.result == "answer", "no answer: {got:?}");
                    ensure!(servers.contains(&got.server.as_str()), "not one of {servers:?}: {got:?}");
                    let seen = got.client.context("a server that saw nobody")?.ip();
                    ensure!(
                        self.seen.is_empty() || self.seen.contains(&seen),
                        "seen as {seen}, not {:?}",
                        self.seen
                    );
                    ensure!(!self.unseen.contains(&seen), "seen as {seen}, which should be hidden");
                    met.insert(got.server.as_str());
                }
            }
        }
        if let (Answer::By(servers), true) = (answer, all) {
            ensure!(met.len() == servers.len(), "of {servers:?} only {met:?} answered");
        }
        Ok(())
    }
}
