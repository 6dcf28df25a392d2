//! Other networks of pods and other proxies: running, or left behind.

use super::joined;
use crate::engine::{Check, Verdict, failure, warning};
use crate::facts::{Facts, Proc};
use warren_netlink::nft::ruleset::TableFamily;
use warren_types::defaults::{CNI_CONFLIST, CNI_PLUGIN};

/// Programs that attach pods.
const NETWORKS: &[&str] = &[
    "flanneld",
    "cilium-agent",
    "calico-node",
    "kube-router",
    "antrea-agent",
    "kilo",
    "kg",
    "weaver",
    "ovnkube",
];
/// Links that they make.
const LINKS: &[&str] = &[
    "cni0",
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "cilium_host",
    "cilium_net",
    "cilium_vxlan",
    "vxlan.calico",
    "wireguard.cali",
    "kube-bridge",
    "weave",
    "antrea-gw0",
    "kilo0",
    "nodelocaldns",
];
/// Beginnings of such names.
const LINK_BEGINNINGS: &[&str] = &["cali", "lxc_health", "flannel"];

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "cni-other-first",
        about: "no CNI configuration of another plugin sorts before Warren's: runtimes take the first",
        says: "failure, warning",
        run: conf_order,
    },
    Check {
        id: "cni-other-running",
        about: "no other network of pods runs on this node",
        says: "warning",
        run: running,
    },
    Check {
        id: "cni-other-links",
        about: "no links of another network of pods are left",
        says: "warning",
        run: links,
    },
    Check {
        id: "kube-proxy",
        about: "no kube-proxy translates Services beside Warren, and none has left rules",
        says: "warning",
        run: kube_proxy,
    },
    Check {
        id: "kube-router",
        about: "no chains of kube-router's policies are left",
        says: "warning",
        run: |f| {
            chains(
                f,
                &["KUBE-ROUTER-", "KUBE-NWPLCY-", "KUBE-POD-FW-"],
                "kube-router",
                "with k3s: `--disable-network-policy` on the server; then reboot, or `iptables -F` those chains",
            )
        },
    },
    Check {
        id: "portmap",
        about: "no host ports of the plugin portmap, which ServiceLB (svclb) uses too, are left",
        says: "warning",
        run: |f| {
            chains(
                f,
                &["CNI-HOSTPORT-", "CNI-DN-"],
                "the CNI plugin portmap",
                "with k3s: `--disable=servicelb` on the server, and delete its svclb pods; then reboot, or flush those chains",
            )
        },
    },
    Check {
        id: "other-dns",
        about: "no other cluster DNS runs in this node's own network",
        says: "warning",
        run: other_dns,
    },
];

fn conf_order(facts: &Facts) -> Verdict {
    let cni = facts.cni.as_ref().map_err(Clone::clone)?;
    let ours = |f: &&crate::facts::CniFile| f.name == CNI_CONFLIST;
    let foreign = |f: &&crate::facts::CniFile| !ours(f) && !f.plugins.iter().any(|p| p == CNI_PLUGIN);
    let dir = facts.settings.cni_conf_dir.display();
    let Some(first) = cni.files.first().filter(foreign) else { return Ok(Vec::new()) };
    let with = if first.plugins.is_empty() {
        "cannot be read".to_owned()
    } else {
        format!("is for {}", joined(&first.plugins))
    };
    let found = format!(
        "{dir}/{} {with} and sorts before {CNI_CONFLIST}: runtimes use it, so new pods are not attached by Warren",
        first.name
    );
    let fix = format!("remove what installed it, then `rm {dir}/{}`", first.name);
    let installed = cni.files.iter().any(|f| ours(&f)) || facts.runs();
    Ok(vec![if installed { failure(found, fix) } else { warning(found, fix) }])
}

/// Processes whose name, or the program of whose command line, is one of these.
fn named<'a>(facts: &'a Facts, names: &[&str]) -> Result<Vec<&'a Proc>, String> {
    let all = facts.processes.as_ref().map_err(Clone::clone)?;
    let is = |p: &&Proc| {
        let program = p.args.first().and_then(|a| a.rsplit('/').next()).unwrap_or_default();
        names.iter().any(|n| *n == p.name || *n == program)
    };
    Ok(all.iter().filter(is).collect())
}

fn told(processes: &[&Proc]) -> String {
    joined(processes.iter().map(|p| format!("{} (pid {})", p.name, p.pid)))
}

fn running(facts: &Facts) -> Verdict {
    let found = named(facts, NETWORKS)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![warning(
        format!("another network of pods runs here: {}", told(&found)),
        "delete its DaemonSet (`kubectl -n kube-system get daemonsets`); with k3s: `--flannel-backend=none --disable-network-policy` on the server",
    )])
}

