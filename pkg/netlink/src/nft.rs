//! nftables: the table `inet warren`, as a typed model, applied in atomic batches.
//!
//! Job: keep the base of the table as [`BaseRules`] say, and the pairs of link and address that pods may send from.
//! Inputs: ranges and ports; pod sources. Outputs: the kernel's table, read back; what its counters counted.
//! Owns: the table `inet warren`, everything in it. Other tables are read by [`Nft::list_all`] alone, and written by
//! [`replace_table`] alone, which is for namespaces of a lab.
//! Ordering: a call is one transaction, or a reading and one transaction that the kernel refuses when the ruleset
//! changed in between; then the call begins again. No packet meets a half-built table.
//!
//! Layers: `wire` (attributes and messages), `expr` and `model` (what a table is made of; the same types are
//! written and read back, so that what is wanted and what is there compare with `==`), `batch`, `socket`,
//! `reader`; `base` compiles and compares without I/O. Nothing newer than Linux 5.10 is used.
//!
//! The encoder is our own, on the socket of `netlink-sys`. The library that was tried, nlink 0.33, is as fast (one
//! element in 0.03 ms), but its `masquerade` has neither flags nor ports, link names are no field of its concatenated
//! keys, a list of elements over 64 KiB is refused instead of split, each list of elements that is read costs another
//! reading of all sets, and what it reads back is of other types than what it writes.

mod base;
mod batch;
pub mod build;
pub mod expr;
mod isolate;
pub mod model;
mod other;
mod plan;
mod ranges;
mod reader;
pub mod ruleset;
mod section;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
mod watch;
pub(crate) mod wire;

pub use base::{BaseRules, address_ranges, masquerade_rules};
pub use isolate::Isolation;
pub use other::replace_table;
pub use section::{Change, Section};

use crate::{NetNs, NetlinkError};
use batch::Batch;
use model::Element;
use nix::libc;
use ranges::Family;
use socket::{Connection, Failure};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The one table.
const TABLE: &str = "warren";
const TABLE_NAME: &str = "nftables table inet warren";
const POD_SOURCES_V4: &str = "pod_src4";
const POD_SOURCES_V6: &str = "pod_src6";
const SPOOFED: &str = "spoofed";
const DISCOVERY: &str = "discovery";
const CLEAR_IN: &str = "clear_in";
const CLEAR_OUT: &str = "clear_out";
/// For so long what others' changes to the ruleset overtake is begun again. A storm of changes, as another program's start
/// is, ends sooner; a number of attempts would say nothing, since how many commits meet a reading is up to the processors.
const PATIENCE: Duration = Duration::from_secs(10);

/// A handle on `inet warren` of one network namespace. Clones share the socket; calls wait for one another.
#[derive(Clone)]
pub struct Nft(Arc<Shared>);

/// Sockets of this process, so that [`Nft::changes`] of one handle knows pods' sources that another moves.
static OWN_SOCKETS: Mutex<BTreeSet<Socket>> = Mutex::new(BTreeSet::new());

/// A socket: the identity of its network namespace, and its number in the kernel's messages.
type Socket = (Option<(u64, u64)>, u32);

struct Shared {
    connection: Arc<tokio::sync::Mutex<Connection>>,
    own: Socket,
    namespace: NetNs,
    /// Readers of [`Nft::changes`]; dropping the set ends them.
    watchers: Mutex<JoinSet<()>>,
}

/// What [`Nft::ensure_base`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Nothing: the kernel had it all.
    Unchanged,
    /// There was no table; now there is.
    Created,
    /// Some sets or chains have new contents.
    Updated,
    /// Somebody had changed the table's shape; it was made anew, with the pod sources it held.
    Rebuilt,
}

/// Packets dropped since the table was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops {
    /// From a pod, with a source address that it does not hold.
    pub spoofed: u64,
    /// Router and neighbour discovery from pods; some when each pod starts is normal.
    pub discovery: u64,
    /// To or from a pod's address, received in clear on a link that is not Warren's.
    pub clear_in: u64,
    /// To or from a pod's address, or to a Service's, about to leave in clear on such a link.
    pub clear_out: u64,
}

