//! Starts `warren_policy`, or clears what it left when it is off.

use super::Shared;
use crate::supervisor::SubsystemError;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_cni::{BoxFuture, PodGate};
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::{Nft, Section};
use warren_policy::{Deps, Gate, GateError, PolicyConfig, Tables, Unknown};
use warren_types::{AttachmentKey, HealthCell, HealthState};

/// Keeps network policies in force.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let Some(unknown) = shared.config.policy else {
        let nft = Nft::current()?;
        if nft.table_exists().await? {
            // What an agent with another configuration left must not deny what somebody else allows.
            nft.ensure_section(Section::Policy, Arc::default()).await?;
        }
        health.set(HealthState::Ready, "off: network policies are left to somebody else");
        stop.cancelled().await;
        return Ok(());
    };
    let config = PolicyConfig {
        node_name: shared.config.node_name.clone(),
        unknown,
        labels_from_attachments: shared.config.register_node,
    };
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        nft: Nft::current()?,
        conntrack: Conntrack::current()?,
        gate: shared.gate.clone(),
        status: shared.policy.clone(),
    };
    Ok(warren_policy::run(config, deps, health, stop).await?)
}

/// The gate as cni asks for it.
pub(super) struct Adapter {
    gate: Gate,
    /// None when somebody else enforces policies.
    unknown: Option<Unknown>,
}

impl Adapter {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { gate: shared.gate.clone(), unknown: shared.config.policy }
    }
}

impl PodGate for Adapter {
    fn admit<'a>(&'a self, key: &'a AttachmentKey) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let Some(unknown) = self.unknown else { return Ok(()) };
            match self.gate.admit(key).await {
                Err(GateError::NotReady(_)) if unknown == Unknown::Open => Ok(()),
                answer => answer.map_err(|refusal| refusal.to_string()),
            }
        })
    }
}