fn links(facts: &Facts) -> Verdict {
    let is = |name: &str| LINKS.contains(&name) || LINK_BEGINNINGS.iter().any(|b| name.starts_with(b));
    let found: Vec<&str> = facts.links()?.iter().map(|l| l.name.as_str()).filter(|n| is(n)).collect();
    let Some(first) = found.first() else { return Ok(Vec::new()) };
    Ok(vec![warning(
        format!("links of another network of pods are here: {}", joined(&found)),
        format!("when no pod uses them any more: `ip link delete {first}`, or reboot"),
    )])
}

fn kube_proxy(facts: &Facts) -> Verdict {
    if !facts.settings.proxy {
        return Ok(Vec::new());
    }
    let mut signs = Vec::new();
    let processes = named(facts, &["kube-proxy"])?;
    if !processes.is_empty() {
        signs.push(told(&processes));
    }
    signs
        .extend(facts.links()?.iter().filter(|l| l.name == "kube-ipvs0").map(|l| format!("link {}", l.name)));
    let tables = facts.ruleset.as_ref().map_err(Clone::clone)?;
    for table in tables {
        if table.name == "kube-proxy" && table.family != TableFamily::Inet {
            signs.push(format!("table {table}"));
        } else if table.chains.contains_key("KUBE-SERVICES") {
            signs.push(format!("table {table}, chain KUBE-SERVICES"));
        }
    }
    if signs.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![warning(
        format!(
            "kube-proxy translates Services too, or has left what it made: {}; two translations of one connection contradict each other",
            joined(signs)
        ),
        "delete its DaemonSet (kubeadm: `kubectl -n kube-system delete daemonset kube-proxy`; k3s: `--disable-kube-proxy`), then `kube-proxy --cleanup` or reboot; or let it be with `warren agent --proxy=off`",
    )])
}

fn chains(facts: &Facts, beginnings: &[&str], whose: &str, fix: &str) -> Verdict {
    let tables = facts.ruleset.as_ref().map_err(Clone::clone)?;
    let is = |name: &&String| beginnings.iter().any(|b| name.starts_with(b));
    let found = tables.iter().find_map(|t| {
        let count = t.chains.keys().filter(is).count();
        Some((t, t.chains.keys().find(is)?, count))
    });
    let told = |(table, chain, count)| {
        warning(format!("table {table} has {count} chain(s) of {whose}, such as {chain}"), fix)
    };
    Ok(found.map(told).into_iter().collect())
}

fn other_dns(facts: &Facts) -> Verdict {
    if facts.settings.dns.is_none() {
        return Ok(Vec::new());
    }
    let found = named(facts, &["coredns", "node-cache", "kube-dns", "skydns"])?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![warning(
        format!("another cluster DNS runs in this node's own network: {}", told(&found)),
        "`kubectl -n kube-system scale deployment coredns --replicas=0` (k3s: `--disable=coredns`); or let it be with `warren agent --dns=off`",
    )])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::facts::CniFile;
    use crate::testing::{fires, link, nft, process};

    #[test]
    fn a_configuration_that_sorts_first_wins() {
        let found = fires("cni-other-first", Status::Failure, |f| {
            let other = CniFile { name: "05-cilium.conflist".into(), plugins: vec!["cilium-cni".into()] };
            f.cni.as_mut().unwrap().files.insert(0, other);
        });
        assert!(found.finding.contains("05-cilium.conflist is for cilium-cni"), "{found:?}");
        let mut facts = crate::testing::healthy();
        let later = CniFile { name: "99-loopback.conf".into(), plugins: vec!["loopback".into()] };
        facts.cni.as_mut().unwrap().files.push(later);
        assert_eq!(conf_order(&facts).unwrap(), []);
    }

    #[test]
    fn programs_links_and_rules_of_others() {
        fires("cni-other-running", Status::Warning, |f| process(f, "flanneld"));
        fires("cni-other-links", Status::Warning, |f| link(f, "flannel.1", "vxlan"));
        fires("kube-proxy", Status::Warning, |f| process(f, "kube-proxy"));
        fires("kube-proxy", Status::Warning, |f| link(f, "kube-ipvs0", "dummy"));
        fires("other-dns", Status::Warning, |f| process(f, "coredns"));
        for (id, script) in [
            ("kube-proxy", "table ip kube-proxy { chain services { }; }"),
            ("kube-proxy", "table ip nat { chain KUBE-SERVICES { }; }"),
            ("kube-router", "table ip filter { chain KUBE-ROUTER-INPUT { }; }"),
            ("portmap", "table ip nat { chain CNI-HOSTPORT-DNAT { }; }"),
        ] {
            let tables = nft(script);
            fires(id, Status::Warning, move |f| f.ruleset = Ok(tables.clone()));
        }
    }
}
