//! The kernel WireGuard backend, in every run: QEMU with Debian's cloud kernel and an initramfs that holds the static
//! binary, the end-to-end tests and the kernel's modules.

mod image;
mod kernel;

use crate::build::{release, static_cargo, target_dir};
use crate::needs;
use crate::run::run;
use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The line with which the machine's init reports; the exit code of the tests follows.
const REPORT: &str = "WARREN-VM-EXIT ";
/// How long the machines may take in all. Emulated, one is some twenty times slower than the host.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The socket that is the wire between two machines, in the directory of their image.
const WIRE: &str = "wire.sock";
/// Test programs for the machine, by the names of their files in `e2e/tests`.
const TESTS: &[&str] = &["machine", "two_machines"];

/// A machine to boot: what its init is to do, and what it gets.
struct Spec {
    /// One machine with a lab inside: `tests`. Two with a wire between them: `first` and `second`.
    role: &'static str,
    cpus: &'static str,
    memory: &'static str,
    /// Its end of the wire: hardware address, and whether it makes the socket.
    wire: Option<(&'static str, bool)>,
}

const LAB: Spec = Spec { role: "tests", cpus: "2", memory: "3072", wire: None };
const PAIR: [Spec; 2] = [
    Spec { role: "first", cpus: "1", memory: "1536", wire: Some(("52:54:00:57:00:01", true)) },
    Spec { role: "second", cpus: "1", memory: "1536", wire: Some(("52:54:00:57:00:02", false)) },
];

/// Runs the end-to-end tests marked for the machine, then the two-machine test.
pub(crate) fn run_tests() -> Result<()> {
    needs::root()?;
    needs::for_machine()?;
    let dir = target_dir().join("vm");
    let kernel = kernel::fetch(&dir)?;
    let image = image::build(&dir, &kernel, &release()?, &tests()?)?;
    boot(&kernel, &image, &[LAB])?;
    boot(&kernel, &image, &PAIR)
}

/// Builds the end-to-end test programs for the machine and returns their names and paths.
fn tests() -> Result<Vec<(String, PathBuf)>> {
    eprintln!("==> build the tests for the machine");
    let mut command = static_cargo("test")?;
    command.arg("--no-run").args(TESTS.iter().flat_map(|test| ["--test", test]));
    command.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo test --no-run")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut found = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let (true, Some(path)) = (artifact.profile.test, artifact.executable)
        {
            found.push((artifact.target.name, path.into_std_path_buf()));
        }
    }
    if !child.wait()?.success() || found.len() != TESTS.len() {
        bail!("the tests for the machine did not build; see above");
    }
    Ok(found)
}

/// Boots machines side by side, shows what they say, and judges them by their report lines.
fn boot(kernel: &kernel::Kernel, image: &Path, specs: &[Spec]) -> Result<()> {
    let roles: Vec<&str> = specs.iter().map(|s| s.role).collect();
    eprintln!("==> QEMU ({}), kernel {}", roles.join(" and "), kernel.release);
    let start = Instant::now();
    let (sender, lines) = mpsc::sync_channel(1024);
    // Each is ended when this returns, whatever for.
    let mut running = Vec::new();
    for spec in specs {
        running.push(Machine::start(kernel, image, spec, sender.clone())?);
    }
    drop(sender);
    let mut reports = 0;
    while reports < specs.len() {
        let left = LIMIT.saturating_sub(start.elapsed());
        let (role, line) = match lines.recv_timeout(left) {
            Ok(said) => said,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("a machine gave no report within {LIMIT:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("a machine ended without a report; see above"),
        };
        match line.split(REPORT).nth(1) {
            Some("0") => reports += 1,
            Some(code) => {
                bail!(
                    "the tests in the machine ({role}) failed (exit code {code}); see above; repeat: cargo xtask vm"
                )
            }
            None => eprintln!("    {role} | {line}"),
        }
    }
    eprintln!("    {} done after {:.0} s", roles.join(" and "), start.elapsed().as_secs_f64());
    Ok(())
}

/// A running machine; dropping it ends it.
struct Machine {
    child: Child,
}

impl Machine {
    /// Starts it; its lines go to `lines`, under its role.
    fn start(
        kernel: &kernel::Kernel,
        image: &Path,
        spec: &Spec,
        lines: mpsc::SyncSender<(&'static str, String)>,
    ) -> Result<Self> {
        let dir = image.parent().context("an image has a directory")?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", spec.cpus, "-m", spec.memory]);
        command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(&kernel.vmlinuz).arg("-initrd").arg(image);
        command.args(["-append", &format!("console=ttyS0 quiet panic=-1 warren.role={}", spec.role)]);
        if let Some((mac, listens)) = spec.wire {
            if listens {
                remove(&dir.join(WIRE))?;
            } else {
                wait_for(&dir.join(WIRE))?;
            }
            let server = if listens { "on" } else { "off" };
            // A path relative to QEMU's directory: the length of a socket's path is limited.
            let wire = format!("stream,id=wire,server={server},addr.type=unix,addr.path={WIRE}");
            // Without an option ROM: nothing is booted from the wire.
            command.args([
                "-netdev",
                &wire,
                "-device",
                &format!("virtio-net-pci,netdev=wire,mac={mac},romfile="),
            ]);
        }
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("qemu-system-x86_64 (package qemu-system-x86)")?;
        let stdout = child.stdout.take().context("qemu has no stdout")?;
        let role = spec.role;
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if lines.send((role, line)).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Ok(Self { child })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes what an earlier run may have left.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Waits until another process has made `path`: there is no notice of it.
fn wait_for(path: &Path) -> Result<()> {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("the first machine has made no {}", path.display());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Runs a helper program quietly, in `dir`.
fn quiet(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdout(Stdio::null());
    run(&format!("{program} {}", args.join(" ")), &mut command)
}
