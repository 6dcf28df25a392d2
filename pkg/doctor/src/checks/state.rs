//! Disk, files and memory.

use super::joined;
use crate::engine::{Check, Verdict, failure, warning};
use crate::facts::Facts;
use warren_agent::status::bytes;

const MIB: u64 = 1 << 20;
/// Free bytes of the data directory's file system.
const LEAST_DISK: u64 = 64 * MIB;
/// Memory that can be had, in KiB.
const LEAST_MEMORY: u64 = 64 * 1024;
/// Open files that an agent with many pods and clients needs.
const LEAST_FILES: u64 = 4096;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "disk-space",
        about: "the data directory's disk has room",
        says: "failure, warning",
        run: space,
    },
    Check {
        id: "data-dir-writable",
        about: "the data directory's disk can be written",
        says: "failure",
        run: writable,
    },
    Check {
        id: "data-dir-permissions",
        about: "only root can enter the data directory, and read the secrets in it",
        says: "failure",
        run: permissions,
    },
    Check {
        id: "store-set-aside",
        about: "the store did not have to be set aside",
        says: "warning",
        run: set_aside,
    },
    Check { id: "memory", about: "64 MiB of memory can be had", says: "warning", run: memory },
    Check { id: "open-files", about: "the agent may open 4,096 files", says: "warning", run: files },
];

fn space(facts: &Facts) -> Verdict {
    let disk = facts.disk.as_ref().map_err(Clone::clone)?;
    let dir = facts.settings.data_dir.display();
    let what = format!("{} of {} are free where {dir} is", bytes(disk.free), bytes(disk.total));
    let fix = format!("`du -xh {dir} | sort -h | tail`, and make room (`journalctl --vacuum-size=50M`)");
    Ok(if disk.total == 0 || disk.read_only {
        Vec::new()
    } else if disk.free < MIB {
        vec![failure(format!("{what}: no lease can be kept, so no pod starts"), fix)]
    } else if disk.free < LEAST_DISK {
        vec![warning(what, fix)]
    } else {
        Vec::new()
    })
}

fn writable(facts: &Facts) -> Verdict {
    let disk = facts.disk.as_ref().map_err(Clone::clone)?;
    Ok(disk
        .read_only
        .then(|| failure(
            format!("{} is on a disk that is mounted read-only: no lease can be kept, so no pod starts", facts.settings.data_dir.display()),
            "`dmesg | grep -i 'remount\\|i/o error'` says why; check the disk (on boards: the SD card), then `mount -o remount,rw`",
        ))
        .into_iter()
        .collect())
}

fn permissions(facts: &Facts) -> Verdict {
    let entries = facts.data.as_ref().map_err(Clone::clone)?;
    let open = entries.iter().filter(|e| e.mode & 0o077 != 0);
    // Behind a directory that nobody else can enter, a mode matters less, but a copy of it would be open.
    let wrong: Vec<_> = open.collect();
    let Some(first) = wrong.first() else { return Ok(Vec::new()) };
    let told = joined(wrong.iter().take(5).map(|e| format!("{} ({:o})", e.path.display(), e.mode & 0o7777)));
    let more = if wrong.len() > 5 { format!(" and {} more", wrong.len() - 5) } else { String::new() };
    let mode = if first.is_dir { "700" } else { "600" };
    Ok(vec![failure(
        format!("others than root can read what holds keys: {told}{more}"),
        format!("`chmod {mode} {}`", first.path.display()),
    )])
}

fn set_aside(facts: &Facts) -> Verdict {
    let said = &facts.status()?.store.set_aside;
    Ok((!said.is_empty())
        .then(|| warning(said.clone(), "nothing has to be done: it was rebuilt. When it happens again, check the disk; the copy can be removed"))
        .into_iter()
        .collect())
}

fn memory(facts: &Facts) -> Verdict {
    let free = *facts.memory_kib.as_ref().map_err(Clone::clone)?;
    Ok((free < LEAST_MEMORY)
        .then(|| {
            warning(
                format!("{} of memory can be had: the kernel may end the agent or a pod", bytes(free * 1024)),
                "`ps aux --sort=-rss | head` shows who has it; give pods limits",
            )
        })
        .into_iter()
        .collect())
}

fn files(facts: &Facts) -> Verdict {
    let Some(limit) = facts.agent.open_files else {
        return Err("no agent runs, or its limits cannot be read".into());
    };
    Ok((limit < LEAST_FILES)
        .then(|| warning(format!("the agent may open {limit} files: connections through ingress fail when they are used up"), "LimitNOFILE=65536 in its unit (`systemctl edit warren-agent`), or `ulimit -n` before it is started"))
        .into_iter()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::facts::Entry;
    use crate::testing::{fires, status};

    #[test]
    fn disks_and_files() {
        fires("disk-space", Status::Warning, |f| f.disk.as_mut().unwrap().free = 10 * MIB);
        fires("disk-space", Status::Failure, |f| f.disk.as_mut().unwrap().free = 4096);
        fires("data-dir-writable", Status::Failure, |f| f.disk.as_mut().unwrap().read_only = true);
        let found = fires("data-dir-permissions", Status::Failure, |f| {
            f.data.as_mut().unwrap().push(Entry {
                path: "/var/lib/warren/agent/kubeconfig".into(),
                mode: 0o644,
                is_dir: false,
            });
        });
        assert_eq!(found.fix, "`chmod 600 /var/lib/warren/agent/kubeconfig`");
        fires("store-set-aside", Status::Warning, |f| status(f).store.set_aside = "torn".into());
    }

    #[test]
    fn memory_and_limits() {
        fires("memory", Status::Warning, |f| f.memory_kib = Ok(20_000));
        fires("open-files", Status::Warning, |f| f.agent.open_files = Some(1024));
    }
}
