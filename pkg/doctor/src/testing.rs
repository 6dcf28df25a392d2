//! A healthy node for tests, and what is done to it.

use crate::checks;
use crate::engine::{Finding, Status, diagnose};
use crate::facts::{
    AgentFacts, ApiFacts, CniFacts, CniFile, Disk, Facts, Held, Proc, Resolvers, Settings, TunnelProbe,
};
use crate::packets::{FORWARD, Packet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use warren_agent::ingress::IngressView;
use warren_agent::status::{ClusterNodeView, NodeView, PoolView, StatusReport, SubsystemView, TunnelView};
use warren_netlink::listeners::Listener;
use warren_netlink::nft::Nft;
use warren_netlink::nft::ruleset::AnyTable;
use warren_netlink::{Link, NetNs, Route, RouteTarget};
use warren_types::HealthState;

fn a_link(index: u32, name: &str, kind: &str, mtu: u32) -> Link {
    let (name, kind) = (name.to_owned(), kind.to_owned());
    Link {
        index,
        name,
        kind,
        mtu,
        alias: String::new(),
        mac: vec![],
        up: true,
        master: None,
        operational: true,
        peer_index: None,
    }
}

fn default_route() -> Route {
    let gateway = Some("192.168.58.1".parse().unwrap());
    Route {
        dst: "0.0.0.0/0".parse().unwrap(),
        target: RouteTarget::Link { link: "eth0".into(), gateway, onlink: false },
        src: None,
        scope_link: false,
        metric: 0,
        table: 254,
        protocol: 3,
        mtu: None,
    }
}

fn a_status() -> StatusReport {
    let node = |name: &str, last: u8| ClusterNodeView {
        name: name.into(),
        ready: true,
        addresses: vec![format!("192.168.58.{last}")],
        pod_cidrs: vec![format!("10.42.{last}.0/24")],
        id: format!("id-{last}"),
        public_key: format!("key-{last}"),
        ..ClusterNodeView::default()
    };
    let tunnel = TunnelView {
        endpoint: Some("192.168.58.12:51840".into()),
        handshake_seconds: Some(42),
        ..TunnelView::default()
    };
    let mut source = warren_source::SourceReport::default();
    (source.connected, source.api) = (true, "https://192.168.58.11:6443".into());
    StatusReport {
        pid: 100,
        uptime_seconds: 1000,
        ready: true,
        node: NodeView {
            name: "node-1".into(),
            addresses: vec!["192.168.58.11".into()],
            pod_cidrs: vec!["10.42.11.0/24".into()],
            ..NodeView::default()
        },
        subsystems: vec![SubsystemView {
            name: "overlay".into(),
            state: HealthState::Ready,
            message: String::new(),
            since_seconds: 900,
            restarts: 0,
            last_failure: None,
        }],
        nodes: vec![
            ClusterNodeView { own: true, ..node("node-1", 11) },
            ClusterNodeView { tunnel: Some(tunnel), ..node("node-2", 12) },
        ],
        pools: vec![PoolView {
            prefix: "10.42.11.0/24".into(),
            total: "252".into(),
            free: "250".into(),
            ..PoolView::default()
        }],
        ingress: Some(IngressView { listening: vec![":80".into()], ..IngressView::default() }),
        source,
        ..StatusReport::default()
    }
}

/// A node on which nothing is wrong and everything is known.
pub(crate) fn healthy() -> Facts {
    use checks::kernel::{CONNTRACK, FIB, MAPS, NAT, NFTABLES, NUMGEN, RULES, TUN, VETH, WIREGUARD};
    let sysctls = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/netfilter/nf_conntrack_max", "262144"),
        ("net/netfilter/nf_conntrack_count", "100"),
    ];
    let now = 1_800_000_000;
    Facts {
        settings: Settings {
            configured: true,
            node_name: "node-1".into(),
            data_dir: "/var/lib/warren".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            tunnel_port: 51840,
            health_port: 9457,
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
            dns: Some(vec!["10.43.0.10".parse().unwrap()]),
            asks_host_resolvers: true,
            ingress: Some([80, 443]),
            proxy: true,
            ..Settings::default()
        },
        hostname: "node-1".into(),
        kernel_release: "6.1.0-28-amd64".into(),
        features: [VETH, NFTABLES, NAT, MAPS, NUMGEN, FIB, CONNTRACK, TUN, WIREGUARD, RULES]
            .map(|f| (f, Ok(())))
            .into(),
        sysctls: sysctls.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        links: Ok(vec![
            a_link(1, "lo", "", 65536),
            a_link(2, "eth0", "", 1500),
            a_link(3, "wrn-wg", "wireguard", 1420),
        ]),
        addresses: vec![
            (1, "127.0.0.1/8".parse().unwrap()),
            (2, "192.168.58.11/24".parse().unwrap()),
            (3, "10.42.11.1/32".parse().unwrap()),
        ],
        routes: Ok(vec![default_route()]),
        ruleset: Ok(vec![]),
        processes: Ok(vec![]),
        held: Ok(vec![]),
        resolvers: Ok(Resolvers { named: vec!["192.168.58.1".parse().unwrap()], ..Resolvers::default() }),
        agent: AgentFacts { status: Ok(a_status()), leaks: Ok(vec![]), open_files: Some(65_536) },
        api: Ok(ApiFacts { skew: Some(0), ..ApiFacts::default() }),
        tunnels: Ok(vec![TunnelProbe {
            node: "node-2".into(),
            address: Some("10.42.12.1".parse().unwrap()),
            answered: true,
            largest: 1420,
            underlay_mtu: Some(1500),
            underlay_v6: false,
        }]),
        now,
        clock_kept: Ok(true),
        certificate: Ok((0, now + 400 * 86_400)),
        cni: Ok(CniFacts {
            files: vec![CniFile { name: "10-warren.conflist".into(), plugins: vec!["warren".into()] }],
            plugin_mode: Some(0o755),
            plugin_is_agents: Some(true),
        }),
        disk: Ok(Disk { total: 1 << 34, free: 1 << 33, read_only: false }),
        data: Ok(vec![]),
        memory_kib: Ok(1 << 20),
        ..Facts::default()
    }
}

