//! A pod's search path, walked in its place.
//!
//! `resolv.conf` of a pod has a search path and `ndots:5`, so its resolver asks for `example.org.NS.svc.ZONE` before
//! it asks for `example.org`. When that first name does not exist, the walk tries the others in the client's own order and
//! answers with the first that exists, as a CNAME from the name that was asked for.
//!
//! A walk never says that a name does not exist which does: all it says besides a name that exists is that the one that
//! was asked for does not, which is true for whoever asked. The client then goes on by itself.
//!
//! `db.NS.svc.ZONE` may be the first step of a walk for `db`, or the second of one for `db.NS`, and so may `a.db.NS.svc.ZONE`
//! for a pod `a` of a Service `db`. A pod that asks for a Service of the cluster which is gone must not be sent to a
//! host of the same name elsewhere, so a walk starts only for names of two labels or more, and not for those of
//! something in a Service of the namespace. Others are left to the client; their steps in the cluster cost little.
//! What remains: a pod that asks for `a.db.NS`, naming its own namespace, while there is no Service `db` in it, is
//! answered with the outside name `a.db` if there is one.

use crate::answer::{Asked, complete};
use crate::answer::{Chain, Context, Outcome, Reply, conclude, fail};
use crate::wire::{Name, NameBuffer, Query, Rcode, Type};
use crate::zone::{Found, Zone};
use std::collections::VecDeque;
use warren_types::Namespace;

/// The search path that kubelet writes for a pod with `dnsPolicy: ClusterFirst`; `others` are the node's own domains.
/// Domains that would be too long are left out.
#[must_use]
pub fn pod_path(domain: &Name, namespace: &Namespace, others: &[Name]) -> Vec<Name> {
    let below =
        |labels: &[&str]| Name::from_labels(labels.iter().map(|l| l.as_bytes()).chain(domain.labels())).ok();
    let cluster = [below(&[namespace.as_str(), "svc"]), below(&["svc"]), below(&[])];
    cluster.into_iter().flatten().chain(others.iter().cloned()).collect()
}

/// A walk through a search path. It stands at a name that is someone else's.
#[derive(Debug)]
pub struct Walk {
    asked: Name,
    qtype: Type,
    /// The name it stands at, then those that come after it.
    left: VecDeque<Name>,
}

impl Walk {
    /// Starts a walk for a name that does not exist; nothing when it does not come from the first step of a walk of the
    /// client's own, or may be one of the namespace's Services.
    #[must_use]
    pub fn start(zone: &Zone, asked: &Name, qtype: Type, path: &[Name]) -> Option<Self> {
        let (first, others) = path.split_first()?;
        let short = asked.above(first).filter(|short| !short.is_empty())?;
        let mut rest = short;
        while let Some((&length, after)) = rest.split_first()
            && after.len() > usize::from(length)
        {
            rest = &after[usize::from(length)..];
        }
        let service = [rest, first.wire()].concat();
        if rest.len() == short.len() || zone.has_service(&NameBuffer::lower(&service)) {
            return None;
        }
        // A name that is too long for a domain is not asked for there.
        let below = |domain: &Name| Name::from_wire(&[short, domain.wire()].concat()).ok();
        let mut left: VecDeque<Name> = others.iter().filter_map(below).collect();
        left.extend(below(&Name::root()));
        Some(Self { asked: asked.clone(), qtype, left })
    }

    /// What is to be asked elsewhere.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked { name: self.left.front().cloned().unwrap_or_else(Name::root), qtype: self.qtype }
    }

    /// Goes on with what was replied to [`Walk::asked`], none when nothing was.
    pub fn next(
        mut self,
        context: Context<'_>,
        query: &Query<'_>,
        reply: Option<Reply<'_>>,
        out: &mut Vec<u8>,
    ) -> Outcome {
        match reply.map(|r| r.rcode) {
            Some(Rcode::NX_DOMAIN) => {
                self.left.pop_front();
            }
            Some(Rcode::NO_ERROR) => {
                let chain = Chain::new(vec![self.asked.clone(), self.asked().name], self.qtype);
                complete(context.settings, query, &chain, reply, context.transport, out);
                return Outcome::Answered;
            }
            // Whether the name exists is not known, so nothing after it may be said.
            _ => self.left.clear(),
        }
        self.go(context, query, out)
    }

    /// Goes to the next name that exists in the cluster, or is someone else's.
    pub(crate) fn go(mut self, context: Context<'_>, query: &Query<'_>, out: &mut Vec<u8>) -> Outcome {
        while let Some(name) = self.left.front() {
            let lower = NameBuffer::lower(name.wire());
            let lookup = context.zone.find(lower.wire(), context.settings.pods);
            match lookup.found {
                Found::Missing => {
                    self.left.pop_front();
                }
                Found::Outside => return Outcome::WalkSearch(self),
                Found::Unknown => break,
                _ => {
                    let chain = vec![self.asked.clone(), name.clone()];
                    return conclude(context, query, chain, lower, lookup, out);
                }
            }
        }
        self.plain(context, query, out)
    }

    /// Answers the question as if there were no walk.
    fn plain(&self, context: Context<'_>, query: &Query<'_>, out: &mut Vec<u8>) -> Outcome {
        let lower = NameBuffer::lower(self.asked.wire());
        let lookup = context.zone.find(lower.wire(), context.settings.pods);
        if matches!(lookup.found, Found::Outside) {
            // The domain was the cluster's when the walk began.
            return fail(context, query, Rcode::SERV_FAIL, out);
        }
        conclude(context, query, Vec::new(), lower, lookup, out)
    }
}

#[cfg(test)]
mod tests;
