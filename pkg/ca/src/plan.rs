//! Which Secrets are to be written, by what there is.
//!
//! Pure. All Ingresses that want a private certificate and all Secrets of a namespace are to be known: a Secret of ours that
//! no Ingress wants is deleted.

use crate::authority::{Name, Root};
use crate::event::Told;
use crate::secret::{Found, Owner, good};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use warren_types::ingress::{ANNOTATION_CERTIFICATE, CERTIFICATE_PRIVATE, DEFAULT_CERTIFICATE};
use warren_types::{Fault, HostPattern, Ingress, SecretContent};

/// Most names of a certificate: it is sent in every handshake.
const MOST_NAMES: usize = 100;
/// Longest time between two looks: a clock that was set is noticed within it.
const LOOK: Duration = Duration::from_secs(3600);
/// Why somebody is told something.
const REFUSED: &str = "CertificateRefused";

/// An Ingress that wants a private certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    namespace: String,
    owner: Owner,
    /// `secretName` and `hosts` of `spec.tls`.
    tls: Vec<(String, Vec<String>)>,
}

impl Wish {
    /// Reads an Ingress; none when it wants none. Whether Warren serves it is for the caller to know.
    #[must_use]
    pub fn read(ingress: &Value) -> Option<Self> {
        let text = |pointer: &str| ingress.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let annotation = ingress.pointer("/metadata/annotations")?.get(ANNOTATION_CERTIFICATE)?.as_str()?;
        if annotation.trim() != CERTIFICATE_PRIVATE || !text("/metadata/deletionTimestamp").is_empty() {
            return None;
        }
        let entry = |tls: &Value| {
            let hosts = tls.get("hosts").and_then(Value::as_array).into_iter().flatten();
            let hosts = hosts.filter_map(Value::as_str).map(str::to_owned).collect();
            (tls.get("secretName").and_then(Value::as_str).unwrap_or_default().to_owned(), hosts)
        };
        let tls = ingress.pointer("/spec/tls").and_then(Value::as_array);
        Some(Self {
            namespace: text("/metadata/namespace").to_owned(),
            owner: Owner { name: text("/metadata/name").to_owned(), uid: text("/metadata/uid").to_owned() },
            tls: tls.into_iter().flatten().map(entry).collect(),
        })
    }

    /// That of a row; none when it wants none. What could not be read of its hosts is not in it.
    #[must_use]
    pub fn of(ingress: &Ingress) -> Option<Self> {
        let asks = ingress.options.get(ANNOTATION_CERTIFICATE)?.trim() == CERTIFICATE_PRIVATE;
        let tls = ingress.tls.iter().map(|tls| {
            let secret = tls.secret.as_ref().map(ToString::to_string).unwrap_or_default();
            (secret, tls.hosts.iter().map(ToString::to_string).collect())
        });
        asks.then(|| Self {
            namespace: ingress.key.namespace.to_string(),
            owner: Owner { name: ingress.key.name.to_string(), uid: ingress.uid.clone() },
            tls: tls.collect(),
        })
    }

    /// The Secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.tls.iter().map(|(secret, _)| secret.as_str()).filter(|name| !name.is_empty())
    }

    fn told(&self, message: String) -> Told {
        Told {
            namespace: self.namespace.clone(),
            ingress: self.owner.name.clone(),
            uid: self.owner.uid.clone(),
            fault: Fault { reason: REFUSED.into(), message },
        }
    }
}

/// What is to be done with a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It is made, or gets a new certificate.
    Issue {
        /// Its name.
        secret: String,
        /// What the certificate is for.
        names: BTreeSet<Name>,
        /// Whose it is.
        owners: BTreeSet<Owner>,
    },
    /// It gets other owners.
    Own {
        /// Its name.
        secret: String,
        /// Whose it is.
        owners: BTreeSet<Owner>,
    },
    /// It goes.
    Delete {
        /// Its name.
        secret: String,
    },
}

/// What is to be done in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// With Secrets.
    pub writes: Vec<Write>,
    /// What owners of Ingresses are to be told.
    pub told: BTreeSet<Told>,
    /// When to look again without a change.
    pub look: Option<Duration>,
}

impl Plan {
    fn look_in(&mut self, time: Duration) {
        self.look = Some(self.look.unwrap_or(LOOK).min(time));
    }

    /// Keeps one Secret; false when it is somebody else's.
    fn keep(
        &mut self,
        secret: &str,
        found: Option<&Found>,
        (names, owners): (BTreeSet<Name>, BTreeSet<Owner>),
        root: &Root,
        now: Timestamp,
    ) -> bool {
        let secret = secret.to_owned();
        if found.is_some_and(|found| found.ends) {
            return true;
        }
        if found.is_some_and(|found| !found.is_ours) {
            return false;
        }
        let good = found.and_then(|found| found.whole(root)).filter(|issued| issued.names == names);
        match good.and_then(|issued| issued.rests(root, now)) {
            None => {
                self.writes.push(Write::Issue { secret, names, owners });
                self.look_in(LOOK);
            }
            Some(left) => {
                self.look_in(left);
                if !found.is_some_and(|found| found.is_of(&owners)) {
                    self.writes.push(Write::Own { secret, owners });
                }
            }
        }
        true
    }
}

/// What the Ingresses of a namespace want of one Secret.
#[derive(Default)]
struct Wanted<'a> {
    names: BTreeSet<Name>,
    owners: BTreeSet<Owner>,
    wishes: Vec<&'a Wish>,
}

