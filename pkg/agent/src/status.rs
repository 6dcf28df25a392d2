//! What `warren status` shows: the records that cross the admin socket, and how they read.

use crate::dns::DnsView;
use crate::ingress::IngressView;
use crate::policy::PolicyView;
use crate::services::ServicesReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use warren_source::SourceReport;
use warren_types::HealthState;

/// The whole state of an agent at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusReport {
    /// Version of the agent.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Whether pods can be attached now.
    pub ready: bool,
    /// This node.
    pub node: NodeView,
    /// Subsystems in start order.
    pub subsystems: Vec<SubsystemView>,
    /// The API.
    pub source: SourceReport,
    /// Every node of the cluster, with the tunnel to it.
    pub nodes: Vec<ClusterNodeView>,
    /// Pools of pod addresses.
    pub pools: Vec<PoolView>,
    /// The store.
    pub store: StoreView,
    /// Attachments and calls of the plugin.
    pub cni: CniView,
    /// Proxy and load balancer.
    pub services: ServicesReport,
    /// Cluster DNS; none when it is off, or does not serve yet.
    pub dns: Option<DnsView>,
    /// Network policies; none when they are left to somebody else.
    pub policy: Option<PolicyView>,
    /// Ingress; none when it is left to somebody else.
    #[serde(default)]
    pub ingress: Option<IngressView>,
}

/// What CNI did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CniView {
    /// Attachments by phase.
    pub attachments: BTreeMap<String, u64>,
    /// Calls since the agent started.
    pub calls: Vec<CallsView>,
}

/// Calls of one verb with one result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallsView {
    /// The verb.
    pub verb: String,
    /// `success` or `error`.
    pub result: String,
    /// Microseconds that all of them took.
    pub micros: u64,
    /// Calls by latency, in the classes of [`warren_cni::stats::LATENCY_CLASSES`].
    pub classes: Vec<u64>,
}

/// This node, as it presents itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Random identity.
    pub id: String,
    /// WireGuard public key.
    pub public_key: String,
    /// Own addresses.
    pub addresses: Vec<String>,
    /// podCIDRs; empty while none are known.
    pub pod_cidrs: Vec<String>,
    /// Which WireGuard is used.
    pub tunnel: String,
    /// The cluster's ranges of pods; empty while they are not known.
    pub cluster_cidrs: Vec<String>,
    /// The cluster's ranges of Services; empty while they are not known.
    pub service_cidrs: Vec<String>,
}

/// One subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubsystemView {
    /// Name.
    pub name: String,
    /// State.
    pub state: HealthState,
    /// What is wrong and what to do; empty when ready.
    pub message: String,
    /// Seconds since state or message changed.
    pub since_seconds: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Its last failure.
    pub last_failure: Option<FailureView>,
}

/// A failure of a subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureView {
    /// Seconds ago.
    pub seconds_ago: u64,
    /// What it was.
    pub reason: String,
}

/// A node of the cluster, and the tunnel to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNodeView {
    /// Name.
    pub name: String,
    /// Whether this is the node itself.
    pub own: bool,
    /// Whether the API says Ready.
    pub ready: bool,
    /// InternalIP addresses.
    pub addresses: Vec<String>,
    /// podCIDRs.
    pub pod_cidrs: Vec<String>,
    /// Random identity; empty while the node has published none.
    pub id: String,
    /// WireGuard public key; empty while the node has published none.
    pub public_key: String,
    /// The tunnel; none for the node itself and for nodes without a key.
    pub tunnel: Option<TunnelView>,
}

/// A tunnel to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelView {
    /// Where the other side is reached; none before it is known.
    pub endpoint: Option<String>,
    /// Seconds since the last handshake; none before the first.
    pub handshake_seconds: Option<u64>,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// What is wrong with it; empty when nothing is.
    pub note: String,
}

/// One pool of pod addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolView {
    /// The podCIDR.
    pub prefix: String,
    /// Addresses that can be given to pods, as text: an IPv6 pool has more than JSON numbers can hold.
    pub total: String,
    /// Held by pods.
    pub used: u64,
    /// Freed a short while ago.
    pub quarantined: u64,
    /// In use on this node without a lease.
    pub held: u64,
    /// Free, as text.
    pub free: String,
}

/// The store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreView {
    /// Its directory.
    pub path: String,
    /// Revision of the last write.
    pub revision: u64,
    /// Rows by table.
    pub rows: std::collections::BTreeMap<String, u64>,
    /// Tables that have completed a first load.
    pub loaded: Vec<String>,
    /// What had to be set aside at start; empty when nothing had.
    pub set_aside: String,
}

