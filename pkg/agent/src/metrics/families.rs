//! Every family of metrics: name, type, labels and meaning, as `/metrics` has them and docs/reference/metrics.md shows them.

use std::borrow::Cow;

/// What the values of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A count since the agent started.
    Counter,
    /// Durations in seconds, by class.
    Histogram,
}

impl Kind {
    /// Its name in OpenMetrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// A family of metrics.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, without the ending that OpenMetrics gives to its type.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Metric {
    /// The name under which it is asked for. Of a histogram this is what `_bucket`, `_sum` and `_count` are appended to.
    #[must_use]
    pub fn shown(&self) -> Cow<'static, str> {
        match self.kind {
            Kind::Gauge => self.name.into(),
            Kind::Counter => format!("{}_total", self.name).into(),
            Kind::Histogram => format!("{}_seconds", self.name).into(),
        }
    }
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub const FAMILIES: &[Metric] = &[$($id),*];
    };
}

families! {
    BUILD_INFO: Gauge "warren_build_info" ["version"] "Version of the agent";
    UPTIME: Gauge "warren_uptime_seconds" [] "Seconds since the agent started";
    READY: Gauge "warren_ready" [] "Whether pods can be attached";
    SUBSYSTEM_STATE: Gauge "warren_subsystem_state" ["subsystem", "state"]
        "1 for the state a subsystem is in (ready, starting, degraded, failed), 0 for the others";
    SUBSYSTEM_RESTARTS: Counter "warren_subsystem_restarts" ["subsystem"] "How often a subsystem was started again";
    API_CONNECTED: Gauge "warren_api_connected" [] "Whether the API answers";
    API_LAST_CONTACT: Gauge "warren_api_last_contact_seconds" [] "Seconds since the API last answered";
    REFUSED_OBJECTS: Gauge "warren_refused_objects" [] "Fields of API objects that were refused";
    STORE_REVISION: Gauge "warren_store_revision" [] "Revision of the last write to the store";
    STORE_ROWS: Gauge "warren_store_rows" ["table"] "Rows in a table of the store";
    IPAM_ADDRESSES: Gauge "warren_ipam_addresses" ["prefix", "state"]
        "Addresses of a pool by state: used, quarantined, held, free";
    PEERS: Gauge "warren_peers" [] "Nodes with a tunnel";
    PEER_HANDSHAKE_AGE: Gauge "warren_peer_handshake_age_seconds" ["node"]
        "Seconds since the last handshake with a node";
    TUNNEL_RECEIVED: Counter "warren_tunnel_received_bytes" ["node"] "Bytes received from a node";
    TUNNEL_SENT: Counter "warren_tunnel_sent_bytes" ["node"] "Bytes sent to a node";
    CNI_ATTACHMENTS: Gauge "warren_cni_attachments" ["phase"] "Attachments of pods by phase";
    CNI_CALL: Histogram "warren_cni_call" ["verb", "result"]
        "How long the agent took to answer calls of the CNI plugin";

    PROXY_SERVICES: Gauge "warren_proxy_services" [] "Services that are translated";
    PROXY_LAST_CHANGE: Gauge "warren_proxy_last_change_seconds" []
        "How long the last change took, from its row to the kernel's word";
    PROXY_CHANGES: Counter "warren_proxy_changes" [] "Changes of Services brought to the kernel";
    PROXY_COMPARISONS: Counter "warren_proxy_comparisons" []
        "How often the kernel's rules of Services were compared";
    PROXY_REPAIRS: Counter "warren_proxy_repairs" [] "How often these rules had to be mended";
    PROXY_FLOWS_ENDED: Counter "warren_proxy_udp_flows_ended" [] "UDP flows ended because they led nowhere";
    LOADBALANCER_ADDRESSES: Gauge "warren_loadbalancer_addresses" ["state"]
        "Addresses of the pool by what this node is to them: held, backup, listening, refused";
    LOADBALANCER_WRITER: Gauge "warren_loadbalancer_writer" [] "Whether this node writes the addresses of Services";

    POLICY_POLICIES: Gauge "warren_policy_policies" [] "NetworkPolicies in force";
    POLICY_HELD: Gauge "warren_policy_held" [] "NetworkPolicies that outlive their objects";
    POLICY_REFUSED: Gauge "warren_policy_refused" []
        "NetworkPolicies that the kernel refuses, and that allow nothing";
    POLICY_ISOLATED: Gauge "warren_policy_isolated_pods" [] "Pods of this node that a NetworkPolicy isolates";
    POLICY_UNKNOWN: Gauge "warren_policy_unknown_pods" [] "Pods of this node of which nothing is known yet";
    POLICY_LAST_CHANGE: Gauge "warren_policy_last_change_seconds" []
        "How long the last change took, from its row to the kernel's word";
    POLICY_CHANGES: Counter "warren_policy_changes" [] "Changes of network policies brought to the kernel";
    POLICY_COMPARISONS: Counter "warren_policy_comparisons" []
        "How often the kernel's rules of network policies were compared";
    POLICY_REPAIRS: Counter "warren_policy_repairs" [] "How often these rules had to be mended";
    POLICY_FLOWS_ENDED: Counter "warren_policy_flows_ended" []
        "Connections ended because they were no longer allowed";
    POLICY_DENIED: Counter "warren_policy_denied_packets" [] "Packets denied to pods of this node";
    POLICY_DENIED_BY: Counter "warren_policy_denied_packets_by_policy" ["namespace", "policy"]
        "Packets denied to pods that a policy isolates; each counts for every such policy";

    INGRESS_INGRESSES: Gauge "warren_ingress_ingresses" [] "Ingresses that are served";
    INGRESS_FAULTY: Gauge "warren_ingress_faulty" [] "Ingresses that are served with something wrong";
    INGRESS_ROUTES: Gauge "warren_ingress_routes" [] "Routes of all Ingresses";
    INGRESS_CONNECTIONS: Gauge "warren_ingress_connections" [] "Connections of clients";
    INGRESS_MALFORMED: Counter "warren_ingress_malformed" [] "Requests refused as malformed or ambiguous";
    INGRESS_TURNED_AWAY: Counter "warren_ingress_turned_away" []
        "Connections turned away since there were too many";
    INGRESS_HANDSHAKES_FAILED: Counter "warren_ingress_handshakes_failed" []
        "TLS handshakes that came to nothing";
    INGRESS_UNLOGGED: Counter "warren_ingress_access_log_dropped" []
        "Lines of the access log that could not be written";
    INGRESS_ANSWERS: Counter "warren_ingress_answers" ["namespace", "ingress", "route", "code"]
        "Answers, by route and by hundred of their status";

    DNS_KNOWN: Gauge "warren_dns_known" [] "Whether the cluster's names are known";
    DNS_STALE: Gauge "warren_dns_stale" [] "Whether they are from an earlier life of the agent";
    DNS_UPSTREAM_UP: Gauge "warren_dns_upstream_up" ["to"] "Whether an upstream is asked";
    DNS_QUESTIONS: Counter "warren_dns_questions" ["way"]
        "Questions that went no usual way: unreadable, limited, dropped, forward_joined, overridden, offline";

    KUBEPROXY_NO_LOCAL: Gauge "kubeproxy_sync_proxy_rules_no_local_endpoints_total" ["traffic_policy"]
        "Ports of Services with a Local traffic policy, endpoints elsewhere, and none on this node";

    COREDNS_REQUESTS: Counter "coredns_dns_requests" ["server", "zone", "proto", "family", "type"]
        "Questions by protocol, family and type";
    COREDNS_RESPONSES: Counter "coredns_dns_responses" ["server", "zone", "rcode"] "Answers by code";
    COREDNS_DURATION: Histogram "coredns_dns_request_duration" ["server", "zone"] "How long answers took";
    COREDNS_CACHE_ENTRIES: Gauge "coredns_cache_entries" ["server"] "Answers of others that are kept";
    COREDNS_CACHE_HITS: Counter "coredns_cache_hits" ["server", "type"] "Answers of others that were kept";
    COREDNS_CACHE_MISSES: Counter "coredns_cache_misses" ["server"] "Questions that others were asked";
    COREDNS_CACHE_PREFETCH: Counter "coredns_cache_prefetch" ["server"]
        "Answers that were asked for again before their time";
    COREDNS_CACHE_STALE: Counter "coredns_cache_served_stale" ["server"] "Answers given beyond their time";
    COREDNS_REJECTS: Counter "coredns_forward_max_concurrent_rejects" ["server"]
        "Questions beyond those that may wait";
    COREDNS_BROKEN: Counter "coredns_forward_healthcheck_broken" ["server"]
        "Questions while no upstream was up";
    COREDNS_FORWARD_REQUESTS: Counter "coredns_forward_requests" ["to"] "Questions to upstreams";
    COREDNS_FORWARD_RESPONSES: Counter "coredns_forward_responses" ["to", "rcode"]
        "Answers of upstreams by code";
    COREDNS_PROBE_FAILURES: Counter "coredns_proxy_healthcheck_failures" ["proxy_name", "to"]
        "Probes of upstreams that failed";
    COREDNS_FORWARD_DURATION: Histogram "coredns_proxy_request_duration" ["proxy_name", "to"]
        "How long upstreams took";
}