impl Nft {
    /// Opens a handle in the network namespace of the calling thread. Its calls need a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn current() -> Result<Self, NetlinkError> {
        Ok(Self::over(open()?, NetNs::current()?))
    }

    /// Opens a handle in `ns`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub async fn in_namespace(ns: &NetNs) -> Result<Self, NetlinkError> {
        Ok(Self::over(ns.run_async(open).await??, ns.try_clone()?))
    }

    fn over(connection: Connection, namespace: NetNs) -> Self {
        let own = (namespace.identity(), connection.port());
        own_sockets().insert(own);
        let connection = Arc::new(tokio::sync::Mutex::new(connection));
        Self(Arc::new(Shared { connection, own, namespace, watchers: Mutex::default() }))
    }

    /// Makes the base of the table what `rules` say: creates, repairs or leaves it, in one transaction. Pod sources
    /// stay.
    ///
    /// # Errors
    /// When the kernel refuses an operation, which the error names; then nothing has changed.
    pub async fn ensure_base(&self, rules: &BaseRules) -> Result<Applied, NetlinkError> {
        self.ensure_section(Section::Base, Arc::new(base::compile(rules))).await
    }

    /// Whether the kernel has the base of the table as `rules` say.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had.
    pub async fn base_matches(&self, rules: &BaseRules) -> Result<bool, NetlinkError> {
        self.section_matches(Section::Base, Arc::new(base::compile(rules))).await
    }

    /// Whether there is a table `inet warren`.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had.
    pub async fn table_exists(&self) -> Result<bool, NetlinkError> {
        self.run("read", |connection| {
            reader::table_exists(connection, TABLE).map_err(|f| f.named("read", TABLE_NAME, None))
        })
        .await
    }

    /// Removes the table with everything in it. Its absence is success.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_table(&self) -> Result<(), NetlinkError> {
        self.run("remove", |connection| {
            let mut batch = Batch::new(TABLE);
            batch.delete_table();
            match connection.commit(&batch, None) {
                Err(failure) if !failure.is_not_found() => Err(failure.named("remove", TABLE_NAME, None)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Lets pods send: each pair is the host end of a pod's link, and an address of the pod. All or none; a pair that is
    /// there already is success.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is no table, so nothing filters: [`Nft::ensure_base`] makes it.
    pub async fn add_pod_sources(&self, sources: &[(String, IpAddr)]) -> Result<(), NetlinkError> {
        const OP: &str = "add pod sources to";
        let elements = source_elements(OP, sources)?;
        self.run(OP, move |connection| {
            let mut batch = Batch::new(TABLE);
            for set in [POD_SOURCES_V4, POD_SOURCES_V6] {
                batch.add_elements(
                    set,
                    elements.iter().filter(|(s, _)| *s == set).map(|(_, element)| element),
                );
            }
            connection.commit(&batch, None).map_err(|failure| named(failure, OP, &batch))
        })
        .await
    }

    /// Takes pairs back. A pair that is not there is success, as is the absence of the table.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_pod_sources(&self, sources: &[(String, IpAddr)]) -> Result<(), NetlinkError> {
        const OP: &str = "remove pod sources from";
        let elements = source_elements(OP, sources)?;
        self.run(OP, move |connection| remove_elements(connection, elements, OP)).await
    }

    /// The pairs that may send.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] when there is no table.
    pub async fn list_pod_sources(&self) -> Result<Vec<(String, IpAddr)>, NetlinkError> {
        const OP: &str = "list pod sources of";
        self.run(OP, |connection| {
            let mut sources = Vec::new();
            for set in [POD_SOURCES_V4, POD_SOURCES_V6] {
                match unspoilt(|| reader::elements(connection, TABLE, set)) {
                    Ok(elements) => sources.extend(elements.iter().filter_map(|e| source_of(&e.key))),
                    Err(failure) => return Err(named(failure, OP, &Batch::new(TABLE))),
                }
            }
            Ok(sources)
        })
        .await
    }

    /// What was dropped since the table was made.
    ///
    /// # Errors
    /// When the kernel's answer cannot be had. Without a table all are zero.
    pub async fn drops(&self) -> Result<Drops, NetlinkError> {
        self.run("count drops of", |connection| {
            let counters = unspoilt(|| reader::counters(connection, TABLE))
                .map_err(|failure| failure.named("count drops of", TABLE_NAME, None))?;
            let packets = |name| counters.get(name).copied().unwrap_or_default().packets;
            Ok(Drops {
                spoofed: packets(SPOOFED),
                discovery: packets(DISCOVERY),
                clear_in: packets(CLEAR_IN),
                clear_out: packets(CLEAR_OUT),
            })
        })
        .await
    }

    /// Packets with addresses of pods that the guard kept from entering or leaving in clear.
    ///
    /// # Errors
    /// As [`Nft::drops`].
    pub async fn guard_drops(&self) -> Result<u64, NetlinkError> {
        self.drops().await.map(|drops| drops.clear_in + drops.clear_out)
    }

    /// Runs one call on a thread for blocking work: the kernel may have to wait for another program's transaction.
    /// Once begun it ends, also when the caller has gone.
    async fn run<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&mut Connection) -> Result<T, NetlinkError> + Send + 'static,
    ) -> Result<T, NetlinkError> {
        let mut connection = Arc::clone(&self.0.connection).lock_owned().await;
        let lost = |e| NetlinkError::Protocol { op, reason: format!("the request was lost: {e}") };
        tokio::task::spawn_blocking(move || call(&mut connection)).await.map_err(lost)?
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        own_sockets().remove(&self.own);
    }
}

