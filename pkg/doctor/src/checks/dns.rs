//! The node's own resolvers, of which cluster DNS asks outside names.

use super::joined;
use crate::engine::{Check, Verdict, failure, warning};
use crate::facts::{Facts, Resolvers};
use std::net::{IpAddr, Ipv4Addr};

/// The stubs of systemd-resolved.
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// Resolvers that libc asks.
const RESOLVERS: usize = 3;
/// Search domains that kubelet passes on besides the cluster's three, and their letters.
const SEARCH: (usize, usize) = (29, 1900);

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "resolv-loop",
        about: "/etc/resolv.conf does not name cluster DNS itself, which would ask itself",
        says: "warning",
        run: own,
    },
    Check {
        id: "resolv-stub",
        about: "where /etc/resolv.conf names systemd-resolved's stub, resolved's own file names real resolvers",
        says: "failure",
        run: stub,
    },
    Check {
        id: "resolv-upstream",
        about: "there is somebody to ask for outside names",
        says: "warning",
        run: upstream,
    },
    Check {
        id: "resolv-nameservers",
        about: "not more than three resolvers: libc asks no more",
        says: "warning",
        run: many,
    },
    Check {
        id: "resolv-search",
        about: "the list of search domains is not longer than pods can be given",
        says: "warning",
        run: search,
    },
    Check {
        id: "kubelet-dns",
        about: "kubelet gives pods the DNS address that Warren serves",
        says: "failure",
        run: kubelet,
    },
];

/// The resolvers, where they matter.
fn resolvers(facts: &Facts) -> Result<Option<&Resolvers>, String> {
    let found = facts.resolvers.as_ref().map_err(Clone::clone)?;
    Ok(Some(found).filter(|_| facts.settings.dns.is_some() && facts.settings.asks_host_resolvers))
}

fn own(facts: &Facts) -> Verdict {
    let Some(found) = resolvers(facts)? else { return Ok(Vec::new()) };
    let ours = facts.settings.dns.iter().flatten().find(|a| found.named.contains(a));
    Ok(ours
        .map(|a| warning(
            format!("/etc/resolv.conf names {a}, which is cluster DNS on this node: it is left out, so that no question goes round"),
            "name the site's resolvers in /etc/resolv.conf, or give them: `warren agent --dns-upstream ADDRESS`",
        ))
        .into_iter()
        .collect())
}

fn stub(facts: &Facts) -> Verdict {
    let Some(found) = resolvers(facts)? else { return Ok(Vec::new()) };
    let named = found.named.iter().find(|a| STUBS.contains(a));
    Ok(named
        .filter(|_| !found.behind_stub)
        .map(|a| failure(
            format!("/etc/resolv.conf names {a}, the stub of systemd-resolved, and /run/systemd/resolve/resolv.conf names nobody: no outside name is found"),
            "`systemctl restart systemd-resolved` and `resolvectl dns LINK ADDRESS`; or `warren agent --dns-upstream ADDRESS`",
        ))
        .into_iter()
        .collect())
}

fn upstream(facts: &Facts) -> Verdict {
    let Some(found) = resolvers(facts)? else { return Ok(Vec::new()) };
    let none = found.named.is_empty() && !found.behind_stub;
    Ok(none
        .then(|| warning(
            "no resolver is known: outside names fail",
            "name one in /etc/resolv.conf, or `warren agent --dns-upstream ADDRESS`; on a site without a way out `--dns-offline` denies them at once",
        ))
        .into_iter()
        .collect())
}

fn many(facts: &Facts) -> Verdict {
    let Some(found) = resolvers(facts)? else { return Ok(Vec::new()) };
    Ok((found.named.len() > RESOLVERS)
        .then(|| {
            warning(
                format!(
                    "/etc/resolv.conf names {} resolvers: programs of this node ask the first three only",
                    found.named.len()
                ),
                "leave three in /etc/resolv.conf",
            )
        })
        .into_iter()
        .collect())
}

fn search(facts: &Facts) -> Verdict {
    let Some(found) = resolvers(facts)? else { return Ok(Vec::new()) };
    let letters: usize = found.search.iter().map(|s| s.len() + 1).sum();
    Ok((found.search.len() > SEARCH.0 || letters > SEARCH.1)
        .then(|| warning(
            format!("/etc/resolv.conf has {} search domains of {letters} letters: pods cannot be given them all, and each name is tried with each", found.search.len()),
            "shorten the line `search` in /etc/resolv.conf, or what writes it (DHCP, resolved: Domains=)",
        ))
        .into_iter()
        .collect())
}

fn kubelet(facts: &Facts) -> Verdict {
    let (Some((file, given)), Some(ours)) = (&facts.kubelet_dns, &facts.settings.dns) else {
        return Ok(Vec::new());
    };
    let differs = !given.is_empty() && !ours.is_empty() && !given.iter().any(|a| ours.contains(a));
    Ok(differs
        .then(|| {
            failure(
                format!(
                    "{} gives pods {} for DNS, and Warren serves {}",
                    file.display(),
                    joined(given),
                    joined(ours)
                ),
                format!(
                    "`warren agent --cluster-dns {}` on every node, or clusterDNS: [{}] for kubelet",
                    joined(given),
                    joined(ours)
                ),
            )
        })
        .into_iter()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, healthy};

    fn named(facts: &mut Facts) -> &mut Resolvers {
        facts.resolvers.as_mut().unwrap()
    }

    #[test]
    fn each_fault_of_resolv_conf() {
        fires("resolv-loop", Status::Warning, |f| named(f).named.push("10.43.0.10".parse().unwrap()));
        fires("resolv-stub", Status::Failure, |f| named(f).named = vec![STUBS[0]]);
        fires("resolv-upstream", Status::Warning, |f| named(f).named.clear());
        fires("resolv-nameservers", Status::Warning, |f| {
            named(f).named = (1..5).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        });
        fires("resolv-search", Status::Warning, |f| {
            named(f).search = (0..40).map(|n| format!("d{n}.example")).collect()
        });
        let mut facts = healthy();
        (named(&mut facts).named, named(&mut facts).behind_stub) = (vec![STUBS[0]], true);
        assert_eq!(stub(&facts).unwrap(), []);
        named(&mut facts).named.clear();
        named(&mut facts).behind_stub = false;
        facts.settings.asks_host_resolvers = false;
        assert_eq!(upstream(&facts).unwrap(), []);
    }

    #[test]
    fn kubelet_has_another_address() {
        fires("kubelet-dns", Status::Failure, |f| {
            f.kubelet_dns =
                Some(("/var/lib/kubelet/config.yaml".into(), vec!["10.96.0.10".parse().unwrap()]));
        });
    }
}
