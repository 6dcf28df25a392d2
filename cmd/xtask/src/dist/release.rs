//! What a release is made of, read once: the binary and what it says of itself, texts of the repository, components.

use super::{components, elf, licenses, sbom};
use crate::build::{host_triple, target_dir};
use crate::run::root;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// One architecture, as each format names it.
#[derive(Clone, Copy)]
pub(super) struct Arch {
    pub(super) deb: &'static str,
    pub(super) rpm: &'static str,
    /// As Go and OCI name it (GOARCH).
    pub(super) oci: &'static str,
}

/// Everything that the packers read.
pub(super) struct Release {
    pub(super) version: String,
    pub(super) arch: Arch,
    /// Seconds since 1970 that every file is dated with.
    pub(super) epoch: u64,
    pub(super) binary: Arc<[u8]>,
    /// Path of a completion script on a machine, and the script.
    pub(super) completions: Vec<(&'static str, Vec<u8>)>,
    pub(super) changelog: Vec<u8>,
    /// Names and texts of systemd units.
    pub(super) units: Vec<(String, Vec<u8>)>,
    /// The manifests for k3s.
    pub(super) manifests: Vec<u8>,
    pub(super) sbom: Vec<u8>,
    pub(super) licenses: Vec<u8>,
}

/// Where shells look for completion scripts.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/warren"),
    ("zsh", "usr/share/zsh/vendor-completions/_warren"),
    ("fish", "usr/share/fish/vendor_completions.d/warren.fish"),
];

impl Release {
    /// Reads it; `binary` is the release binary, which must be static and of this source's version.
    pub(super) fn read(binary: &Path) -> Result<Self> {
        let shown = || binary.display().to_string();
        let triple = host_triple()?;
        let bytes = fs::read(binary).with_context(shown)?;
        elf::check_static_pie(&bytes).with_context(shown)?;
        no_paths_of_the_builder(&bytes).with_context(shown)?;
        let components = components::of_the_binary(&triple)?;
        let version = components.version.clone();
        let said = output(Command::new(binary).arg("--version"))?;
        ensure!(said == format!("warren {version}\n").as_bytes(), "{} is not of version {version}", shown());
        let completions = COMPLETIONS
            .iter()
            .map(|(shell, path)| Ok((*path, output(Command::new(binary).args(["completion", shell]))?)));
        let epoch = epoch()?;
        Ok(Self {
            arch: arch(&triple)?,
            epoch,
            completions: completions.collect::<Result<_>>()?,
            changelog: fs::read(root().join("CHANGELOG.md")).context("CHANGELOG.md")?,
            units: units()?,
            manifests: manifests(binary)?,
            sbom: sbom::cyclonedx(&components, epoch)?,
            licenses: licenses::collect(&components)?,
            binary: bytes.into(),
            version,
        })
    }

    /// The release's time as a day and a time of it, in UTC.
    pub(super) fn date(&self) -> Result<jiff::Zoned> {
        date(self.epoch)
    }
}

/// Seconds since 1970 as a date in UTC.
pub(super) fn date(epoch: u64) -> Result<jiff::Zoned> {
    let time = jiff::Timestamp::from_second(i64::try_from(epoch)?).context("SOURCE_DATE_EPOCH")?;
    Ok(time.to_zoned(jiff::tz::TimeZone::UTC))
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), else the time of the last commit.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            git.current_dir(root()).args(["log", "-1", "--format=%ct"]);
            let text = output(&mut git).context("without git history SOURCE_DATE_EPOCH must say a time")?;
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not seconds since 1970"))
}

fn arch(triple: &str) -> Result<Arch> {
    Ok(match triple.split('-').next() {
        Some("x86_64") => Arch { deb: "amd64", rpm: "x86_64", oci: "amd64" },
        Some("aarch64") => Arch { deb: "arm64", rpm: "aarch64", oci: "arm64" },
        _ => bail!("no packages are made for {triple}; docs/packages.md says for what they are"),
    })
}

/// The systemd units of packaging/systemd as packages have them, sorted: `warren install` puts the program elsewhere.
fn units() -> Result<Vec<(String, Vec<u8>)>> {
    let place = root().join("packaging/systemd");
    let mut units = Vec::new();
    for file in fs::read_dir(&place)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if [".service", ".socket", ".slice", ".target", ".timer"].iter().any(|kind| name.ends_with(kind)) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let text: String = text
                .lines()
                .filter(|l| !l.contains("`warren install`"))
                .fold(String::new(), |all, line| all + &line.replace("/usr/local/bin/", "/usr/bin/") + "\n");
            ensure!(
                text.contains("ExecStart=/usr/bin/warren "),
                "{}: it starts no /usr/bin/warren",
                path.display()
            );
            units.push((name, text.into_bytes()));
        }
    }
    units.sort();
    Ok(units)
}

/// The manifests of the bundle: those for k3s, whose ranges and API are the same everywhere.
fn manifests(binary: &Path) -> Result<Vec<u8>> {
    output(Command::new(binary).args(["manifests", "--k3s"]))
}

/// Fails when the binary tells where it was built: two builders would get different bytes.
fn no_paths_of_the_builder(binary: &[u8]) -> Result<()> {
    for place in [root(), target_dir(), crate::build::cargo_home()?] {
        let place = place.display().to_string();
        let found = memchr::memmem::find(binary, place.as_bytes());
        ensure!(found.is_none(), "it holds the builder's path {place}");
    }
    Ok(())
}

/// What a program prints, which must succeed.
pub(super) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("cannot start {name}"))?;
    ensure!(out.status.success(), "{name}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(out.stdout)
}
