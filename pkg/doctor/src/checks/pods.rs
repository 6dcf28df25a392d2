//! How pods are attached.

use super::joined;
use crate::engine::{Check, Verdict, failure, warning};
use crate::facts::Facts;
use warren_types::defaults::{CNI_CONFLIST, CNI_PLUGIN};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "cni-plugin",
        about: "the CNI plugin is there, can be executed, and is of the agent's version",
        says: "failure, warning",
        run: plugin,
    },
    Check {
        id: "cni-conflist",
        about: "Warren's CNI configuration is there while pods can be attached",
        says: "failure",
        run: conflist,
    },
    Check {
        id: "cni-conf-dir",
        about: "containerd looks for CNI configuration where Warren writes it",
        says: "failure",
        run: conf_dir,
    },
    Check {
        id: "ipam-free",
        about: "the node has addresses left for pods",
        says: "failure, warning",
        run: free,
    },
    Check { id: "ipam-leaks", about: "leases, links and routes of pods agree", says: "warning", run: leaks },
];

fn plugin(facts: &Facts) -> Verdict {
    let cni = facts.cni.as_ref().map_err(Clone::clone)?;
    let path = facts.settings.cni_bin_dir.join(CNI_PLUGIN);
    let path = path.display();
    let again = "the agent puts it there within a minute; restart it when it does not, and see that the directory can be written";
    Ok(match (cni.plugin_mode, cni.plugin_is_agents) {
        (None, _) if !facts.runs() => Vec::new(),
        (None, _) => vec![failure(format!("{path} is missing: no pod can be attached or removed"), again)],
        (Some(mode), _) if mode & 0o111 == 0 => {
            vec![failure(format!("{path} cannot be executed (mode {mode:o})"), format!("`chmod 755 {path}`"))]
        }
        (Some(_), Some(false)) => {
            vec![warning(format!("{path} is not the program that the agent is"), again)]
        }
        _ => Vec::new(),
    })
}

fn conflist(facts: &Facts) -> Verdict {
    let cni = facts.cni.as_ref().map_err(Clone::clone)?;
    if !facts.status()?.ready || cni.files.iter().any(|f| f.name == CNI_CONFLIST) {
        return Ok(Vec::new());
    }
    let dir = facts.settings.cni_conf_dir.display();
    Ok(vec![failure(
        format!("{dir}/{CNI_CONFLIST} is missing though the agent is ready: runtimes start no pod"),
        "the agent writes it again within a minute; restart it when it does not, and see that the directory can be written",
    )])
}

fn conf_dir(facts: &Facts) -> Verdict {
    let ours = &facts.settings.cni_conf_dir;
    let other = facts.runtime_conf_dirs.iter().filter(|(_, dir)| dir != ours);
    Ok(other
        .map(|(file, dir)| {
            failure(
                format!(
                    "{} has conf_dir = {}, and Warren writes to {}",
                    file.display(),
                    dir.display(),
                    ours.display()
                ),
                format!(
                    "`warren agent --cni-conf-dir {}`, or correct {} and `systemctl restart containerd`",
                    dir.display(),
                    file.display()
                ),
            )
        })
        .collect())
}

fn free(facts: &Facts) -> Verdict {
    let mut found = Vec::new();
    for pool in &facts.status()?.pools {
        let (Ok(free), Ok(total)) = (pool.free.parse::<u128>(), pool.total.parse::<u128>()) else { continue };
        let what = format!("{free} of {total} addresses of {} are free", pool.prefix);
        let fix = "`warren ipam status` shows who has them; fewer pods on this node, or nodes with larger ranges (`warren server --node-prefix-v4`)";
        if free == 0 && total > 0 {
            found.push(failure(format!("{what}: no pod can start"), fix));
        } else if free * 10 < total {
            found.push(warning(what, fix));
        }
    }
    Ok(found)
}

fn leaks(facts: &Facts) -> Verdict {
    let all = facts.agent.leaks.as_ref().map_err(Clone::clone)?;
    Ok((!all.is_empty())
        .then(|| warning(joined(all), "`warren ipam check` shows whether it lasts: the runtime's next GC or DEL takes leftovers away; else restart the agent"))
        .into_iter()
        .collect())
}

#[cfg(test)]
mod tests {
    use crate::engine::Status;
    use crate::testing::{fires, status};

    #[test]
    fn plugin_and_configuration() {
        fires("cni-plugin", Status::Failure, |f| f.cni.as_mut().unwrap().plugin_mode = None);
        fires("cni-plugin", Status::Failure, |f| f.cni.as_mut().unwrap().plugin_mode = Some(0o644));
        fires("cni-plugin", Status::Warning, |f| f.cni.as_mut().unwrap().plugin_is_agents = Some(false));
        fires("cni-conflist", Status::Failure, |f| f.cni.as_mut().unwrap().files.clear());
        fires("cni-conf-dir", Status::Failure, |f| {
            f.runtime_conf_dirs.push(("/etc/containerd/config.toml".into(), "/etc/cni/other.d".into()));
        });
    }

    #[test]
    fn addresses_of_pods() {
        fires("ipam-free", Status::Warning, |f| status(f).pools[0].free = "3".into());
        fires("ipam-free", Status::Failure, |f| status(f).pools[0].free = "0".into());
        fires("ipam-leaks", Status::Warning, |f| f.agent.leaks = Ok(vec!["a lease without a link".into()]));
    }
}
