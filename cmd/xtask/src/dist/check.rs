//! Proof of what was packed: the same bytes twice, and that it installs, runs and goes without a trace. Each check has
//! mounts, network and processes of its own, and a directory in place of every place of the machine that it writes to.

use super::{Artifact, named};
use crate::build::target_dir;
use crate::run::{root, run};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Fails when two runs made different bytes.
pub(super) fn same(one: &[Artifact], two: &[Artifact]) -> Result<()> {
    ensure!(one.len() == two.len(), "two runs made {} and {} files", one.len(), two.len());
    for (a, b) in one.iter().zip(two) {
        ensure!(a.name == b.name && a.bytes == b.bytes, "two runs made different bytes of {}", a.name);
    }
    println!("packed twice: {} files, the same bytes", one.len());
    Ok(())
}

/// Shell scripts of the checks, in the order they run: what for, on which file, the script.
const CHECKS: [(&str, &str, &str); 5] = [
    ("install and remove the Debian package", ".deb", "deb.sh"),
    ("install and remove the RPM package", ".rpm", "rpm.sh"),
    ("import and run the container image", ".tar", "oci.sh"),
    ("install and remove the air-gap bundle", ".tar.gz", "airgap.sh"),
    ("start a node, and read its memory", ".tar.gz", "memory.sh"),
];

/// Installs, runs and removes each artifact in `out`.
pub(super) fn installs(out: &Path, artifacts: &[Artifact]) -> Result<()> {
    lint()?;
    for (step, suffix, script) in CHECKS {
        let file = out.join(&named(artifacts, suffix)?.name).canonicalize()?;
        let work = target_dir().join("dist-check");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
        }
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--ipc",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command
            .args(["sh", "-eu"])
            .arg(root().join("cmd/xtask/src/dist/check").join(script))
            .arg(&file)
            .current_dir(&work);
        run(step, &mut command)?;
        fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
    }
    Ok(())
}

/// Directories of shell scripts that are handed out, or check what is.
const SCRIPTS: [&str; 5] =
    ["packaging", "packaging/deb", "packaging/rpm", "vagrant/provision", "cmd/xtask/src/dist/check"];

/// Fails on a script that `shellcheck` finds a fault in.
fn lint() -> Result<()> {
    let mut command = Command::new("shellcheck");
    command.args(["--shell", "sh"]).current_dir(root());
    for place in SCRIPTS {
        for file in fs::read_dir(root().join(place)).with_context(|| place.to_owned())? {
            let path = file?.path();
            if path.is_file() && fs::read(&path)?.starts_with(b"#") {
                command.arg(path);
            }
        }
    }
    run("check the shell scripts", &mut command)
}
