//! Prometheus metrics, computed from a [`StatusReport`] when they are asked for.

mod dns;
mod ingress;
mod policy;

use crate::services::{ProxyView, ServicesReport};
use crate::status::{CallsView, StatusReport};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use warren_cni::stats::LATENCY_CLASSES;
use warren_types::HealthState;

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point by definition")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Registers a family of gauges with these values.
fn gauges(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
    let family = Gauges::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn counters(
    registry: &mut Registry,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, u64)>,
) {
    let family = Counters::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

/// The text that Prometheus reads (OpenMetrics).
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn text(report: &StatusReport) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("warren");
    let r = &mut registry;
    gauges(r, "build_info", "Version of the agent", [(vec![("version", report.version.clone())], 1.0)]);
    gauges(r, "uptime_seconds", "Seconds since the agent started", [(vec![], float(report.uptime_seconds))]);
    gauges(r, "ready", "Whether pods can be attached", [(vec![], f64::from(u8::from(report.ready)))]);
    subsystems(r, report);
    gauges(
        r,
        "api_connected",
        "Whether the API answers",
        [(vec![], f64::from(u8::from(report.source.connected)))],
    );
    gauges(
        r,
        "api_last_contact_seconds",
        "Seconds since the API last answered",
        report.source.last_contact_seconds.map(|s| (vec![], float(s))),
    );
    gauges(
        r,
        "refused_objects",
        "Fields of API objects that were refused",
        [(vec![], float(report.source.refused.len() as u64))],
    );
    gauges(
        r,
        "store_revision",
        "Revision of the last write to the store",
        [(vec![], float(report.store.revision))],
    );
    gauges(
        r,
        "store_rows",
        "Rows in a table of the store",
        report.store.rows.iter().map(|(t, n)| (vec![("table", t.clone())], float(*n))),
    );
    pools(r, report);
    tunnels(r, report);
    gauges(
        r,
        "cni_attachments",
        "Attachments of pods by phase",
        report.cni.attachments.iter().map(|(phase, n)| (vec![("phase", phase.clone())], float(*n))),
    );
    r.register_collector(Box::new(calls(&report.cni.calls)));
    services(r, &report.services);
    if let Some(view) = &report.dns {
        dns::own(r, view);
    }
    if let Some(view) = &report.ingress {
        ingress::own(r, view);
    }
    if let Some(view) = &report.policy {
        policy::own(r, view);
    }
    let mut out = String::new();
    encode_registry(&mut out, &registry)?;
    if let Some(proxy) = &report.services.proxy {
        encode_registry(&mut out, &known_names(proxy))?;
    }
    if let Some(view) = &report.dns {
        encode_registry(&mut out, &dns::registry(view))?;
    }
    encode_eof(&mut out)?;
    Ok(out)
}

fn services(r: &mut Registry, report: &ServicesReport) {
    if let Some(proxy) = &report.proxy {
        gauges(r, "proxy_services", "Services that are translated", [(vec![], float(proxy.services))]);
        let last = Duration::from_micros(proxy.last_change_micros).as_secs_f64();
        gauges(
            r,
            "proxy_last_change_seconds",
            "How long the last change took, from its row to the kernel's word",
            (proxy.changes > 0).then_some((vec![], last)),
        );
        for (name, help, value) in [
            ("proxy_changes", "Changes of Services brought to the kernel", proxy.changes),
            (
                "proxy_comparisons",
                "How often the kernel's rules of Services were compared",
                proxy.comparisons,
            ),
            ("proxy_repairs", "How often these rules had to be mended", proxy.repairs),
            ("proxy_udp_flows_ended", "UDP flows ended because they led nowhere", proxy.flows_ended),
        ] {
            counters(r, name, help, [(vec![], value)]);
        }
    }
    if let Some(balancer) = &report.load_balancer {
        let state =
            |word: &str, list: &[String]| (vec![("state", word.to_owned())], float(list.len() as u64));
        gauges(
            r,
            "loadbalancer_addresses",
            "Addresses of the pool by what this node is to them",
            [
                state("held", &balancer.held),
                state("backup", &balancer.backed_up),
                state("listening", &balancer.listening),
                state("refused", &balancer.refused),
            ],
        );
        gauges(
            r,
            "loadbalancer_writer",
            "Whether this node writes the addresses of Services",
            [(vec![], f64::from(u8::from(balancer.writer)))],
        );
    }
}

