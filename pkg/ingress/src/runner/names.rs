//! Names of ExternalName Services: the system's resolver is asked for them again and again, one question at a time for each.

use crate::external::{Forbidden, MOST_ADDRESSES, Resolved, judge};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use warren_netlink::Netlink;

/// How old an answer becomes before the name is asked for again.
const REFRESH: Duration = Duration::from_secs(30);
/// After how long a name that could not be resolved is asked for again, at first and at most; twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Questions at once. Each holds a thread for as long as the system's resolver takes.
const AT_ONCE: usize = 8;

/// The names that are wanted, and what is known of them.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeMap<String, Name>,
    asking: JoinSet<(String, Result<Answer, String>)>,
    /// This node's addresses, as they were when the last answer came.
    own: BTreeSet<IpAddr>,
}

struct Name {
    /// The last good answer.
    addresses: Option<Vec<IpAddr>>,
    /// Why there is none newer.
    error: Option<String>,
    failures: u32,
    /// When it is asked for; none while it is.
    due: Option<Instant>,
}

struct Answer {
    addresses: Vec<IpAddr>,
    own: BTreeSet<IpAddr>,
}

impl Names {
    /// These are wanted now, and no others.
    pub(super) fn want(&mut self, names: &BTreeSet<String>) {
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            if !self.known.contains_key(name) {
                let new = Name { addresses: None, error: None, failures: 0, due: Some(Instant::now()) };
                self.known.insert(name.clone(), new);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// This node's addresses.
    pub(super) fn own(&self) -> &BTreeSet<IpAddr> {
        &self.own
    }

    /// What may be asked of each name.
    pub(super) fn judged(&self, forbidden: Option<&Forbidden>) -> BTreeMap<String, Resolved> {
        let judged = self.known.iter().map(|(name, state)| {
            let resolved = judge(name, state.addresses.as_deref(), state.error.as_deref(), forbidden);
            (name.clone(), resolved)
        });
        judged.collect()
    }

    /// Asks for what is due, and returns when an answer has come. May be dropped and called again.
    pub(super) async fn next(&mut self) {
        loop {
            let now = Instant::now();
            let due = self.known.iter_mut().filter(|(_, state)| state.due.is_some_and(|due| due <= now));
            for (name, state) in due.take(AT_ONCE.saturating_sub(self.asking.len())) {
                state.due = None;
                let name = name.clone();
                self.asking.spawn(async move {
                    let answer = ask(&name).await;
                    (name, answer)
                });
            }
            let full = self.asking.len() >= AT_ONCE;
            let next = self.known.values().filter_map(|state| state.due).min().filter(|_| !full);
            tokio::select! {
                Some(done) = self.asking.join_next() => match done {
                    Ok((name, answer)) => return self.take(&name, answer),
                    Err(error) => tracing::error!(%error, "a question for a name broke off"),
                },
                () = super::at(next) => {}
            }
        }
    }

    fn take(&mut self, name: &str, answer: Result<Answer, String>) {
        // Nobody may want it any more.
        let Some(state) = self.known.get_mut(name) else { return };
        let after = match answer {
            Ok(Answer { addresses, own }) => {
                self.own = own;
                (state.addresses, state.error, state.failures) = (Some(addresses), None, 0);
                REFRESH
            }
            Err(error) => {
                tracing::debug!(name, %error, "a name cannot be resolved");
                state.error = Some(error);
                let times = state.failures.min(16);
                state.failures += 1;
                RETRY.0.saturating_mul(1 << times).min(RETRY.1)
            }
        };
        state.due = Some(Instant::now() + after);
    }
}

/// Asks the system's resolver, and the kernel for this node's addresses, without which an answer cannot be judged. The dot
/// says that no search path is to be walked.
async fn ask(name: &str) -> Result<Answer, String> {
    let found = tokio::net::lookup_host((format!("{name}."), 0)).await.map_err(|error| error.to_string())?;
    // Some of these are left out by who judges them.
    let addresses: Vec<IpAddr> = found.map(|a| a.ip().to_canonical()).take(4 * MOST_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err("it has no address".into());
    }
    let own = async { Netlink::current()?.list_addresses(None).await }.await;
    let own = own.map_err(|error| format!("this node's addresses cannot be listed: {error}"))?;
    Ok(Answer { addresses, own: own.into_iter().map(|(_, own)| own.addr()).collect() })
}
