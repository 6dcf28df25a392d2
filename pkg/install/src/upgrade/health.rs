//! Whether a node is as well as it was before: a comparison of what its agents say of themselves.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use warren_agent::status::StatusReport;
use warren_types::HealthState;

/// A handshake older than this is none: a tunnel in use makes one every two minutes (WireGuard, section 6.1).
const HANDSHAKE_SECONDS: u64 = 185;

/// What was well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// Process id of the agent.
    pub pid: u32,
    /// Whether pods could be attached.
    pub ready: bool,
    /// Subsystems that were ready.
    pub subsystems: BTreeSet<String>,
    /// Nodes with which there was a handshake.
    pub peers: BTreeSet<String>,
    /// Whether the API was reached.
    pub api: bool,
}

impl Health {
    /// What an agent's status tells.
    #[must_use]
    pub fn of(report: &StatusReport) -> Self {
        let shaken = |seconds: Option<u64>| seconds.is_some_and(|s| s < HANDSHAKE_SECONDS);
        Self {
            pid: report.pid,
            ready: report.ready,
            subsystems: report
                .subsystems
                .iter()
                .filter(|s| s.state == HealthState::Ready)
                .map(|s| s.name.clone())
                .collect(),
            peers: report
                .nodes
                .iter()
                .filter(|n| n.tunnel.as_ref().is_some_and(|t| shaken(t.handshake_seconds)))
                .map(|n| n.name.clone())
                .collect(),
            api: report.source.connected,
        }
    }

    /// What was well before and is not in `report`, a line each. The agent must be another process than before.
    #[must_use]
    pub fn missing(&self, report: &StatusReport) -> Vec<String> {
        let now = Self::of(report);
        let mut missing = Vec::new();
        if now.pid == self.pid {
            missing.push("the agent from before still answers".to_owned());
        }
        for name in self.subsystems.difference(&now.subsystems) {
            let told = report.subsystems.iter().find(|s| s.name == *name);
            let told = told.filter(|s| !s.message.is_empty()).map(|s| format!(": {}", s.message));
            missing.push(format!("{name} is not ready{}", told.unwrap_or_default()));
        }
        if self.ready && !now.ready && missing.is_empty() {
            missing.push("pods cannot be attached".to_owned());
        }
        missing
            .extend(self.peers.difference(&now.peers).map(|peer| format!("no handshake with node {peer}")));
        if self.api && !now.api {
            missing.push(format!("the API is not reached: {}", report.source.error));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_agent::status::{ClusterNodeView, SubsystemView, TunnelView};

    fn report(pid: u32) -> StatusReport {
        let subsystem = |name: &str, state| SubsystemView {
            name: name.into(),
            state,
            message: String::new(),
            since_seconds: 1,
            restarts: 0,
            last_failure: None,
        };
        let tunnel = |seconds| Some(TunnelView { handshake_seconds: seconds, ..Default::default() });
        let mut report = StatusReport { pid, ready: true, ..Default::default() };
        report.source.connected = true;
        report.subsystems =
            vec![subsystem("dns", HealthState::Ready), subsystem("ingress", HealthState::Failed)];
        report.nodes = vec![
            ClusterNodeView { name: "a".into(), tunnel: tunnel(Some(3)), ..Default::default() },
            ClusterNodeView { name: "b".into(), tunnel: tunnel(None), ..Default::default() },
            ClusterNodeView { name: "c".into(), tunnel: tunnel(Some(9_999)), ..Default::default() },
        ];
        report
    }

    #[test]
    fn only_what_was_well_is_asked_for() {
        let before = Health::of(&report(1));
        assert_eq!(before.missing(&report(2)), Vec::<String>::new());
        assert_eq!(before.missing(&report(1)).len(), 1, "it must be another process");
        let mut worse = report(2);
        worse.subsystems[0].state = HealthState::Starting;
        worse.subsystems[0].message = "no socket".into();
        worse.nodes[0].tunnel = None;
        worse.source.connected = false;
        let missing = before.missing(&worse);
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(
            missing[0].contains("dns is not ready: no socket") && missing[1].ends_with("node a"),
            "{missing:?}"
        );
        let mut unready = report(2);
        unready.ready = false;
        assert_eq!(before.missing(&unready), ["pods cannot be attached"]);
    }
}
