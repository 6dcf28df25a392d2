//! Debian's cloud kernel: downloaded as a package and unpacked, never installed.

use super::quiet;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An unpacked kernel.
pub(super) struct Kernel {
    /// `uname -r` of it.
    pub(super) release: String,
    /// The bootable image.
    pub(super) vmlinuz: PathBuf,
    /// Directory that holds `lib/modules/RELEASE`.
    pub(super) modules_root: PathBuf,
}

/// Has the kernel under `dir`, from an earlier run or from Debian.
pub(super) fn fetch(dir: &Path) -> Result<Kernel> {
    let tree = dir.join("kernel");
    if let Ok(kernel) = find(&tree) {
        return Ok(kernel);
    }
    std::fs::create_dir_all(&tree)?;
    let package = package_name()?;
    quiet(dir, "apt-get", &["download", &package])?;
    let archive = std::fs::read_dir(dir)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get download {package} left no package in {}", dir.display()))?;
    quiet(dir, "dpkg-deb", &["-x", &archive.to_string_lossy(), &tree.to_string_lossy()])?;
    std::fs::remove_file(&archive)?;
    find(&tree)
}

/// The package that `linux-image-cloud-amd64` stands for today.
fn package_name() -> Result<String> {
    let out = Command::new("apt-cache")
        .args(["depends", "linux-image-cloud-amd64"])
        .output()
        .context("apt-cache")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let name = text.lines().find_map(|l| l.trim().strip_prefix("Depends: linux-image-"));
    match name {
        Some(name) => Ok(format!("linux-image-{name}")),
        None => bail!("apt does not know linux-image-cloud-amd64; type: apt-get update"),
    }
}

fn find(tree: &Path) -> Result<Kernel> {
    let boot = std::fs::read_dir(tree.join("boot")).context("no kernel yet")?;
    for entry in boot {
        let entry = entry?;
        if let Some(release) = entry.file_name().to_string_lossy().strip_prefix("vmlinuz-") {
            return Ok(Kernel {
                release: release.to_owned(),
                vmlinuz: entry.path(),
                modules_root: tree.to_owned(),
            });
        }
    }
    bail!("no kernel in {}", tree.display())
}