/// What kube-proxy calls by another name and means the same by, so that its dashboards and alarms work.
fn known_names(proxy: &ProxyView) -> Registry {
    let mut registry = Registry::with_prefix("kubeproxy_sync_proxy_rules");
    gauges(
        &mut registry,
        "no_local_endpoints_total",
        "Ports of Services with a Local traffic policy and no endpoint on this node",
        [
            (vec![("traffic_policy", "internal".to_owned())], float(proxy.no_local_internal)),
            (vec![("traffic_policy", "external".to_owned())], float(proxy.no_local_external)),
        ],
    );
    registry
}

fn subsystems(r: &mut Registry, report: &StatusReport) {
    let states = [
        (HealthState::Ready, "ready"),
        (HealthState::Starting, "starting"),
        (HealthState::Degraded, "degraded"),
        (HealthState::Failed, "failed"),
    ];
    gauges(
        r,
        "subsystem_state",
        "1 for the state a subsystem is in",
        report.subsystems.iter().flat_map(|s| {
            states.iter().map(move |(state, word)| {
                let labels = vec![("subsystem", s.name.clone()), ("state", (*word).to_owned())];
                (labels, f64::from(u8::from(s.state == *state)))
            })
        }),
    );
    counters(
        r,
        "subsystem_restarts",
        "How often a subsystem was started again",
        report.subsystems.iter().map(|s| (vec![("subsystem", s.name.clone())], s.restarts)),
    );
}

fn pools(r: &mut Registry, report: &StatusReport) {
    gauges(
        r,
        "ipam_addresses",
        "Addresses of a pool by state",
        report.pools.iter().flat_map(|p| {
            let state =
                |word: &str, n: f64| (vec![("prefix", p.prefix.clone()), ("state", word.to_owned())], n);
            [
                state("used", float(p.used)),
                state("quarantined", float(p.quarantined)),
                state("held", float(p.held)),
                state("free", p.free.parse().unwrap_or(f64::NAN)),
            ]
        }),
    );
}

fn tunnels(r: &mut Registry, report: &StatusReport) {
    let peers =
        || report.nodes.iter().filter_map(|n| n.tunnel.as_ref().map(|t| (vec![("node", n.name.clone())], t)));
    gauges(r, "peers", "Nodes with a tunnel", [(vec![], float(peers().count() as u64))]);
    gauges(
        r,
        "peer_handshake_age_seconds",
        "Seconds since the last handshake with a node",
        peers().filter_map(|(l, t)| t.handshake_seconds.map(|s| (l, float(s)))),
    );
    counters(
        r,
        "tunnel_received_bytes",
        "Bytes received from a node",
        peers().map(|(l, t)| (l, t.received_bytes)),
    );
    counters(r, "tunnel_sent_bytes", "Bytes sent to a node", peers().map(|(l, t)| (l, t.sent_bytes)));
}

/// Durations by class. The counts were made elsewhere, which the library's own histogram has no way in for.
#[derive(Debug)]
struct Timings {
    name: &'static str,
    help: &'static str,
    /// Upper ends of the classes, in microseconds; beyond the last, everything.
    ends: &'static [u64],
    all: Vec<Timing>,
}

#[derive(Debug)]
struct Timing {
    labels: Labels,
    /// Their sum.
    micros: u64,
    /// How many are in each class.
    classes: Vec<u64>,
}