/// Attempts at a reading or a transaction: one, and more until [`PATIENCE`] ends. The processor is offered to others before
/// each.
fn attempts() -> impl Iterator<Item = ()> {
    let begin = Instant::now();
    let more =
        std::iter::repeat_with(std::thread::yield_now).take_while(move |()| begin.elapsed() < PATIENCE);
    std::iter::once(()).chain(more)
}

/// Begins a reading again as long as changes come into it. Calls of [`Nft`] do so, once each; what they are made of does not.
fn unspoilt<T>(mut reading: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for () in attempts() {
        match reading() {
            Err(Failure::Stale) => {}
            outcome => return outcome,
        }
    }
    Err(Failure::Stale)
}

fn own_sockets() -> MutexGuard<'static, BTreeSet<Socket>> {
    OWN_SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft").field("namespace", &self.0.namespace.identity()).finish_non_exhaustive()
    }
}

fn open() -> Result<Connection, NetlinkError> {
    let object = "nftables netlink socket";
    Connection::open().map_err(|source| NetlinkError::Kernel { op: "open", object: object.into(), source })
}

/// A failure of a call that needs the table.
fn named(failure: Failure, op: &'static str, batch: &Batch) -> NetlinkError {
    if failure.is_not_found() {
        return NetlinkError::NotFound { op, object: TABLE_NAME.into() };
    }
    failure.named(op, TABLE_NAME, Some(batch))
}

fn remove_elements(
    connection: &mut Connection,
    mut elements: Vec<(&'static str, Element)>,
    op: &'static str,
) -> Result<(), NetlinkError> {
    while !elements.is_empty() {
        let mut batch = Batch::new(TABLE);
        for (set, element) in &elements {
            batch.delete_element(set, element);
        }
        match connection.commit(&batch, None) {
            Ok(()) => return Ok(()),
            // One that is missing stops the others; the kernel names all that are.
            Err(Failure::Refused(refusals)) if refusals.iter().all(|r| r.errno == libc::ENOENT) => {
                let missing: Vec<usize> = refusals.iter().filter_map(|r| r.operation).collect();
                if missing.is_empty() {
                    return Err(Failure::Refused(refusals).named(op, TABLE_NAME, Some(&batch)));
                }
                let mut index = 0..;
                elements.retain(|_| !index.next().is_some_and(|i| missing.contains(&i)));
            }
            Err(failure) => return Err(failure.named(op, TABLE_NAME, Some(&batch))),
        }
    }
    Ok(())
}

/// The sets and elements of pod sources.
fn source_elements(
    op: &'static str,
    sources: &[(String, IpAddr)],
) -> Result<Vec<(&'static str, Element)>, NetlinkError> {
    sources
        .iter()
        .map(|(link, address)| {
            if link.is_empty() || link.len() >= model::LINK_NAME || link.contains('\0') {
                return Err(NetlinkError::Kernel {
                    op,
                    object: format!("{TABLE_NAME}: link {link:?}"),
                    source: io::Error::new(io::ErrorKind::InvalidInput, "not a link name of 1 to 15 bytes"),
                });
            }
            let mut key = link_key(link);
            let set = match address {
                IpAddr::V4(v4) => {
                    key.extend(v4.octets());
                    POD_SOURCES_V4
                }
                IpAddr::V6(v6) => {
                    key.extend(v6.octets());
                    POD_SOURCES_V6
                }
            };
            Ok((set, Element::exact(key)))
        })
        .collect()
}

/// A link's name as keys and registers hold it.
fn link_key(link: &str) -> Vec<u8> {
    let mut key = link.as_bytes().to_vec();
    key.resize(model::LINK_NAME, 0);
    key
}

/// The inverse of [`source_elements`].
fn source_of(key: &[u8]) -> Option<(String, IpAddr)> {
    let (link, address) = key.split_at_checked(model::LINK_NAME)?;
    let address = match address.len() {
        n if n == Family::V4.bytes() => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    Some((wire::as_text(link), address))
}