/// Asserts that `change` makes this check, and no other, say so; returns its finding.
#[track_caller]
pub(crate) fn fires(id: &str, status: Status, change: impl FnOnce(&mut Facts)) -> Finding {
    fires_with(id, status, &[], change)
}

/// As [`fires`], where the fault has these consequences for others.
#[track_caller]
pub(crate) fn fires_with(
    id: &str,
    status: Status,
    others: &[&str],
    change: impl FnOnce(&mut Facts),
) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let report = diagnose(&facts, &[]);
    let found: Vec<_> = report.checks.iter().filter(|c| c.status < Status::Skipped).collect();
    let also: Vec<_> = found.iter().filter(|c| c.id != id && !others.contains(&c.id)).collect();
    assert!(also.is_empty(), "{id}: others fire too: {also:#?}");
    let own = found.iter().find(|c| c.id == id).unwrap_or_else(|| panic!("{id} found nothing"));
    assert_eq!(own.status, status, "{own:#?}");
    let finding = own.findings.iter().find(|f| f.status == status).unwrap().clone();
    assert!(!finding.fix.is_empty(), "{finding:?}");
    finding
}

pub(crate) fn status(facts: &mut Facts) -> &mut StatusReport {
    facts.agent.status.as_mut().unwrap()
}

pub(crate) fn set(facts: &mut Facts, key: &str, value: &str) {
    facts.sysctls.insert(key.into(), value.into());
}

pub(crate) fn link(facts: &mut Facts, name: &str, kind: &str) {
    facts.links.as_mut().unwrap().push(a_link(9, name, kind, 1450));
}

pub(crate) fn process(facts: &mut Facts, name: &str) {
    let args = vec![format!("/usr/bin/{name}"), "--v=2".into()];
    facts.processes.as_mut().unwrap().push(Proc { pid: 77, name: name.into(), args });
}

pub(crate) fn hold(facts: &mut Facts, protocol: u8, address: &str, name: &str) {
    let listener = Listener { protocol, address: address.parse().unwrap(), inode: 1 };
    facts.held.as_mut().unwrap().push(Held {
        listener,
        holder: format!("{name} (pid 7)"),
        name: name.into(),
    });
}

/// The first packet of a connection from a pod of this node to one of another.
pub(crate) fn pod_to_pod() -> Packet {
    Packet {
        hook: FORWARD,
        from_link: "wrnp0a1b2c3d4e5".into(),
        to_link: "wrn-wg".into(),
        source: "10.42.1.2".parse().unwrap(),
        destination: "10.42.2.2".parse().unwrap(),
        protocol: 6,
        port: 8080,
        mark: 0,
    }
}

/// What `nft` makes of a script, as the kernel tells it.
pub(crate) fn nft(script: &str) -> Vec<AnyTable> {
    // Its grammar takes no semicolon behind a closing brace on the same line.
    let script = script.replace("};", "}\n");
    let ns = NetNs::fresh().expect("making a network namespace needs root");
    ns.run(move || {
        let mut child =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is needed");
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Nft::current().unwrap().list_all().await.unwrap() })
    })
    .unwrap()
}