/// What is to be done in a namespace: with the Secrets that its Ingresses name, and those that were issued there.
#[must_use]
pub fn of_namespace(
    namespace: &str,
    wishes: &[Wish],
    secrets: &BTreeMap<String, Found>,
    root: &Root,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let mut wanted: BTreeMap<&str, Wanted<'_>> = BTreeMap::new();
    for wish in wishes {
        for (index, (secret, hosts)) in wish.tls.iter().enumerate() {
            let at = format!("spec.tls[{index}]");
            if secret.is_empty() {
                let why =
                    format!("{at} names no Secret; say by secretName where its certificate is to be kept");
                plan.told.insert(wish.told(why));
                continue;
            }
            let mut names = BTreeSet::new();
            for host in hosts {
                match HostPattern::new(host.as_str()) {
                    Ok(host) => drop(names.insert(Name::Host(host))),
                    Err(why) => drop(plan.told.insert(wish.told(format!("{at}: {why}")))),
                }
            }
            if names.is_empty() {
                let why =
                    format!("{at} has no hosts; list those that the certificate in Secret {secret} is for");
                plan.told.insert(wish.told(why));
            }
            // An entry that cannot be served keeps the Secret that it has.
            let of = wanted.entry(secret).or_default();
            of.names.extend(names);
            of.owners.insert(wish.owner.clone());
            of.wishes.push(wish);
        }
    }
    for (secret, of) in &wanted {
        let refused = if (namespace, *secret) == DEFAULT_CERTIFICATE {
            Some("is that of hosts that have none of their own; name another one in spec.tls".to_owned())
        } else if of.names.is_empty() {
            continue;
        } else if of.names.len() > MOST_NAMES {
            Some(format!(
                "would be for {} hosts, and one certificate takes {MOST_NAMES}; divide them among several",
                of.names.len()
            ))
        } else {
            let wanted = (of.names.clone(), of.owners.clone());
            let is_kept = plan.keep(secret, secrets.get(*secret), wanted, root, now);
            let why = "was not issued by Warren, or was changed since, and is left as it is; delete it, or name another one in spec.tls";
            (!is_kept).then(|| why.to_owned())
        };
        if let Some(why) = refused {
            plan.told
                .extend(of.wishes.iter().map(|wish| wish.told(format!("Secret {namespace}/{secret} {why}"))));
        }
    }
    let left = secrets.iter().filter(|(name, found)| {
        found.is_ours
            && !found.ends
            && !wanted.contains_key(name.as_str())
            && (namespace, name.as_str()) != DEFAULT_CERTIFICATE
    });
    plan.writes.extend(left.map(|(name, _)| Write::Delete { secret: name.clone() }));
    if !plan.told.is_empty() {
        plan.look_in(LOOK);
    }
    plan
}

/// The names of a node: its own, and its internal addresses.
#[must_use]
pub fn node_names(node: &Value) -> BTreeSet<Name> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let internal = addresses.filter(|a| a["type"] == "InternalIP");
    let ips = internal.filter_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok());
    let name = node.pointer("/metadata/name").and_then(Value::as_str).and_then(|n| HostPattern::new(n).ok());
    ips.map(Name::Address).chain(name.map(Name::Host)).collect()
}

/// What is to be done with the certificate of hosts that have none of their own. One that somebody else made stays.
#[must_use]
pub fn of_default(
    nodes: impl IntoIterator<Item = BTreeSet<Name>>,
    found: Option<&Found>,
    root: &Root,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let names = default_names(nodes);
    if !names.is_empty() {
        plan.keep(DEFAULT_CERTIFICATE.1, found, (names, BTreeSet::new()), root, now);
    }
    plan
}

fn default_names(nodes: impl IntoIterator<Item = BTreeSet<Name>>) -> BTreeSet<Name> {
    let mut names: BTreeSet<Name> = nodes.into_iter().flatten().collect();
    // Names of nodes are the first to be left out.
    while names.len() > MOST_NAMES {
        names.pop_first();
    }
    names
}

/// How long what the Ingresses of a namespace wish rests, by what its Secrets hold; none when there is something to issue, or to
/// refuse. It is a reason to look closer and no more: whether a Secret may be written, [`of_namespace`] knows.
pub fn rests<'a>(
    wishes: &[Wish],
    held: impl Fn(&str) -> Option<&'a SecretContent>,
    now: Timestamp,
) -> Option<Duration> {
    let mut wanted: BTreeMap<&str, BTreeSet<Name>> = BTreeMap::new();
    for (secret, hosts) in wishes.iter().flat_map(|wish| &wish.tls) {
        let of = wanted.entry(secret).or_default();
        for host in hosts {
            of.insert(Name::Host(HostPattern::new(host.as_str()).ok()?));
        }
    }
    let each = wanted.into_iter().map(|(secret, names)| good(held(secret)?, &names, now));
    each.collect::<Option<Vec<_>>>().map(|all| all.into_iter().fold(LOOK, Duration::min))
}

/// The same of the certificate of hosts that have none of their own.
pub fn default_rests(
    nodes: impl IntoIterator<Item = BTreeSet<Name>>,
    held: Option<&SecretContent>,
    now: Timestamp,
) -> Option<Duration> {
    let names = default_names(nodes);
    if names.is_empty() { Some(LOOK) } else { good(held?, &names, now) }
}

#[cfg(test)]
mod tests;
