//! `cargo xtask dist`: everything that is handed out, made from the static release binary: the binary, packages, a
//! container image, an air-gap bundle, the list of components, licences, checksums.
//!
//! Nothing here asks the clock, the machine's name or its users: the same sources and toolchain give the same bytes.

mod archive;
mod bundle;
mod check;
mod components;
mod deb;
mod elf;
mod licenses;
mod oci;
mod package;
mod release;
mod rpm;
mod sbom;
mod tree;

use crate::build::target_dir;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use release::Release;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `cargo xtask dist`.
#[derive(Args)]
pub(crate) struct DistArgs {
    /// Where the files go [default: target/dist].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make these only.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    only: Vec<Kind>,
    /// Pack twice and compare, then install, import and remove what was made, in roots of their own. Needs root.
    #[arg(long, conflicts_with = "only")]
    verify: bool,
}

/// What can be made.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The static binary.
    Binary,
    /// Debian package.
    Deb,
    /// RPM package.
    Rpm,
    /// Container image, as an archive of the OCI layout.
    Oci,
    /// Bundle for machines without a network.
    Airgap,
    /// Components of the binary (CycloneDX).
    Sbom,
    /// Licences of what the binary is made of.
    Licenses,
}

/// One file that is handed out.
struct Artifact {
    name: String,
    bytes: Vec<u8>,
    mode: u32,
}

impl Kind {
    fn make(self, release: &Release) -> Result<Artifact> {
        let Release { version, arch, .. } = release;
        let oci_arch = arch.oci;
        let (name, bytes, mode) = match self {
            Self::Binary => (format!("warren-{version}-linux-{oci_arch}"), release.binary.to_vec(), 0o755),
            Self::Deb => {
                (format!("warren_{version}-{}_{}.deb", deb::REVISION, arch.deb), deb::make(release)?, 0o644)
            }
            Self::Rpm => {
                (format!("warren-{version}-{}.{}.rpm", rpm::RELEASE, arch.rpm), rpm::make(release)?, 0o644)
            }
            Self::Oci => (oci::file_name(release), oci::make(release)?, 0o644),
            Self::Airgap => (format!("{}.tar.gz", bundle::directory(release)), bundle::make(release)?, 0o644),
            Self::Sbom => {
                (format!("warren-{version}-linux-{oci_arch}.cdx.json"), release.sbom.clone(), 0o644)
            }
            Self::Licenses => {
                (format!("warren-{version}-linux-{oci_arch}-licenses.txt"), release.licenses.clone(), 0o644)
            }
        };
        Ok(Artifact { name, bytes, mode })
    }
}

/// Makes what `args` asks for.
pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let kinds = if args.only.is_empty() { Kind::value_variants() } else { &args.only };
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("dist"));
    if args.verify {
        crate::needs::root()?;
        crate::needs::for_packages()?;
    }
    let binary = crate::build::release()?;
    let start = Instant::now();
    let artifacts = pack(&binary, kinds)?;
    write(&out, &artifacts)?;
    print(&out, &artifacts, start);
    if args.verify {
        check::same(&artifacts, &pack(&binary, kinds)?)?;
        check::installs(&out, &artifacts)?;
    }
    Ok(())
}

/// Makes everything in `target/dist` and proves it, as `cargo xtask test` does.
pub(crate) fn verify() -> Result<()> {
    run(&DistArgs { out: None, only: Vec::new(), verify: true })
}

/// Makes the air-gap bundle of `binary` alone, for the end-to-end tests; returns its path.
pub(crate) fn airgap_bundle(binary: &Path) -> Result<PathBuf> {
    let out = target_dir().join("dist-e2e");
    let artifacts = pack(binary, &[Kind::Airgap])?;
    write(&out, &artifacts)?;
    Ok(out.join(&named(&artifacts, ".tar.gz")?.name))
}

fn pack(binary: &Path, kinds: &[Kind]) -> Result<Vec<Artifact>> {
    eprintln!("==> pack");
    let release = Release::read(binary)?;
    let mut made = std::thread::scope(|scope| {
        let jobs: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| kind.make(&release))).collect();
        let results = jobs.into_iter().map(|job| match job.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.collect::<Result<Vec<_>>>()
    })?;
    made.push(archive::checksums(&made));
    Ok(made)
}

/// Writes the artifacts to `out`. Files of earlier runs would be in no list of checksums, and are removed; a directory
/// with anything else in it is left as it is.
fn write(out: &Path, artifacts: &[Artifact]) -> Result<()> {
    let shown = || out.display().to_string();
    fs::create_dir_all(out).with_context(shown)?;
    let there = fs::read_dir(out).with_context(shown)?.collect::<Result<Vec<_>, _>>().with_context(shown)?;
    for old in &there {
        let name = old.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("warren-") || name.starts_with("warren_") || name == archive::CHECKSUMS;
        ensure!(
            ours && old.file_type()?.is_file(),
            "{} holds {name}, which is none of ours; name an empty directory with --out",
            shown()
        );
    }
    for old in there {
        fs::remove_file(old.path()).with_context(|| old.path().display().to_string())?;
    }
    for artifact in artifacts {
        let path = out.join(&artifact.name);
        fs::write(&path, &artifact.bytes).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(artifact.mode))?;
    }
    Ok(())
}

fn print(out: &Path, artifacts: &[Artifact], start: Instant) {
    let width = artifacts.iter().map(|a| a.name.len()).max().unwrap_or_default();
    println!("{:width$}  {:>10}  SHA-256", "FILE", "BYTES");
    for Artifact { name, bytes, .. } in artifacts {
        println!("{name:width$}  {:>10}  {}", bytes.len(), archive::sha256(bytes));
    }
    println!("in {}; packed in {:.1} s", out.display(), start.elapsed().as_secs_f32());
}

/// The one artifact whose name ends so.
fn named<'a>(artifacts: &'a [Artifact], suffix: &str) -> Result<&'a Artifact> {
    let mut found = artifacts.iter().filter(|a| a.name.ends_with(suffix));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => bail!("there is not exactly one file *{suffix}; run it without --only"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_foreign_files_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let artifact = |name: &str| Artifact { name: name.into(), bytes: Vec::new(), mode: 0o644 };
        write(dir.path(), &[artifact("warren-1"), artifact("SHA256SUMS")]).unwrap();
        write(dir.path(), &[artifact("warren-2")]).unwrap();
        assert!(!dir.path().join("warren-1").exists());
        fs::write(dir.path().join("notes"), "").unwrap();
        assert!(write(dir.path(), &[artifact("warren-3")]).is_err());
        assert!(dir.path().join("warren-2").exists());
    }
}
