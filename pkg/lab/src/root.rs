//! The file tree of a node: the host's programs, and everything that a node writes on a disk of its own.
//!
//! A new root is built in memory. Most of the host's top directories appear in it as they are. Directories in which a
//! node writes (`/etc`, `/opt`, `/var/lib`) are directories of the node's disk, filled with links to the host's
//! entries; what belongs to Warren, CNI and Kubernetes is left out of them, so that nothing of the host is read or
//! written there, also on a host that is a node of a real cluster.
//! The host's own root is at `/.host`.

use crate::LabError;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// Where the host's root is, inside a node.
pub(crate) const HOST: &str = "/.host";

/// Directories of the node's disk, and the entries of the host's that they hide.
const DISK: [(&str, &[&str]); 3] = [
    ("etc", &["cni", "warren", "rancher", "kubernetes"]),
    ("opt", &["cni"]),
    ("var/lib", &["warren", "cni", "rancher", "kubelet", "containerd"]),
];
/// Directories that a node has on its disk from the first boot on.
const OWN: [&str; 5] = ["etc/cni/net.d", "etc/warren", "opt/cni/bin", "var/lib/warren", "var/lib/cni"];

const NONE: Option<&str> = None;
/// How the kernel's file systems are mounted.
const KERNEL: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

fn mounted(
    what: &str,
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), LabError> {
    mount(source, target, kind, flags, data)
        .map_err(LabError::errno(format!("mount {what} at {}", target.display())))
}

/// Keeps mounts of this mount namespace to itself, and those of others out.
pub(crate) fn keep_mounts_private() -> Result<(), LabError> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(LabError::errno("make mounts private"))
}

/// Mounts an empty memory disk.
pub(crate) fn memory_disk(target: &Path, mode: &str) -> Result<(), LabError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mounted("a memory disk", Some(Path::new("lab")), target, Some("tmpfs"), flags, Some(mode))
}

/// Takes a mount out of this namespace; what uses it keeps it until it ends.
pub(crate) fn detach(target: &Path) -> Result<(), LabError> {
    umount2(target, MntFlags::MNT_DETACH).map_err(LabError::errno(format!("unmount {}", target.display())))
}

