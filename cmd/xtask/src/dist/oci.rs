//! The container image, as an archive of the OCI image layout (image-spec 1.1): from scratch, the binary, the roots that
//! Mozilla trusts, and licences. `ctr images import`, `podman load` and k3s read it; Docker since version 25.

use super::archive::{gzip, sha256, tar};
use super::package;
use super::release::Release;
use super::tree::Tree;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What Kubernetes makes of `image: warren:VERSION`.
pub(super) const IMAGE: &str = "docker.io/library/warren";
/// Where programs look for the authorities to trust.
const ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";

/// The archive's name.
pub(super) fn file_name(release: &Release) -> String {
    format!("warren-{}-image-linux-{}.tar", release.version, release.arch.oci)
}

/// The archive's bytes.
pub(super) fn make(release: &Release) -> Result<Vec<u8>> {
    let created = release.date()?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let layer = tar(&layer(release)?, "", release.epoch)?;
    let compressed = gzip(&layer)?;
    let config = json!({
        "created": created,
        "architecture": release.arch.oci,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": ["/usr/bin/warren"],
            "Labels": {
                "org.opencontainers.image.title": "warren",
                "org.opencontainers.image.version": release.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
        "history": [{"created": created, "created_by": "cargo xtask dist"}],
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &compressed)],
        "annotations": {"org.opencontainers.image.created": created},
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["platform"] = json!({"architecture": release.arch.oci, "os": "linux"});
    entry["annotations"] = json!({
        "io.containerd.image.name": format!("{IMAGE}:{}", release.version),
        "org.opencontainers.image.ref.name": release.version,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let mut layout = Tree::default();
    layout.file("oci-layout", 0o644, *br#"{"imageLayoutVersion":"1.0.0"}"#);
    layout.file("index.json", 0o644, serde_json::to_vec(&index)?);
    for blob in [config, manifest, compressed] {
        layout.file(&format!("blobs/sha256/{}", sha256(&blob)), 0o644, blob);
    }
    tar(&layout, "", release.epoch)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()})
}

fn layer(release: &Release) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.file("usr/bin/warren", 0o755, release.binary.clone());
    tree.file(ROOTS, 0o644, roots().into_bytes());
    for (path, text) in package::licenses(release, "usr/share/doc/warren")? {
        tree.file(&path, 0o644, text);
    }
    Ok(tree)
}

/// The authorities as PEM (RFC 7468).
fn roots() -> String {
    let mut pem = String::new();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(root);
        for start in (0..text.len()).step_by(64) {
            pem.push_str(&text[start..text.len().min(start + 64)]);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_are_pem() {
        let pem = roots();
        let parts: Vec<&str> = pem.split("-----BEGIN CERTIFICATE-----\n").skip(1).collect();
        assert_eq!(parts.len(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
        assert!(parts.len() > 50, "{} roots", parts.len());
        for (part, der) in parts.iter().zip(webpki_root_certs::TLS_SERVER_ROOT_CERTS) {
            let body: String = part.lines().take_while(|l| !l.starts_with('-')).collect();
            assert_eq!(STANDARD.decode(body).unwrap(), der.as_ref());
        }
    }
}
