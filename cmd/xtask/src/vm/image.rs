//! The initramfs: busybox, the static binaries, the modules a network lab needs.

use super::kernel::Kernel;
use super::quiet;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Module directories taken along; the kernel asks for single modules by name when it needs them.
const MODULES: &[&str] = &[
    "kernel/net",
    "kernel/drivers/net",
    "kernel/drivers/virtio",
    "kernel/crypto",
    "kernel/lib",
    "kernel/arch/x86/crypto",
];

/// Programs of the tests (not of Warren), taken along with the libraries they load.
const PROGRAMS: &[&str] = &["ip", "tc", "nft", "ping"];

/// First process of the machine: runs every test program, reports, powers off.
const INIT: &str = include_str!("init.sh");

/// Builds `dir/initramfs` and returns its path.
pub(super) fn build(
    dir: &Path,
    kernel: &Kernel,
    warren: &Path,
    tests: &[(String, PathBuf)],
) -> Result<PathBuf> {
    let tree = dir.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for sub in [
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var/lib",
        "tests",
        "opt/cni/bin",
    ] {
        fs::create_dir_all(tree.join(sub))?;
    }
    executable(&busybox()?, &tree.join("bin/busybox"))?;
    for link in ["bin/sh", "sbin/modprobe", "bin/mount", "sbin/poweroff"] {
        symlink("/bin/busybox", tree.join(link))?;
    }
    executable(warren, &tree.join("usr/bin/warren"))?;
    for (name, test) in tests {
        executable(test, &tree.join("tests").join(name))?;
    }
    for program in PROGRAMS {
        with_libraries(program, &tree)?;
    }
    modules(kernel, &tree)?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    pack(&tree, &dir.join("initramfs"))
}

fn busybox() -> Result<PathBuf> {
    on_path("busybox").context("busybox: type: apt-get install -y busybox-static")
}

fn on_path(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|d| Path::new(d).join(program))
        .find(|p| p.is_file())
}

fn executable(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Copies a dynamically linked program and every library that `ldd` names.
fn with_libraries(program: &str, tree: &Path) -> Result<()> {
    let path = on_path(program).with_context(|| format!("{program}: not on this machine"))?;
    executable(&path, &tree.join("usr/sbin").join(program))?;
    let out = Command::new("ldd").arg(&path).output().context("ldd")?;
    for library in String::from_utf8_lossy(&out.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
        let to = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library has a directory")?)?;
        executable(Path::new(library), &to)?;
    }
    Ok(())
}

fn modules(kernel: &Kernel, tree: &Path) -> Result<()> {
    let base = Path::new("lib/modules").join(&kernel.release);
    let (from, to) = (kernel.modules_root.join(&base), tree.join(&base));
    for sub in MODULES.iter().filter(|s| from.join(s).is_dir()) {
        fs::create_dir_all(to.join(sub))?;
        let (source, target) =
            (format!("{}/.", from.join(sub).display()), to.join(sub).display().to_string());
        quiet(tree, "cp", &["-r", &source, &target])?;
    }
    for list in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        fs::copy(from.join(list), to.join(list)).with_context(|| format!("copy {list}"))?;
    }
    let root = tree.display().to_string();
    quiet(tree, "busybox", &["depmod", "-b", &root, &kernel.release])
}

/// Packs the tree in the kernel's own archive format.
fn pack(tree: &Path, image: &Path) -> Result<PathBuf> {
    let find = Command::new("find").arg(".").current_dir(tree).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.context("find has no stdout")?;
    let status = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(tree)
        .stdin(names)
        .stdout(fs::File::create(image)?)
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("cpio {}: {status}", image.display());
    }
    Ok(image.to_owned())
}
