//! Leaving a container's control groups: a runtime that ends a container kills what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The host as its first process sees it. Other than the host's own in a container that has the host's process ids only.
const HOST: &str = "/proc/1";

/// Moves this process, and so what it starts from now on, to the topmost control group of every hierarchy of the host.
/// Needs the host's process ids (`hostPID`) and the rights of a privileged container.
///
/// # Errors
/// When there is no hierarchy, or one cannot be written: this process then ends with its container.
pub(crate) fn leave() -> io::Result<()> {
    let mounts = fs::read_to_string(Path::new(HOST).join("mountinfo"))?;
    let hierarchies = hierarchies(&mounts);
    if hierarchies.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no control groups mounted"));
    }
    for mount in hierarchies {
        let inside = mount.strip_prefix("/").unwrap_or(&mount);
        let file = Path::new(HOST).join("root").join(inside).join("cgroup.procs");
        // 0 is the writer.
        fs::write(&file, "0")
            .map_err(|e| io::Error::new(e.kind(), format!("control groups of {}: {e}", mount.display())))?;
    }
    Ok(())
}

/// Where hierarchies of both versions are mounted (proc(5), mountinfo): their topmost groups, not those that are bound
/// somewhere else.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut fields = before.split(' ').skip(3);
        let (root, at) = (fields.next(), fields.next());
        let kind = after.split(' ').next();
        if let (Some("/"), Some(at), Some("cgroup" | "cgroup2")) = (root, at, kind) {
            found.push(PathBuf::from(at));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_by_their_kind() {
        let text = "\
25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
31 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:10 master:3 - cgroup cgroup rw,memory
90 80 0:28 /pod/c1 /run/c1/cgroup rw - cgroup cgroup rw,memory
a line that is none";
        assert_eq!(
            hierarchies(text),
            [Path::new("/sys/fs/cgroup/unified"), Path::new("/sys/fs/cgroup/memory")]
        );
        assert!(hierarchies("").is_empty());
    }
}