impl Collector for Timings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family =
            encoder.encode_descriptor(self.name, self.help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let last = self.ends.iter().filter(|end| **end != u64::MAX).map(|end| seconds(*end));
        let ends: Vec<f64> = last.chain([f64::INFINITY]).collect();
        for timing in &self.all {
            let buckets: Vec<(f64, u64)> = ends.iter().copied().zip(timing.classes.iter().copied()).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            // No exemplars, and so no labels of theirs.
            family.encode_family(&timing.labels)?.encode_histogram::<NoLabelSet>(
                seconds(timing.micros),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Calls of the plugin.
fn calls(all: &[CallsView]) -> Timings {
    let timing = |calls: &CallsView| Timing {
        labels: vec![("verb", calls.verb.clone()), ("result", calls.result.clone())],
        micros: calls.micros,
        classes: calls.classes.clone(),
    };
    Timings {
        name: "cni_call",
        help: "How long the agent took to answer calls of the CNI plugin",
        ends: &LATENCY_CLASSES,
        all: all.iter().map(timing).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::BalancerView;
    use crate::status::{ClusterNodeView, CniView, PoolView, SubsystemView, TunnelView};

    #[test]
    fn the_metrics_name_what_they_measure() {
        let report = StatusReport {
            version: "1".into(),
            subsystems: vec![SubsystemView {
                name: "overlay".into(),
                state: HealthState::Ready,
                message: String::new(),
                since_seconds: 1,
                restarts: 3,
                last_failure: None,
            }],
            nodes: vec![ClusterNodeView {
                name: "b".into(),
                tunnel: Some(TunnelView {
                    handshake_seconds: Some(9),
                    received_bytes: 10,
                    ..TunnelView::default()
                }),
                ..ClusterNodeView::default()
            }],
            pools: vec![PoolView {
                prefix: "10.0.0.0/24".into(),
                free: "250".into(),
                used: 3,
                ..PoolView::default()
            }],
            cni: CniView {
                attachments: [("live".into(), 4)].into(),
                calls: vec![CallsView {
                    verb: "ADD".into(),
                    result: "success".into(),
                    micros: 7_000,
                    classes: [vec![0, 0, 2], vec![0; 11], vec![1]].concat(),
                }],
            },
            services: ServicesReport {
                proxy: Some(ProxyView {
                    services: 12,
                    changes: 2,
                    last_change_micros: 4_500,
                    repairs: 1,
                    no_local_external: 3,
                    ..ProxyView::default()
                }),
                load_balancer: Some(BalancerView {
                    held: vec!["192.0.2.1".into()],
                    ..BalancerView::default()
                }),
            },
            ..StatusReport::default()
        };
        let text = text(&report).unwrap();
        for line in [
            "warren_subsystem_state{subsystem=\"overlay\",state=\"ready\"} 1.0",
            "warren_subsystem_restarts_total{subsystem=\"overlay\"} 3",
            "warren_peer_handshake_age_seconds{node=\"b\"} 9.0",
            "warren_tunnel_received_bytes_total{node=\"b\"} 10",
            "warren_ipam_addresses{prefix=\"10.0.0.0/24\",state=\"free\"} 250.0",
            "warren_cni_attachments{phase=\"live\"} 4.0",
            "warren_proxy_services{} 12.0",
            "warren_proxy_changes_total{} 2",
            "warren_proxy_last_change_seconds{} 0.0045",
            "warren_proxy_repairs_total{} 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"} 3.0",
            "warren_loadbalancer_addresses{state=\"held\"} 1.0",
            "warren_cni_call_seconds_sum{verb=\"ADD\",result=\"success\"} 0.007",
            "warren_cni_call_seconds_count{verb=\"ADD\",result=\"success\"} 3",
            "warren_cni_call_seconds_bucket{le=\"0.002\",verb=\"ADD\",result=\"success\"} 0",
            "warren_cni_call_seconds_bucket{le=\"30.0\",verb=\"ADD\",result=\"success\"} 2",
            "warren_cni_call_seconds_bucket{le=\"+Inf\",verb=\"ADD\",result=\"success\"} 3",
        ] {
            assert!(text.contains(line), "{line} missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
