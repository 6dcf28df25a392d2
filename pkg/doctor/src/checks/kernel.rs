//! What the kernel can do, tried in a network namespace of its own.

use crate::engine::{Check, Finding, Verdict, failure, note, warning};
use crate::facts::Facts;

/// Features that are tried, by name; [`crate::probe`] tries each.
pub(crate) const VETH: &str = "veth";
pub(crate) const NFTABLES: &str = "nftables";
pub(crate) const NAT: &str = "nat";
pub(crate) const MAPS: &str = "maps";
pub(crate) const NUMGEN: &str = "numgen";
pub(crate) const FIB: &str = "fib";
pub(crate) const CONNTRACK: &str = "conntrack";
pub(crate) const TUN: &str = "tun";
pub(crate) const WIREGUARD: &str = "wireguard";
pub(crate) const RULES: &str = "policy routing";

/// The oldest kernel that has everything.
const OLDEST: (u32, u32) = (5, 10);

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "kernel-version",
        about: "the kernel's release is 5.10 or later",
        says: "warning",
        run: version,
    },
    Check {
        id: "kernel-veth",
        about: "a pair of veth links can be made",
        says: "failure",
        run: |f| feature(f, VETH, "veth", "pods cannot be attached"),
    },
    Check {
        id: "kernel-nftables",
        about: "a table of the family inet, with chains in every hook Warren uses, can be made",
        says: "failure",
        run: |f| {
            feature(
                f,
                NFTABLES,
                "nf_tables, nf_tables_inet",
                "no packet can be guarded, and no pod may be attached",
            )
        },
    },
    Check {
        id: "kernel-nat",
        about: "nftables translates addresses and masquerades",
        says: "failure",
        run: |f| feature(f, NAT, "nft_nat, nft_masq, nf_nat", "Services and the way out of pods do not work"),
    },
    Check {
        id: "kernel-nft-maps",
        about: "nftables has verdict maps, maps of tuples, tuples of ranges, and sets that packets fill",
        says: "failure",
        run: |f| {
            feature(f, MAPS, "nf_tables (5.10 or later)", "Services and network policies cannot be kept")
        },
    },
    Check {
        id: "kernel-nft-numgen",
        about: "nftables draws random numbers",
        says: "failure",
        run: |f| feature(f, NUMGEN, "nft_numgen", "no endpoint of a Service can be picked"),
    },
    Check {
        id: "kernel-nft-fib",
        about: "nftables asks for the type of an address",
        says: "failure",
        run: |f| feature(f, FIB, "nft_fib, nft_fib_inet", "node ports do not work"),
    },
    Check {
        id: "kernel-conntrack",
        about: "connections are tracked, and packets can be left out of it",
        says: "failure",
        run: |f| feature(f, CONNTRACK, "nf_conntrack, nft_ct", "Services and network policies do not work"),
    },
    Check {
        id: "kernel-policy-routing",
        about: "a routing rule can be made",
        says: "failure",
        run: |f| {
            feature(
                f,
                RULES,
                "CONFIG_IP_MULTIPLE_TABLES",
                "packets from pods to other nodes' own addresses are not encrypted, so they are dropped",
            )
        },
    },
    Check {
        id: "kernel-wireguard",
        about: "the kernel has WireGuard; without it this program encrypts by itself",
        says: "note, failure",
        run: wireguard,
    },
    Check {
        id: "kernel-tun",
        about: "a TUN link can be made, which the userspace tunnel needs where the kernel has no WireGuard",
        says: "failure, note",
        run: tun,
    },
    Check {
        id: "kernel-ipv6",
        about: "IPv6 is on in the kernel and on this node's links, where pods have IPv6 addresses",
        says: "failure, note",
        run: ipv6,
    },
];

fn tried<'a>(facts: &'a Facts, name: &str) -> Result<Option<&'a str>, String> {
    let outcome = facts.features.get(name).ok_or("it was not tried")?;
    Ok(outcome.as_ref().err().map(String::as_str))
}

fn feature(facts: &Facts, name: &str, module: &str, without: &str) -> Verdict {
    // Without the right to make a namespace nothing can be tried; that says nothing about the kernel.
    Ok(tried(facts, name)?
        .map(|why| {
            failure(
                format!("the kernel has no {name}: {why}; {without}"),
                format!("use a kernel with {module}: install the distribution's full kernel (modules-extra, linux-image), or build it in; then boot it"),
            )
        })
        .into_iter()
        .collect())
}

