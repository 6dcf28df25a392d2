//! Packets that were denied: which kinds, how many, and who denied them.
//!
//! The kernel itself remembers them, in sets that packets fill, each kind for a while and so many at most. Nothing has to
//! listen all the time, and a flood of them costs no more than its packets.

use crate::decide::{Flow, Judgement};
use crate::rules::{Direction, PolicyId};
use crate::ruleset::{CLOSED, DENIED_SETS};
use crate::status::PolicyStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use warren_netlink::NetlinkError;
use warren_netlink::nft::Nft;
use warren_types::PodKey;

/// Kinds that one look logs at most.
const LINES: usize = 5;

/// A kind of denied packets: what they have in common, and the class that denied them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// What they were.
    pub flow: Flow,
    /// Whose rules denied them.
    pub class: u32,
}

/// Denied packets of one kind, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// What they were.
    pub flow: Flow,
    /// The pod that sent them, where it is known.
    pub source: Option<PodKey>,
    /// The pod that they were for, where it is known.
    pub destination: Option<PodKey>,
    /// At which end.
    pub direction: Direction,
    /// The policies that isolate the pod there, as it is now; none: nothing is known of the pod.
    pub policies: Vec<PolicyId>,
    /// How many, since the kind was last forgotten.
    pub packets: u64,
}

/// What the kernel remembers now.
///
/// # Errors
/// When it cannot be read, above all when the rules are not there.
pub async fn read(nft: &Nft) -> Result<BTreeMap<Kind, u64>, NetlinkError> {
    let mut all = BTreeMap::new();
    for set in DENIED_SETS {
        let counts = nft.element_counts(set).await?;
        all.extend(counts.into_iter().filter_map(|(key, packets)| Some((kind(&key)?, packets))));
    }
    Ok(all)
}

/// A key of the sets: source, destination, protocol, port, class.
fn kind(key: &[u8]) -> Option<Kind> {
    let length = match key.len() {
        20 => 4,
        44 => 16,
        _ => return None,
    };
    let address = |at: usize| {
        let bytes = key.get(at..at + length)?;
        let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
    };
    let rest = key.get(2 * length..)?;
    Some(Kind {
        flow: Flow {
            source: address(0)?,
            destination: address(length)?,
            protocol: *rest.first()?,
            port: u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?),
        },
        class: u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?),
    })
}

/// What a kind means to people; none when its class is no more.
#[must_use]
pub fn explain(status: &PolicyStatus, kind: &Kind, packets: u64) -> Option<Denial> {
    status.look(|engine| {
        let class = engine.class(kind.class)?;
        let Judgement { source, destination, .. } = engine.decide(&kind.flow);
        let (direction, policies) = (class.direction, class.policies);
        Some(Denial { flow: kind.flow, source, destination, direction, policies, packets })
    })?
}

/// Counts denials, and writes new kinds into the log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    kinds: BTreeMap<Kind, u64>,
    classes: BTreeMap<u32, u64>,
}

impl Log {
    /// Looks at what is new.
    pub(crate) async fn look(&mut self, nft: &Nft, status: &PolicyStatus) -> Result<(), NetlinkError> {
        let key = |key: &[u8]| Some(u32::from_ne_bytes(key.try_into().ok()?));
        let counts = nft.element_counts(CLOSED).await?;
        let classes: BTreeMap<u32, u64> =
            counts.iter().filter_map(|(bytes, packets)| Some((key(bytes)?, *packets))).collect();
        for (class, packets) in &classes {
            let before = self.classes.get(class).filter(|before| *before <= packets).unwrap_or(&0);
            self.count(*class, packets - before, status);
        }
        self.classes = classes;
        let kinds = read(nft).await?;
        let new: Vec<_> = kinds.iter().filter(|(kind, _)| !self.kinds.contains_key(kind)).collect();
        for (kind, packets) in new.iter().take(LINES) {
            if let Some(denial) = explain(status, kind, **packets) {
                tracing::info!("denied: {denial}");
            }
        }
        if new.len() > LINES {
            tracing::info!(
                "denied: {} other kinds of packets; see `warren policy denials`",
                new.len() - LINES
            );
        }
        self.kinds = kinds;
        Ok(())
    }

    fn count(&self, class: u32, packets: u64, status: &PolicyStatus) {
        if packets == 0 {
            return;
        }
        let policies = status.look(|engine| engine.class(class).map(|class| class.policies)).flatten();
        status.count(|figures| {
            figures.denied_packets += packets;
            for policy in policies.into_iter().flatten() {
                *figures.denied.entry(policy).or_default() += packets;
            }
        });
    }
}

impl std::fmt::Display for Denial {
    /// `default/a -> default/b (10.42.0.7) TCP 80: ingress isolated by NetworkPolicy default/deny`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = |pod: &Option<PodKey>, address| match pod {
            Some(pod) => format!("{pod} ({address})"),
            None => format!("{address}"),
        };
        let Flow { source, destination, protocol, port } = self.flow;
        write!(f, "{} -> {} ", end(&self.source, source), end(&self.destination, destination))?;
        match warren_types::Protocol::from_number(protocol) {
            Some(protocol) => write!(f, "{protocol} {port}")?,
            None if matches!(protocol, 1 | 58) => f.write_str("ICMP")?,
            None => write!(f, "protocol {protocol}")?,
        }
        if self.policies.is_empty() {
            return write!(f, ": {} of a pod of which nothing is known", self.direction);
        }
        let policies: Vec<String> = self.policies.iter().map(ToString::to_string).collect();
        write!(f, ": {} isolated by {}", self.direction, policies.join(", "))
    }
}
