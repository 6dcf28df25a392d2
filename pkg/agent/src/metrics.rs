//! Prometheus metrics, computed from a [`StatusReport`] when they are asked for.

mod dns;
mod families;
mod ingress;
mod policy;

pub use families::{FAMILIES, Kind, Metric};

use crate::services::ServicesReport;
use crate::status::StatusReport;
use families::*;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use warren_cni::stats::LATENCY_CLASSES;
use warren_types::HealthState;

type Labels = Vec<(&'static str, String)>;
type Family<M> = prometheus_client::metrics::family::Family<Labels, M>;

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point by definition")]
fn float(n: u64) -> f64 {
    n as f64
}

fn labels<const N: usize>(metric: &Metric, values: [&str; N]) -> Labels {
    debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
    metric.labels.iter().copied().zip(values.map(str::to_owned)).collect()
}

/// Registers a family of gauges; each value comes with those of its labels.
fn gauges<'a, const N: usize>(
    registry: &mut Registry,
    metric: Metric,
    values: impl IntoIterator<Item = ([&'a str; N], f64)>,
) {
    let family = Family::<Gauge<f64, AtomicU64>>::default();
    for (of, value) in values {
        family.get_or_create(&labels(&metric, of)).set(value);
    }
    registry.register(metric.name, metric.help, family);
}

fn counters<'a, const N: usize>(
    registry: &mut Registry,
    metric: Metric,
    values: impl IntoIterator<Item = ([&'a str; N], u64)>,
) {
    let family = Family::<Counter>::default();
    for (of, value) in values {
        family.get_or_create(&labels(&metric, of)).inc_by(value);
    }
    registry.register(metric.name, metric.help, family);
}

/// Registers a family of durations; `ends` are the upper ends of their classes, in microseconds.
fn timings<'a, const N: usize>(
    registry: &mut Registry,
    metric: Metric,
    ends: &'static [u64],
    values: impl IntoIterator<Item = ([&'a str; N], Timing)>,
) {
    let all = values.into_iter().map(|(of, timing)| (labels(&metric, of), timing)).collect();
    registry.register_collector(Box::new(Timings { metric, ends, all }));
}

/// The text that Prometheus reads (OpenMetrics).
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn text(report: &StatusReport) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let r = &mut registry;
    gauges(r, BUILD_INFO, [([report.version.as_str()], 1.0)]);
    gauges(r, UPTIME, [([], float(report.uptime_seconds))]);
    gauges(r, READY, [([], f64::from(u8::from(report.ready)))]);
    subsystems(r, report);
    gauges(r, API_CONNECTED, [([], f64::from(u8::from(report.source.connected)))]);
    gauges(r, API_LAST_CONTACT, report.source.last_contact_seconds.map(|s| ([], float(s))));
    gauges(r, REFUSED_OBJECTS, [([], float(report.source.refused.len() as u64))]);
    gauges(r, STORE_REVISION, [([], float(report.store.revision))]);
    gauges(r, STORE_ROWS, report.store.rows.iter().map(|(table, n)| ([table.as_str()], float(*n))));
    pools(r, report);
    tunnels(r, report);
    gauges(r, CNI_ATTACHMENTS, report.cni.attachments.iter().map(|(phase, n)| ([phase.as_str()], float(*n))));
    let calls = report.cni.calls.iter().map(|calls| {
        let timing = Timing { micros: calls.micros, classes: calls.classes.clone() };
        ([calls.verb.as_str(), calls.result.as_str()], timing)
    });
    timings(r, CNI_CALL, &LATENCY_CLASSES, calls);
    services(r, &report.services);
    if let Some(view) = &report.dns {
        dns::register(r, view);
    }
    if let Some(view) = &report.ingress {
        ingress::register(r, view);
    }
    if let Some(view) = &report.policy {
        policy::register(r, view);
    }
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

fn services(r: &mut Registry, report: &ServicesReport) {
    if let Some(proxy) = &report.proxy {
        gauges(r, PROXY_SERVICES, [([], float(proxy.services))]);
        let last = Duration::from_micros(proxy.last_change_micros).as_secs_f64();
        gauges(r, PROXY_LAST_CHANGE, (proxy.changes > 0).then_some(([], last)));
        for (metric, value) in [
            (PROXY_CHANGES, proxy.changes),
            (PROXY_COMPARISONS, proxy.comparisons),
            (PROXY_REPAIRS, proxy.repairs),
            (PROXY_FLOWS_ENDED, proxy.flows_ended),
        ] {
            counters(r, metric, [([], value)]);
        }
        // What kube-proxy calls by this name and means the same by, so that its dashboards and alarms work.
        let unserved = [("internal", proxy.no_local_internal), ("external", proxy.no_local_external)];
        gauges(r, KUBEPROXY_NO_LOCAL, unserved.map(|(policy, n)| ([policy], float(n))));
    }
    if let Some(balancer) = &report.load_balancer {
        let states = [
            ("held", &balancer.held),
            ("backup", &balancer.backed_up),
            ("listening", &balancer.listening),
            ("refused", &balancer.refused),
        ];
        gauges(r, LOADBALANCER_ADDRESSES, states.map(|(state, list)| ([state], float(list.len() as u64))));
        gauges(r, LOADBALANCER_WRITER, [([], f64::from(u8::from(balancer.writer)))]);
    }
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
        SUBSYSTEM_STATE,
        report.subsystems.iter().flat_map(|s| {
            states.map(|(state, word)| ([s.name.as_str(), word], f64::from(u8::from(s.state == state))))
        }),
    );
    counters(r, SUBSYSTEM_RESTARTS, report.subsystems.iter().map(|s| ([s.name.as_str()], s.restarts)));
}

fn pools(r: &mut Registry, report: &StatusReport) {
    gauges(
        r,
        IPAM_ADDRESSES,
        report.pools.iter().flat_map(|p| {
            [
                ("used", float(p.used)),
                ("quarantined", float(p.quarantined)),
                ("held", float(p.held)),
                ("free", p.free.parse().unwrap_or(f64::NAN)),
            ]
            .map(|(state, n)| ([p.prefix.as_str(), state], n))
        }),
    );
}

fn tunnels(r: &mut Registry, report: &StatusReport) {
    let peers = || report.nodes.iter().filter_map(|n| n.tunnel.as_ref().map(|t| ([n.name.as_str()], t)));
    gauges(r, PEERS, [([], float(peers().count() as u64))]);
    let handshakes = peers().filter_map(|(node, t)| t.handshake_seconds.map(|s| (node, float(s))));
    gauges(r, PEER_HANDSHAKE_AGE, handshakes);
    counters(r, TUNNEL_RECEIVED, peers().map(|(node, t)| (node, t.received_bytes)));
    counters(r, TUNNEL_SENT, peers().map(|(node, t)| (node, t.sent_bytes)));
}

/// Durations by class. The counts were made elsewhere, which the library's own histogram has no way in for.
#[derive(Debug)]
struct Timings {
    metric: Metric,
    /// Upper ends of the classes, in microseconds; beyond the last, everything.
    ends: &'static [u64],
    all: Vec<(Labels, Timing)>,
}

#[derive(Debug)]
struct Timing {
    /// Their sum.
    micros: u64,
    /// How many are in each class.
    classes: Vec<u64>,
}

impl Collector for Timings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Metric { name, help, .. } = self.metric;
        let mut family =
            encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let last = self.ends.iter().filter(|end| **end != u64::MAX).map(|end| seconds(*end));
        let ends: Vec<f64> = last.chain([f64::INFINITY]).collect();
        for (labels, timing) in &self.all {
            let buckets: Vec<(f64, u64)> = ends.iter().copied().zip(timing.classes.iter().copied()).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            // No exemplars, and so no labels of theirs.
            family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                seconds(timing.micros),
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{DnsCounts, DnsView, UpstreamView};
    use crate::ingress::IngressView;
    use crate::policy::PolicyView;
    use crate::services::{BalancerView, ProxyView};
    use crate::status::{CallsView, ClusterNodeView, CniView, PoolView, SubsystemView, TunnelView};
    use std::collections::BTreeMap;

    /// A node of which everything is known.
    fn full() -> StatusReport {
        let tunnel = TunnelView { handshake_seconds: Some(1), ..TunnelView::default() };
        let upstream = UpstreamView {
            address: "192.0.2.53".into(),
            replies: vec![("NOERROR".into(), 1)],
            ..UpstreamView::default()
        };
        let counts = DnsCounts {
            questions: vec![("udp".into(), "1".into(), "A".into(), 1)],
            answers: vec![("NOERROR".into(), 1)],
            others: vec![("limited".into(), 1)],
            ..DnsCounts::default()
        };
        let mut report = StatusReport {
            subsystems: vec![SubsystemView {
                name: "overlay".into(),
                state: HealthState::Ready,
                message: String::new(),
                since_seconds: 1,
                restarts: 0,
                last_failure: None,
            }],
            nodes: vec![ClusterNodeView { tunnel: Some(tunnel), ..ClusterNodeView::default() }],
            pools: vec![PoolView::default()],
            cni: CniView {
                attachments: [("live".into(), 1)].into(),
                calls: vec![CallsView {
                    verb: "ADD".into(),
                    result: "success".into(),
                    micros: 1,
                    classes: vec![1],
                }],
            },
            services: ServicesReport {
                proxy: Some(ProxyView { changes: 1, ..ProxyView::default() }),
                load_balancer: Some(BalancerView::default()),
            },
            dns: Some(DnsView { upstreams: vec![upstream], counts, ..DnsView::default() }),
            ingress: Some(IngressView {
                unlogged: Some(1),
                by_route: vec![("shop/web /".into(), [1; 5])],
                ..IngressView::default()
            }),
            policy: Some(PolicyView {
                loaded: true,
                changes: 1,
                denied: [("shop/deny".into(), 1)].into(),
                ..PolicyView::default()
            }),
            ..StatusReport::default()
        };
        report.source.last_contact_seconds = Some(1);
        report.store.rows.insert("pods".into(), 1);
        report
    }

    #[test]
    fn the_list_has_what_is_served_and_nothing_else() {
        let text = text(&full()).unwrap();
        let served: BTreeMap<&str, &str> =
            text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' ')).collect();
        let listed: BTreeMap<String, &str> = FAMILIES
            .iter()
            .map(|m| (m.shown().trim_end_matches("_total").to_owned(), m.kind.word()))
            .collect();
        let served: BTreeMap<String, &str> = served
            .into_iter()
            .map(|(name, kind)| (name.trim_end_matches("_total").to_owned(), kind))
            .collect();
        assert_eq!(served, listed);
        for metric in FAMILIES {
            let said: Vec<&str> = text.lines().filter(|l| l.starts_with(metric.shown().as_ref())).collect();
            assert!(!said.is_empty(), "{} has no value:\n{text}", metric.shown());
            let has_all = |l: &&str| metric.labels.iter().all(|label| l.contains(&format!("{label}=\"")));
            assert!(said.iter().all(has_all), "{said:?} lacks one of {:?}", metric.labels);
        }
    }

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