/// Seconds as a person says them: `4s`, `3m12s`, `5h02m`, `3d04h`.
#[must_use]
pub fn age(seconds: u64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{m}m{:02}s", seconds % 60),
        3600..86400 => format!("{h}h{:02}m", m % 60),
        _ => format!("{d}d{:02}h", h % 24),
    }
}

/// Bytes as a person says them.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut tenths = u128::from(n) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Colours of a terminal, or none.
#[derive(Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn state(self, state: HealthState) -> (String, String) {
        let (code, word) = match state {
            HealthState::Ready => ("32", "ready"),
            HealthState::Starting => ("36", "starting"),
            HealthState::Degraded => ("33", "degraded"),
            HealthState::Failed => ("31", "failed"),
        };
        (code.into(), word.into())
    }
}

/// A cell: its text, and its colour when it has one.
pub(crate) struct Cell(String, Option<String>);

impl Cell {
    pub(crate) fn coloured(text: String, code: Option<&str>) -> Self {
        Self(text, code.map(str::to_owned))
    }
}

impl From<String> for Cell {
    fn from(s: String) -> Self {
        Cell(s, None)
    }
}
impl From<&str> for Cell {
    fn from(s: &str) -> Self {
        Cell(s.to_owned(), None)
    }
}

/// Aligned columns under a header, two spaces between; the last column is not padded.
pub(crate) fn table(out: &mut String, paint: Paint, header: &[&str], rows: Vec<Vec<Cell>>) {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.0.chars().count());
        }
    }
    let head: Vec<Cell> = header.iter().map(|h| Cell((*h).to_owned(), Some("1".into()))).collect();
    for row in std::iter::once(head).chain(rows) {
        let mut line = String::new();
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if i > 0 {
                line.push_str("  ");
            }
            let shown = cell.1.as_ref().map_or_else(|| cell.0.clone(), |code| paint.wrap(code, &cell.0));
            line.push_str(&shown);
            if i + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', width - cell.0.chars().count()));
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

pub(crate) fn or_dash(list: &[String]) -> String {
    if list.is_empty() { "-".into() } else { list.join(",") }
}

/// The text of `warren status`.
#[must_use]
pub fn render(r: &StatusReport, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let word = if r.ready { paint.wrap("32", "ready") } else { paint.wrap("33", "not ready") };
    let _ = writeln!(
        out,
        "{}  {word}  up {}  warren {}  pid {}",
        paint.wrap("1", &format!("node {}", r.node.name)),
        age(r.uptime_seconds),
        r.version,
        r.pid
    );
    let _ = writeln!(
        out,
        "addresses {}  podCIDRs {}  tunnel {}",
        or_dash(&r.node.addresses),
        or_dash(&r.node.pod_cidrs),
        if r.node.tunnel.is_empty() { "-" } else { &r.node.tunnel }
    );
    api_line(&mut out, paint, &r.source);
    out.push('\n');
    subsystems(&mut out, paint, r);
    out.push('\n');
    nodes(&mut out, paint, r);
    if !r.pools.is_empty() {
        out.push('\n');
        out.push_str(&render_pools(&r.pools, colour));
    }
    out.push('\n');
    crate::services::lines(&mut out, paint, &r.services);
    crate::dns::lines(&mut out, paint, r.dns.as_ref());
    crate::policy::lines(&mut out, paint, r.policy.as_ref());
    crate::ingress::lines(&mut out, paint, r.ingress.as_ref());
    out.push('\n');
    let rows: Vec<String> = r.store.rows.iter().map(|(t, n)| format!("{t} {n}")).collect();
    let _ = writeln!(
        out,
        "{}  {}  revision {}  {}",
        paint.wrap("1", "STORE"),
        r.store.path,
        r.store.revision,
        rows.join("  ")
    );
    if !r.store.set_aside.is_empty() {
        let _ = writeln!(out, "{}  {}", paint.wrap("33", "set aside"), r.store.set_aside);
    }
    for refusal in &r.source.refused {
        let _ = writeln!(
            out,
            "{}  {} {}: {}: {}",
            paint.wrap("33", "refused"),
            refusal.kind,
            refusal.object,
            refusal.field,
            refusal.reason
        );
    }
    for (object, error) in &r.source.write_errors {
        let _ = writeln!(out, "{}  {object}: {error}", paint.wrap("33", "not written"));
    }
    out
}

fn api_line(out: &mut String, paint: Paint, s: &SourceReport) {
    let last = s
        .last_contact_seconds
        .map_or_else(|| "never heard".to_owned(), |t| format!("last heard {} ago", age(t)));
    if s.api.is_empty() {
        let _ = writeln!(out, "API {}", paint.wrap("33", "not joined yet"));
    } else if s.connected {
        let _ = writeln!(out, "API {}  connected for {}, {last}", s.api, age(s.since_seconds));
    } else {
        let away = paint.wrap("33", &format!("away for {}", age(s.since_seconds)));
        let _ = writeln!(out, "API {}  {away}, {last}; working from the store", s.api);
    }
}

fn subsystems(out: &mut String, paint: Paint, r: &StatusReport) {
    let rows = r
        .subsystems
        .iter()
        .map(|s| {
            let (code, word) = paint.state(s.state);
            let mut message = s.message.clone();
            if let Some(f) =
                s.last_failure.as_ref().filter(|_| s.restarts > 0 && s.state == HealthState::Ready)
            {
                message = format!("failed {} ago: {}", age(f.seconds_ago), f.reason);
            }
            vec![
                s.name.as_str().into(),
                Cell(word, Some(code)),
                age(s.since_seconds).into(),
                s.restarts.to_string().into(),
                message.into(),
            ]
        })
        .collect();
    table(out, paint, &["SUBSYSTEM", "STATE", "FOR", "RESTARTS", "MESSAGE"], rows);
}

fn nodes(out: &mut String, paint: Paint, r: &StatusReport) {
    let rows = r
        .nodes
        .iter()
        .map(|n| {
            let name = if n.own { format!("{} (this node)", n.name) } else { n.name.clone() };
            let ready = if n.ready {
                Cell("yes".into(), Some("32".into()))
            } else {
                Cell("no".into(), Some("33".into()))
            };
            let mut row: Vec<Cell> =
                vec![name.into(), ready, or_dash(&n.addresses).into(), or_dash(&n.pod_cidrs).into()];
            match &n.tunnel {
                None if n.own => row.extend(["-".into(), "-".into(), "-".into(), "-".into(), "".into()]),
                None => row.extend([
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "no tunnel: the node has published no key".into(),
                ]),
                Some(t) => row.extend([
                    t.endpoint.clone().unwrap_or_else(|| "-".into()).into(),
                    t.handshake_seconds.map_or_else(|| "never".into(), |s| format!("{} ago", age(s))).into(),
                    bytes(t.received_bytes).into(),
                    bytes(t.sent_bytes).into(),
                    t.note.clone().into(),
                ]),
            }
            row
        })
        .collect();
    table(
        out,
        paint,
        &["NODE", "READY", "ADDRESSES", "PODCIDRS", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "NOTE"],
        rows,
    );
}

/// The text of the pools.
#[must_use]
pub fn render_pools(pools: &[PoolView], colour: bool) -> String {
    let mut out = String::new();
    let rows = pools
        .iter()
        .map(|p| {
            vec![
                p.prefix.as_str().into(),
                p.used.to_string().into(),
                p.quarantined.to_string().into(),
                p.held.to_string().into(),
                p.free.as_str().into(),
                p.total.as_str().into(),
            ]
        })
        .collect();
    table(&mut out, Paint(colour), &["POOL", "USED", "QUARANTINED", "HELD", "FREE", "TOTAL"], rows);
    out
}

/// What `warren ipam status` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpamReport {
    /// The pools.
    pub pools: Vec<PoolView>,
    /// Every attachment.
    pub attachments: Vec<AttachmentView>,
}

/// One attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentView {
    /// Container id.
    pub container_id: String,
    /// Interface name in the container.
    pub if_name: String,
    /// The pod, when the runtime named one.
    pub pod: Option<String>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// `adding`, `live`, `deleting`.
    pub phase: String,
    /// Host side of the link.
    pub host_link: String,
}

/// What `warren ipam check` shows: one line a finding; none: all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckReport {
    /// The findings.
    pub findings: Vec<String>,
}

/// The text of `warren ipam status`.
#[must_use]
pub fn render_ipam(r: &IpamReport, colour: bool) -> String {
    let mut out = render_pools(&r.pools, colour);
    out.push('\n');
    let rows = r
        .attachments
        .iter()
        .map(|a| {
            vec![
                a.pod.clone().unwrap_or_else(|| "-".into()).into(),
                or_dash(&a.addresses).into(),
                a.phase.as_str().into(),
                a.if_name.as_str().into(),
                a.host_link.as_str().into(),
                a.container_id.as_str().into(),
            ]
        })
        .collect();
    table(
        &mut out,
        Paint(colour),
        &["POD", "ADDRESSES", "PHASE", "INTERFACE", "HOST LINK", "CONTAINER"],
        rows,
    );
    out
}

#[cfg(test)]
mod tests;