/// Shows `source` at `target`, with all that is mounted below.
pub(crate) fn show(source: &Path, target: &Path) -> Result<(), LabError> {
    mounted("a directory", Some(source), target, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
}

/// Prepares a node's disk, with links to what `host`, the root of the host, has: once, and again harmlessly.
fn format_disk(disk: &Path, host: &Path) -> io::Result<()> {
    for dir in OWN {
        fs::create_dir_all(disk.join(dir))?;
    }
    for (dir, hidden) in DISK {
        let Ok(entries) = fs::read_dir(host.join(dir)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if hidden.iter().any(|h| name == *h) {
                continue;
            }
            let target = match fs::read_link(entry.path()) {
                Ok(target) => target,
                Err(_) => Path::new(HOST).join(dir).join(&name),
            };
            match symlink(target, disk.join(dir).join(&name)) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Gives the calling process, and all that it starts, the file tree of a node. `disk` is the node's disk; `boot_id`
/// makes this a boot of its own for what reads the kernel's.
pub(crate) fn enter_node(disk: &Path, boot_id: &str) -> Result<(), LabError> {
    format_disk(disk, Path::new("/"))
        .map_err(LabError::io(format!("prepare the disk {}", disk.display())))?;
    let root = disk.join("root");
    fs::create_dir_all(&root).map_err(LabError::io("make the node's root"))?;
    memory_disk(&root, "mode=755")?;
    let host = root.join(HOST.trim_start_matches('/'));
    fs::create_dir(&host).map_err(LabError::io("make the node's root"))?;
    show(Path::new("/"), &host)?;
    mirror(Path::new("/"), &root, &["proc", "sys", "run", "etc", "opt", "var", ".host", "lost+found"])?;
    let inside = |name: &str| -> Result<_, LabError> {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(LabError::io(format!("make {}", path.display())))?;
        Ok(path)
    };
    mirror(Path::new("/var"), &inside("var")?, &["lib"])?;
    for (dir, _) in DISK {
        show(&disk.join(dir), &inside(dir)?)?;
    }
    memory_disk(&inside("run")?, "mode=755")?;
    mount_kernel(&inside("proc")?, &inside("sys")?)?;
    let file = root.join("run/boot_id");
    fs::write(&file, format!("{boot_id}\n")).map_err(LabError::io("write the boot id"))?;
    let id = root.join("proc/sys/kernel/random/boot_id");
    mounted("a boot id", Some(&file), &id, None, MsFlags::MS_BIND, None)?;
    // The host's root may be the kernel's first file system, which cannot be exchanged, only covered.
    let change = || {
        nix::unistd::chdir(&root)?;
        mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
        nix::unistd::chroot(".")?;
        nix::unistd::chdir("/")
    };
    change().map_err(LabError::errno("change to the node's root"))
}

/// Gives the calling process what a pod sees of its node: all but the kernel's views and `/run`.
pub(crate) fn enter_pod() -> Result<(), LabError> {
    memory_disk(Path::new("/run"), "mode=755")?;
    mount_kernel(Path::new("/proc"), Path::new("/sys"))
}

/// Shows the calling process `text` in place of a file of its node.
pub(crate) fn show_file(path: &str, text: &str) -> Result<(), LabError> {
    let what = || format!("give a pod its {path}");
    let own = Path::new("/run").join(path.rsplit('/').next().unwrap_or_default());
    fs::write(&own, text).map_err(LabError::io(what()))?;
    mounted("a pod's own file", Some(&own), Path::new(path), None, MsFlags::MS_BIND, None)
}

/// Gives the calling process the kernel's view of the devices of its network namespace. `place` is an empty directory.
pub(crate) fn own_devices(place: &Path) -> Result<(), LabError> {
    mount_devices(place)?;
    mounted("the kernel's view of devices", Some(place), Path::new("/sys"), None, MsFlags::MS_MOVE, None)
}

/// The kernel's views of this process's namespaces.
fn mount_kernel(proc: &Path, sys: &Path) -> Result<(), LabError> {
    mounted("the kernel's view of processes", Some(Path::new("proc")), proc, Some("proc"), KERNEL, None)?;
    mount_devices(sys)
}

fn mount_devices(sys: &Path) -> Result<(), LabError> {
    mounted("the kernel's view of devices", Some(Path::new("sysfs")), sys, Some("sysfs"), KERNEL, None)?;
    let host = Path::new("/sys/fs/cgroup");
    let target = sys.join("fs/cgroup");
    // A pod covers /sys itself: there is no other view of the control groups then.
    if target != host && host.is_dir() && target.is_dir() {
        show(host, &target)?;
    }
    Ok(())
}

/// Shows the entries of `from` in `to`, except some.
fn mirror(from: &Path, to: &Path, except: &[&str]) -> Result<(), LabError> {
    let what = || format!("show {} in a node", from.display());
    for entry in fs::read_dir(from).map_err(LabError::io(what()))?.flatten() {
        let name = entry.file_name();
        if except.iter().any(|e| name == *e) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            let link = fs::read_link(&source).map_err(LabError::io(what()))?;
            symlink(link, &target).map_err(LabError::io(what()))?;
        } else if kind.is_dir() {
            fs::create_dir(&target).map_err(LabError::io(what()))?;
            if let Ok(meta) = entry.metadata() {
                let _ = fs::set_permissions(&target, fs::Permissions::from_mode(meta.permissions().mode()));
            }
            show(&source, &target)?;
        } else if kind.is_file() {
            fs::write(&target, b"").map_err(LabError::io(what()))?;
            show(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_hosts_own_cluster_is_within_reach_of_a_node() {
        let dir = tempfile::tempdir().unwrap();
        let (host, disk) = (dir.path().join("host"), dir.path().join("disk"));
        for file in
            ["var/lib/kubelet/config.yaml", "etc/rancher/k3s/config.yaml", "etc/cni/net.d/x", "etc/hosts"]
        {
            fs::create_dir_all(host.join(file).parent().unwrap()).unwrap();
            fs::write(host.join(file), "the host's").unwrap();
        }
        for _ in 0..2 {
            format_disk(&disk, &host).unwrap();
        }
        let linked = |path: &str| fs::symlink_metadata(disk.join(path)).is_ok();
        assert!(linked("etc/hosts") && !linked("etc/rancher") && !linked("var/lib/kubelet"));
        assert_eq!(fs::read_dir(disk.join("etc/cni/net.d")).unwrap().count(), 0);
    }
}
