//! What one agent of a cluster does and no other: the one that holds a Lease.
//!
//! Nobody holds it for good: it is taken when there is something to do, and runs out when there is nothing.

use crate::status_code;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use std::time::{Duration, Instant};
use warren_types::NodeName;

/// The namespace of the Leases.
const NAMESPACE: &str = "kube-system";
/// How long a Lease holds for others.
const HOLDS: Duration = Duration::from_secs(15);
/// How long who has it counts on it, from before it was asked for.
const COUNTS_ON: Duration = Duration::from_secs(10);

/// One agent's part in the election.
pub(crate) struct Election {
    lease: &'static str,
    own: NodeName,
    leases: Api<Lease>,
    /// The Lease as somebody else holds it, and since when it has not been renewed, by this machine's clock.
    other: Option<(Option<LeaseSpec>, Instant)>,
}

impl Election {
    /// By the Lease of this name.
    pub(crate) fn new(lease: &'static str, own: NodeName, client: kube::Client) -> Self {
        Self { lease, own, leases: Api::namespaced(client, NAMESPACE), other: None }
    }

    /// What the status calls the Lease.
    pub(crate) fn object(&self) -> String {
        format!("Lease {NAMESPACE}/{}", self.lease)
    }

    /// Takes or renews the Lease; says until when it can be counted on, or none when it is another's.
    pub(crate) async fn elected(&mut self) -> Result<Option<Instant>, kube::Error> {
        let (asked, own) = (Instant::now(), self.own.to_string());
        let spec = |had: Option<&LeaseSpec>| {
            let now = Some(MicroTime(jiff::Timestamp::now()));
            let kept = had.filter(|h| h.holder_identity.as_ref() == Some(&own));
            LeaseSpec {
                holder_identity: Some(own.clone()),
                lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
                acquire_time: kept.and_then(|k| k.acquire_time.clone()).or_else(|| now.clone()),
                renew_time: now,
                lease_transitions: Some(
                    had.and_then(|h| h.lease_transitions).unwrap_or(0)
                        + i32::from(had.is_some() && kept.is_none()),
                ),
                ..LeaseSpec::default()
            }
        };
        let written = match self.leases.get_opt(self.lease).await? {
            None => {
                let metadata = ObjectMeta { name: Some(self.lease.into()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec(None)) };
                self.leases.create(&PostParams::default(), &lease).await
            }
            Some(mut lease) => {
                let holder =
                    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default();
                if !holder.is_empty() && holder != own && !self.expired(lease.spec.as_ref()) {
                    return Ok(None);
                }
                lease.spec = Some(spec(lease.spec.as_ref()));
                self.leases.replace(self.lease, &PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => {
                self.other = None;
                Ok(Some(asked + COUNTS_ON))
            }
            // Another agent was faster.
            Err(e) if status_code(&e) == Some(409) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether another's Lease has not been renewed for as long as it holds. Clocks of nodes differ: what counts is how
    /// long this one has seen it unchanged.
    fn expired(&mut self, spec: Option<&LeaseSpec>) -> bool {
        match &self.other {
            Some((seen, since)) if seen.as_ref() == spec => since.elapsed() > HOLDS,
            _ => {
                self.other = Some((spec.cloned(), Instant::now()));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_expires_when_it_was_seen_unchanged_for_long_enough() {
        let client = kube::Client::try_from(kube::Config::new("http://192.0.2.1".parse().unwrap())).unwrap();
        let mut a = Election::new("lease", NodeName::new("a").unwrap(), client);
        let spec = |second: i64| LeaseSpec {
            holder_identity: Some("b".into()),
            renew_time: Some(MicroTime(jiff::Timestamp::from_second(second).unwrap())),
            ..LeaseSpec::default()
        };
        assert!(!a.expired(Some(&spec(1))) && !a.expired(Some(&spec(1))));
        let long_ago = Instant::now().checked_sub(HOLDS * 2).unwrap();
        a.other = Some((Some(spec(1)), long_ago));
        assert!(a.expired(Some(&spec(1))));
        a.other = Some((Some(spec(1)), long_ago));
        assert!(!a.expired(Some(&spec(2))), "it was renewed");
    }
}
