//! The kernel WireGuard backend, in every run: QEMU with Debian's cloud kernel and an initramfs that holds the static
//! binary, the end-to-end tests and the kernel's modules.

mod image;
mod kernel;

use crate::build::{release, static_cargo, target_dir};
use crate::needs;
use crate::run::{root, run};
use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The line with which the machine's init reports; the exit code of the tests follows.
const REPORT: &str = "WARREN-VM-EXIT ";
/// How long a machine may take in all. Emulated, it is some twenty times slower than the host.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs the end-to-end tests marked for the machine, then the two-machine test.
pub(crate) fn run_tests() -> Result<()> {
    needs::root()?;
    needs::for_tests()?;
    needs::for_machine()?;
    let kernel = kernel::fetch(&target_dir().join("vm"))?;
    let image = image::build(&target_dir().join("vm"), &kernel, &release()?, &tests()?)?;
    boot(&kernel, &image, "tests")
}

/// Builds the end-to-end test programs with the machine-only tests and returns their paths.
fn tests() -> Result<Vec<PathBuf>> {
    eprintln!("==> build the tests for the machine");
    let mut command = static_cargo("test")?;
    command.args(["--package", "warren-e2e", "--features", "vm", "--test", "machine", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo test --no-run")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut found = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let (true, Some(path)) = (artifact.profile.test, artifact.executable)
        {
            found.push(path.into_std_path_buf());
        }
    }
    if !child.wait()?.success() || found.is_empty() {
        bail!("the tests for the machine did not build; see above");
    }
    Ok(found)
}

/// Boots one machine to its end and judges it by its report line.
fn boot(kernel: &kernel::Kernel, image: &Path, role: &str) -> Result<()> {
    eprintln!("==> QEMU machine ({role}), kernel {}", kernel.release);
    let machine = Machine::start(kernel, image, role)?;
    let start = Instant::now();
    loop {
        let left = LIMIT.saturating_sub(start.elapsed());
        match machine.lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(code) = line.trim_end().split(REPORT).nth(1) {
                    if code.trim() == "0" {
                        return Ok(());
                    }
                    bail!(
                        "the tests in the machine failed (exit code {code}); see above; repeat: cargo xtask vm"
                    );
                }
                eprintln!("    | {}", line.trim_end());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the machine gave no report within {LIMIT:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("the machine ended without a report; see above")
            }
        }
    }
}

/// A running machine; dropping it ends it.
struct Machine {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Machine {
    fn start(kernel: &kernel::Kernel, image: &Path, role: &str) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "3072",
            "-cpu",
            "max",
            "-nographic",
            "-no-reboot",
        ]);
        command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(image);
        let append = format!("console=ttyS0 quiet panic=-1 warren.role={role}");
        command.args(["-nic", "none", "-append", &append]).current_dir(root());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("qemu-system-x86_64 (package qemu-system-x86)")?;
        let stdout = child.stdout.take().context("qemu has no stdout")?;
        let (sender, lines) = mpsc::sync_channel(1024);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(Self { child, lines })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a helper program quietly, in `dir`.
fn quiet(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdout(Stdio::null());
    run(&format!("{program} {}", args.join(" ")), &mut command)
}
