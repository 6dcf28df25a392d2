//! Leaving a container's control groups: a runtime that ends a container kills what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Moves this process, and so what it starts from now on, to the topmost control group of every hierarchy of the host, which
/// are mounted at or below `host`. Needs the host's process ids (`hostPID`), and that directory writable.
///
/// # Errors
/// When there is no hierarchy, or one cannot be written: this process then ends with its container.
pub(crate) fn leave(host: &Path) -> io::Result<()> {
    let hierarchies = hierarchies(&fs::read_to_string("/proc/self/mountinfo")?, host);
    if hierarchies.is_empty() {
        let reason = format!("the host's control groups are not mounted at {}", host.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    for mount in hierarchies {
        // 0 is the writer.
        fs::write(mount.join("cgroup.procs"), "0")
            .map_err(|e| io::Error::new(e.kind(), format!("control groups at {}: {e}", mount.display())))?;
    }
    Ok(())
}

/// Where hierarchies of both versions are mounted (proc(5), mountinfo): their topmost groups, not those of a container.
fn hierarchies(mountinfo: &str, below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next(), fields.next().map(PathBuf::from));
        let kind = after.split(' ').next();
        if let (Some("/"), Some(at), Some("cgroup" | "cgroup2")) = (root, at, kind)
            && at.starts_with(below)
        {
            found.push(at);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_the_host_are_told_from_those_of_the_container() {
        let text = "\
31 25 0:26 / /host/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:27 / /host/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /host/cgroup/memory rw,nosuid shared:10 master:3 - cgroup cgroup rw,memory
40 25 0:28 /pod/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
41 25 0:27 / /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw
90 80 0:28 /pod/c1 /host/cgroup/c1 rw - cgroup cgroup rw,memory
a line that is none";
        let found = hierarchies(text, Path::new("/host/cgroup"));
        assert_eq!(found, [Path::new("/host/cgroup/unified"), Path::new("/host/cgroup/memory")]);
        assert!(hierarchies("", Path::new("/host/cgroup")).is_empty());
    }
}
