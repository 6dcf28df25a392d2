//! The RPM package: lead, signature header, header, compressed cpio (rpm.org, "RPM V4 package format"). Digests, no signature.

use super::archive::{gzip, sha256};
use super::package::{self, DESCRIPTION, SUMMARY};
use super::release::Release;
use super::tree::{Entry, Tree};
use anyhow::Result;
use std::collections::BTreeMap;

/// The release of the package itself.
pub(super) const RELEASE: &str = "1";

/// A value of a header, by its type.
enum Value {
    Int16(Vec<u16>),
    Int32(Vec<u32>),
    Text(String),
    Texts(Vec<String>),
    /// Texts in languages, of which there is one.
    Translated(String),
}

impl Value {
    /// Type, alignment, count, bytes.
    fn encode(&self) -> (u32, usize, usize, Vec<u8>) {
        let ended = |text: &str| [text.as_bytes(), b"\0"].concat();
        match self {
            Self::Int16(list) => (3, 2, list.len(), list.iter().flat_map(|n| n.to_be_bytes()).collect()),
            Self::Int32(list) => (4, 4, list.len(), list.iter().flat_map(|n| n.to_be_bytes()).collect()),
            Self::Text(text) => (6, 1, 1, ended(text)),
            Self::Texts(list) => (8, 1, list.len(), list.iter().flat_map(|text| ended(text)).collect()),
            Self::Translated(text) => (9, 1, 1, ended(text)),
        }
    }
}

/// Tags of a header. They are written sorted, as rpm does.
#[derive(Default)]
struct Header(BTreeMap<u32, Value>);

impl Header {
    fn text(&mut self, tag: u32, text: impl Into<String>) {
        self.0.insert(tag, Value::Text(text.into()));
    }

    fn texts(&mut self, tag: u32, texts: impl IntoIterator<Item = impl Into<String>>) {
        self.0.insert(tag, Value::Texts(texts.into_iter().map(Into::into).collect()));
    }

    fn words(&mut self, tag: u32, words: impl IntoIterator<Item = u32>) {
        self.0.insert(tag, Value::Int32(words.into_iter().collect()));
    }

    fn halves(&mut self, tag: u32, halves: impl IntoIterator<Item = u16>) {
        self.0.insert(tag, Value::Int16(halves.into_iter().collect()));
    }

    fn translated(&mut self, tag: u32, text: impl Into<String>) {
        self.0.insert(tag, Value::Translated(text.into()));
    }

    /// The header's bytes. All of it is a region, named `region`: that is what digests are of.
    fn encode(&self, region: u32) -> Result<Vec<u8>> {
        let (mut index, mut store) = (Vec::new(), Vec::new());
        let mut entry = |words: [u32; 4]| index.extend(words.into_iter().flat_map(u32::to_be_bytes));
        for (tag, value) in &self.0 {
            let (kind, alignment, count, bytes) = value.encode();
            store.resize(store.len().next_multiple_of(alignment), 0);
            entry([*tag, kind, u32::try_from(store.len())?, u32::try_from(count)?]);
            store.extend(bytes);
        }
        let count = u32::try_from(self.0.len() + 1)?;
        let trailer = u32::try_from(store.len())?;
        // The region's trailer says how far back its index begins.
        store.extend([region, 7, (count * 16).wrapping_neg(), 16].into_iter().flat_map(u32::to_be_bytes));
        let mut out = b"\x8e\xad\xe8\x01\0\0\0\0".to_vec();
        out.extend([count, u32::try_from(store.len())?].into_iter().flat_map(u32::to_be_bytes));
        out.extend([region, 7, trailer, 16].into_iter().flat_map(u32::to_be_bytes));
        out.extend(index);
        out.extend(store);
        Ok(out)
    }
}

/// The package's bytes.
pub(super) fn make(release: &Release) -> Result<Vec<u8>> {
    let mut tree = package::tree(release, "usr/share/licenses/warren")?;
    tree.file("usr/share/doc/warren/CHANGELOG.md", 0o644, release.changelog.clone());
    let archive = cpio(&tree, release.epoch)?;
    let payload = gzip(&archive)?;
    let header = header(release, &tree, &payload)?.encode(63)?;
    let both = [header.as_slice(), &payload].concat();
    let mut signature = Header::default();
    signature.text(273, sha256(&header));
    signature.words(1000, [u32::try_from(both.len())?]);
    signature.words(1007, [u32::try_from(archive.len())?]);
    let mut out = lead(release)?;
    out.extend(signature.encode(62)?);
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(both);
    Ok(out)
}

