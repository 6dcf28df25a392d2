//! The air-gap bundle: everything a machine without a network needs, in one file.

use super::archive::{checksums, gzip, tar};
use super::release::Release;
use super::tree::Tree;
use super::{Artifact, oci};
use crate::run::root;
use anyhow::{Context as _, Result};
use std::fs;

/// The one directory in the bundle.
pub(super) fn directory(release: &Release) -> String {
    format!("warren-{}-airgap-linux-{}", release.version, release.arch.oci)
}

/// The bundle's bytes.
pub(super) fn make(release: &Release) -> Result<Vec<u8>> {
    let text = |path: &str| fs::read(root().join(path)).with_context(|| path.to_owned());
    let file = |name: &str, mode, bytes| Artifact { name: name.into(), bytes, mode };
    let mut files = vec![
        file("warren", 0o755, release.binary.to_vec()),
        file(&oci::file_name(release), 0o644, oci::make(release)?),
        file("install.sh", 0o755, text("packaging/install.sh")?),
        file("sbom.cdx.json", 0o644, release.sbom.clone()),
        file("licenses.txt", 0o644, release.licenses.clone()),
        file("LICENSE", 0o644, text("LICENSE")?),
        file("warren.yaml", 0o644, release.manifests.clone()),
    ];
    let sums = checksums(&files);
    files.push(sums);
    let mut tree = Tree::default();
    for Artifact { name, bytes, mode } in files {
        tree.file(&format!("{}/{name}", directory(release)), mode, bytes);
    }
    gzip(&tar(&tree, "", release.epoch)?)
}
