//! Bytes of archives and their sums, the same at each run: sorted, owned by root, dated by the release.

use super::Artifact;
use super::tree::{Content, Tree};
use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use std::io::Write as _;

/// The file of checksums, as `sha256sum --check` reads it.
pub(super) const CHECKSUMS: &str = "SHA256SUMS";

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // A String takes everything.
        text
    })
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// `SHA256SUMS` of `artifacts`.
pub(super) fn checksums(artifacts: &[Artifact]) -> Artifact {
    let mut lines: Vec<_> = artifacts.iter().map(|a| format!("{}  {}\n", sha256(&a.bytes), a.name)).collect();
    lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
    Artifact { name: CHECKSUMS.into(), bytes: lines.concat().into_bytes(), mode: 0o644 }
}

/// A gzip stream (RFC 1952) without time or name.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // 255: unknown system.
    let mut encoder = GzBuilder::new().operating_system(255).write(Vec::new(), Compression::new(7));
    encoder.write_all(bytes)?;
    encoder.finish().context("gzip")
}

/// A POSIX (ustar) archive of `tree`, each path with `prefix` in front.
pub(super) fn tar(tree: &Tree, prefix: &str, epoch: u64) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in tree.iter() {
        let mut header = tar::Header::new_ustar();
        let kind = match entry.content {
            Content::Directory => tar::EntryType::Directory,
            Content::File(_) => tar::EntryType::Regular,
        };
        let slash = if entry.is_file() { "" } else { "/" };
        let name = format!("{prefix}{path}{slash}");
        // The crate's own setter takes the dot in front away.
        let field = header.as_ustar_mut().context("ustar")?.name.get_mut(..name.len());
        field
            .with_context(|| format!("{name} is too long for a ustar archive"))?
            .copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(epoch);
        header.set_size(entry.bytes().len() as u64);
        header.set_cksum();
        builder.append(&header, entry.bytes())?;
    }
    builder.into_inner().context("tar")
}

/// A Unix archive (`ar`), in the common form that `dpkg` reads: names of at most 16 bytes.
pub(super) fn ar(members: &[(&str, &[u8])], epoch: u64) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let length = bytes.len();
        out.extend(format!("{name:<16}{epoch:<12}{:<6}{:<6}{:<8}{length:<10}`\n", 0, 0, "100644").bytes());
        out.extend(*bytes);
        if length % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_names_no_builder_and_keeps_its_prefix() {
        let mut tree = Tree::default();
        tree.file("usr/bin/x", 0o755, *b"x");
        let bytes = tar(&tree, "./", 7).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let seen: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let h = entry.header();
                assert_eq!((h.mtime().unwrap(), h.uid().unwrap(), h.gid().unwrap()), (7, 0, 0));
                String::from_utf8(entry.path_bytes().to_vec()).unwrap()
            })
            .collect();
        assert_eq!(seen, ["./usr/", "./usr/bin/", "./usr/bin/x"]);
    }

    #[test]
    fn members_of_ar_begin_at_even_offsets() {
        let bytes = ar(&[("a", b"odd"), ("b", b"")], 1);
        assert_eq!(bytes.len(), 8 + 60 + 4 + 60);
        assert_eq!(&bytes[72..74], b"b ");
    }

    #[test]
    fn gzip_is_the_same_each_time() {
        let text = vec![b'a'; 10_000];
        assert_eq!(gzip(&text).unwrap(), gzip(&text).unwrap());
        assert_eq!(gzip(&text).unwrap()[4..10], [0, 0, 0, 0, 0, 255]);
    }
}