/// 96 bytes that only `file` reads today.
fn lead(release: &Release) -> Result<Vec<u8>> {
    let mut out = b"\xed\xab\xee\xdb\x03\0\0\0\0\x01".to_vec();
    out.extend(format!("warren-{}-{RELEASE}", release.version).bytes());
    out.resize(76, 0);
    out.extend([0, 1, 0, 5]);
    out.resize(96, 0);
    Ok(out)
}

/// Warren's own files and directories: those of the system are its own.
fn owned(tree: &Tree) -> impl Iterator<Item = (&str, &Entry)> {
    tree.iter().filter(|(path, entry)| entry.is_file() || path.ends_with("/warren"))
}

/// File mode with its type, as `stat` has it.
fn mode(entry: &Entry) -> u32 {
    entry.mode | if entry.is_file() { 0o100_000 } else { 0o040_000 }
}

/// The payload: cpio in its "new ASCII" format.
fn cpio(tree: &Tree, epoch: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut member = |inode: usize, mode: u32, time: u64, name: &str, bytes: &[u8]| {
        let (links, length, named) = (1, bytes.len(), name.len() + 1);
        out.extend(
            format!("070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{time:08x}{length:08x}{0:08x}{0:08x}{0:08x}{0:08x}{named:08x}{0:08x}{name}\0", 0)
                .bytes(),
        );
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    for (n, (path, entry)) in owned(tree).enumerate() {
        member(n + 1, mode(entry), epoch, &format!("./{path}"), entry.bytes());
    }
    member(0, 0, 0, "TRAILER!!!", &[]);
    Ok(out)
}

/// What rpm shows and checks of the package; tags are named in `rpmtag.h`.
fn header(release: &Release, tree: &Tree, payload: &[u8]) -> Result<Header> {
    let epoch = u32::try_from(release.epoch)?;
    let version = format!("{}-{RELEASE}", release.version);
    let mut header = Header::default();
    header.texts(100, ["C"]);
    header.text(1000, "warren");
    header.text(1001, &release.version);
    header.text(1002, RELEASE);
    header.translated(1004, SUMMARY);
    header.translated(1005, DESCRIPTION.join("\n"));
    header.words(1006, [epoch]);
    header.text(1007, "localhost");
    let size: usize = owned(tree).map(|(_, entry)| entry.bytes().len()).sum();
    header.words(1009, [u32::try_from(size)?]);
    header.text(1014, "Apache-2.0");
    header.translated(1016, "System Environment/Daemons");
    header.text(1021, "linux");
    header.text(1022, release.arch.rpm);
    header.text(1044, format!("warren-{version}.src.rpm"));
    header.text(1064, "4.14");
    header.text(1124, "cpio");
    header.text(1125, "gzip");
    header.text(1126, "7");
    header.words(5011, [8]);
    header.text(5062, "utf-8");
    header.texts(5092, [sha256(payload)]);
    header.words(5093, [8]);
    files(&mut header, tree, epoch)?;
    scripts(&mut header, release)?;
    relations(&mut header, &version);
    Ok(header)
}

/// One element of each list for each file.
fn files(header: &mut Header, tree: &Tree, epoch: u32) -> Result<()> {
    let list: Vec<(&str, &Entry)> = owned(tree).collect();
    let split = |path: &str| match path.rsplit_once('/') {
        Some((directory, name)) => (format!("/{directory}/"), name.to_owned()),
        None => ("/".to_owned(), path.to_owned()),
    };
    let mut directories: Vec<String> = list.iter().map(|(path, _)| split(path).0).collect();
    directories.sort();
    directories.dedup();
    let directory = |path: &str| directories.iter().position(|d| *d == split(path).0).unwrap_or_default();
    let lengths = list.iter().map(|(_, entry)| u32::try_from(entry.bytes().len()));
    header.words(1028, lengths.collect::<Result<Vec<_>, _>>()?);
    header.halves(1030, list.iter().map(|(_, entry)| mode(entry) as u16));
    header.halves(1033, list.iter().map(|_| 0));
    header.words(1034, list.iter().map(|_| epoch));
    let digest = |entry: &Entry| if entry.is_file() { sha256(entry.bytes()) } else { String::new() };
    header.texts(1035, list.iter().map(|(_, entry)| digest(entry)));
    header.texts(1036, list.iter().map(|_| ""));
    header.words(1037, list.iter().map(|(path, _)| flags(path)));
    header.texts(1039, list.iter().map(|_| "root"));
    header.texts(1040, list.iter().map(|_| "root"));
    // Everything is verified.
    header.words(1045, list.iter().map(|_| u32::MAX));
    header.words(1095, list.iter().map(|_| 1));
    header.words(1096, (1..).take(list.len()));
    header.texts(1097, list.iter().map(|_| ""));
    let indexes = list.iter().map(|(path, _)| u32::try_from(directory(path)));
    header.words(1116, indexes.collect::<Result<Vec<_>, _>>()?);
    header.texts(1117, list.iter().map(|(path, _)| split(path).1));
    header.texts(1118, directories.iter());
    Ok(())
}

/// Configuration that is not replaced, documentation, licences (`rpmfiles.h`).
fn flags(path: &str) -> u32 {
    match path {
        p if p.starts_with("etc/") => 1 | 16,
        p if p.starts_with("usr/share/doc/") => 2,
        p if p.starts_with("usr/share/licenses/") => 128,
        _ => 0,
    }
}

/// What rpm runs: after installing, before and after removing.
fn scripts(header: &mut Header, release: &Release) -> Result<()> {
    for (name, tag, program) in [("post", 1024, 1086), ("preun", 1025, 1087), ("postun", 1026, 1088)] {
        header.text(tag, package::script(release, &format!("rpm/{name}"))?);
        header.text(program, "/bin/sh");
    }
    Ok(())
}

/// What the package is, and needs: of rpm, and for its scripts.
fn relations(header: &mut Header, version: &str) {
    const EQUAL: u32 = 8;
    const LESS: u32 = 2;
    const RPMLIB: u32 = 1 << 24;
    // The interpreter of the three scripts.
    const SCRIPTS: u32 = (1 << 8) | (1 << 10) | (1 << 11) | (1 << 12);
    header.texts(1047, ["warren"]);
    header.words(1112, [EQUAL]);
    header.texts(1113, [version]);
    let needs = [
        ("/bin/sh", SCRIPTS, ""),
        ("rpmlib(CompressedFileNames)", RPMLIB | LESS | EQUAL, "3.0.4-1"),
        ("rpmlib(FileDigests)", RPMLIB | LESS | EQUAL, "4.6.0-1"),
        ("rpmlib(PayloadFilesHavePrefix)", RPMLIB | LESS | EQUAL, "4.0-1"),
    ];
    header.words(1048, needs.map(|(_, flags, _)| flags));
    header.texts(1049, needs.map(|(name, _, _)| name));
    header.texts(1050, needs.map(|(_, _, version)| version));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_and_the_region_is_whole() {
        let mut header = Header::default();
        header.text(1000, "abc");
        header.words(1009, [1, 2]);
        let bytes = header.encode(63).unwrap();
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(12)), (3, 4 + 8 + 16));
        // The region's entry, then the two in the order of their tags.
        assert_eq!([word(16), word(20), word(24), word(28)], [63, 7, 12, 16]);
        assert_eq!([word(32), word(40)], [1000, 0]);
        assert_eq!([word(48), word(56), word(60)], [1009, 4, 2]);
        assert_eq!(word(64 + 12 + 8), 48u32.wrapping_neg());
    }

    #[test]
    fn a_cpio_has_aligned_members_and_a_trailer() {
        let mut tree = Tree::default();
        tree.file("usr/bin/x", 0o755, *b"12345");
        let bytes = cpio(&tree, 1).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 2);
        assert!(text.contains("./usr/bin/x\0") && text.contains("TRAILER!!!\0"));
    }
}