fn version(facts: &Facts) -> Verdict {
    let mut parts = facts.kernel_release.split(|c: char| !c.is_ascii_digit());
    let mut part = || parts.next()?.parse::<u32>().ok();
    let release = part().zip(part()).ok_or("the release cannot be read")?;
    let old = (release < OLDEST).then(|| {
        warning(
            format!(
                "kernel {} is older than 5.10; Warren is tested with 5.10 and later",
                facts.kernel_release
            ),
            "upgrade the kernel; the checks kernel-... say what this one lacks",
        )
    });
    Ok(old.into_iter().collect())
}

fn wireguard(facts: &Facts) -> Verdict {
    let Some(why) = tried(facts, WIREGUARD)? else { return Ok(Vec::new()) };
    let found = format!("the kernel has no WireGuard ({why}); the userspace tunnel is used, which is slower");
    let fix = "nothing has to be done; for speed use a kernel with the module wireguard (5.6 or later)";
    Ok(vec![note(found, fix)])
}

fn tun(facts: &Facts) -> Verdict {
    let Some(why) = tried(facts, TUN)? else { return Ok(Vec::new()) };
    let fix = "`modprobe tun`, or in a container: give it the device /dev/net/tun";
    let needed = tried(facts, WIREGUARD)?.is_some();
    let found = |end: &str| format!("no TUN link can be made: {why}; {end}");
    Ok(vec![if needed {
        failure(found("there is no WireGuard in the kernel either, so there can be no tunnel"), fix)
    } else {
        note(found("the kernel's WireGuard is used, so nothing is missing now"), fix)
    }])
}

fn ipv6(facts: &Facts) -> Verdict {
    let key = "net/ipv6/conf/all/disable_ipv6";
    let off = match facts.number(key) {
        None => "the kernel has no IPv6".to_owned(),
        Some(1) => format!("{key} is 1"),
        Some(_) => return Ok(Vec::new()),
    };
    let found: Finding = if facts.wants_v6() {
        failure(
            format!("{off}, and pods are to have IPv6 addresses"),
            format!(
                "`sysctl -w {}=0` (and no ipv6.disable=1 on the kernel's command line), or a cluster without an IPv6 range",
                key.replace('/', ".")
            ),
        )
    } else {
        note(format!("{off}; pods have IPv4 only, so nothing is missing"), "nothing has to be done")
    };
    Ok(vec![found])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, healthy};

    #[test]
    fn each_feature_that_fails_is_named() {
        for (name, id) in [
            (VETH, "kernel-veth"),
            (NFTABLES, "kernel-nftables"),
            (NAT, "kernel-nat"),
            (MAPS, "kernel-nft-maps"),
            (NUMGEN, "kernel-nft-numgen"),
            (FIB, "kernel-nft-fib"),
            (CONNTRACK, "kernel-conntrack"),
            (RULES, "kernel-policy-routing"),
        ] {
            let found = fires(id, Status::Failure, |f| {
                f.features.insert(name, Err("Operation not supported".into()));
            });
            assert!(found.finding.contains("Operation not supported"), "{found:?}");
        }
    }

    #[test]
    fn wireguard_may_be_missing_and_tun_only_beside_it() {
        fires("kernel-wireguard", Status::Note, |f| drop(f.features.insert(WIREGUARD, Err("no".into()))));
        fires("kernel-tun", Status::Note, |f| drop(f.features.insert(TUN, Err("no".into()))));
        let mut facts = healthy();
        facts.features.insert(WIREGUARD, Err("no".into()));
        facts.features.insert(TUN, Err("no".into()));
        assert_eq!(tun(&facts).unwrap()[0].status, Status::Failure);
    }

    #[test]
    fn an_old_kernel_and_one_without_ipv6() {
        fires("kernel-version", Status::Warning, |f| f.kernel_release = "4.19.0-26-amd64".into());
        let off = |f: &mut Facts| drop(f.sysctls.insert("net/ipv6/conf/all/disable_ipv6".into(), "1".into()));
        fires("kernel-ipv6", Status::Note, off);
        let mut facts = healthy();
        off(&mut facts);
        facts.settings.cluster_cidrs.push("fd57:4e00:42::/56".parse().unwrap());
        assert_eq!(ipv6(&facts).unwrap()[0].status, Status::Failure);
    }
}
