//! Addresses of pods, from the node's podCIDRs.
//!
//! Job: give each attachment one free address per family and keep it for that attachment until it is released.
//! Inputs: podCIDRs, requests of cni, the boot time. Outputs: rows of the table `attachments`.
//! Owns: the tables `attachments` and `quarantine`.
//! Ordering: an address is reserved in memory, then its lease is brought to disk, then it is handed out; released the
//! other way round. What was released rests before it is given to another.

mod engine;
mod pool;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use warren_store::StoreError;
use warren_types::{Attachment, AttachmentKey, BootId, Family, HostPort};

pub use pool::{Pool, Quarantined};

/// How long an address rests after its release, unless set otherwise.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// Tells the time since boot, sleep included (`CLOCK_BOOTTIME`). Wall-clock time is not used.
pub type BootClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The kernel's boot clock.
#[must_use]
pub fn boot_clock() -> BootClock {
    Arc::new(|| {
        // The clock exists since Linux 2.6.39; without it nothing ever rests too short: time stands still.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    })
}

/// What a [`Pool`] needs to know beside its store.
#[derive(Clone)]
pub struct Settings {
    /// The kernel's boot id: attachments of other boots are released when the pool opens.
    pub boot_id: BootId,
    /// How long an address rests after its release.
    pub quarantine: Duration,
    /// The time since boot.
    pub clock: BootClock,
}

impl Settings {
    /// Defaults, on the kernel's clock.
    #[must_use]
    pub fn new(boot_id: BootId) -> Self {
        Self { boot_id, quarantine: QUARANTINE, clock: boot_clock() }
    }
}

impl From<BootId> for Settings {
    fn from(boot_id: BootId) -> Self {
        Self::new(boot_id)
    }
}

/// Why IPAM refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpamError {
    /// The node has no podCIDR (yet).
    #[error("this node has no podCIDR yet; it comes from Node.spec.podCIDRs")]
    NoPodCidr,
    /// Every address is in use or rests.
    #[error(
        "{prefix} has no free address: of {total}, {used} are leased, {quarantined} rest after a release, {held} are in use without a lease; remove pods, or give nodes larger podCIDRs"
    )]
    Exhausted {
        /// The podCIDR.
        prefix: IpNet,
        /// Addresses that pods can have.
        total: u128,
        /// Of these: leased.
        used: u128,
        /// Of these: in quarantine.
        quarantined: u128,
        /// Of these: in use by something without a lease.
        held: u128,
    },
    /// The attachment was added already, and answered.
    #[error("attachment {} already has {}; the runtime must delete it before it adds it again", .0.key, Addresses(&.0.addresses))]
    AlreadyLive(Box<Attachment>),
    /// An earlier ADD or DEL of this attachment did not finish; roll it back and release it, then ask again.
    #[error("attachment {} is left over from an unfinished {:?}; it must be rolled back first", .0.key, .0.phase)]
    Leftover(Box<Attachment>),
    /// Another request for this attachment is on its way.
    #[error("attachment {0} is busy with another request; try again when that is done")]
    Busy(AttachmentKey),
    /// There is no such attachment.
    #[error("attachment {0} has no lease")]
    NotFound(AttachmentKey),
    /// A requested address cannot be given.
    #[error("requested address {address}: {reason}")]
    Requested {
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// Another pod that is attached has a port of the node that was asked for.
    #[error("host port {port} is {holder}'s; it is free when that pod is deleted")]
    HostPortTaken {
        /// The port that was asked for.
        port: HostPort,
        /// The pod, or the attachment where no pod was named.
        holder: String,
    },
    /// The lease could not be brought to disk; nothing was leased.
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Addresses<'a>(&'a [IpAddr]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(" and "))
    }
}

/// How the addresses of one podCIDR are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixStatus {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The podCIDR.
    pub prefix: IpNet,
    /// Addresses that pods can have.
    pub total: u128,
    /// Of these: leased.
    pub used: u128,
    /// Of these: resting after a release.
    pub quarantined: u128,
    /// Of these: in use by something without a lease.
    pub held: u128,
    /// Of these: free now.
    pub free: u128,
}

/// What a pool says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// One per family that has a podCIDR, IPv4 first.
    pub prefixes: Vec<PrefixStatus>,
    /// Attachments with a lease.
    pub attachments: usize,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// Two attachments hold one address.
    Duplicate {
        /// The address.
        address: IpAddr,
        /// Its holders.
        keys: Vec<AttachmentKey>,
    },
    /// A lease outside of what pods can have, for example after the podCIDR changed.
    OutOfRange {
        /// The holder.
        key: AttachmentKey,
        /// The address.
        address: IpAddr,
    },
    /// A lease without an address, or with two of one family.
    Malformed {
        /// The holder.
        key: AttachmentKey,
    },
    /// Memory and disk disagree on an attachment.
    Disagreement {
        /// The attachment.
        key: AttachmentKey,
    },
    /// An address counts as leased, but no attachment holds it.
    Unowned {
        /// The address.
        address: IpAddr,
    },
    /// An address is in use on this node, but no attachment holds it.
    NoLease {
        /// The address.
        address: IpAddr,
    },
    /// An attachment of an earlier boot.
    OldBoot {
        /// The attachment.
        key: AttachmentKey,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Duplicate { address, keys } => {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                write!(f, "{address} is leased to several attachments: {}", keys.join(", "))
            }
            Finding::OutOfRange { key, address } => {
                write!(f, "{address} of attachment {key} is not in this node's podCIDRs")
            }
            Finding::Malformed { key } => write!(f, "attachment {key} does not have one address per family"),
            Finding::Disagreement { key } => write!(f, "attachment {key}: memory and store disagree"),
            Finding::Unowned { address } => {
                write!(f, "{address} counts as leased, but no attachment holds it")
            }
            Finding::NoLease { address } => write!(f, "{address} is in use on this node without a lease"),
            Finding::OldBoot { key } => write!(f, "attachment {key} is from before the last reboot"),
        }
    }
}
