//! The Debian package: `deb(5)`, Debian Policy.

use super::archive::{ar, gzip, hex, tar};
use super::package::{self, DESCRIPTION, MAINTAINER, SUMMARY};
use super::release::Release;
use super::tree::Tree;
use anyhow::Result;
use md5::{Digest as _, Md5};

/// The revision of the package itself.
pub(super) const REVISION: &str = "1";

/// Scripts that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Debian has the text of the licence on every machine.
const COPYRIGHT: &str = "\
Copyright: the authors of Warren
License: Apache-2.0
 On Debian systems the text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.

What is linked into the program is under the licences in licenses.txt.gz beside this file.
";

/// The package's bytes.
pub(super) fn make(release: &Release) -> Result<Vec<u8>> {
    let mut data = package::tree(release, "usr/share/doc/warren")?;
    data.file("usr/share/doc/warren/copyright", 0o644, COPYRIGHT.as_bytes());
    data.file("usr/share/doc/warren/changelog.gz", 0o644, gzip(&release.changelog)?);
    data.file("usr/share/doc/warren/changelog.Debian.gz", 0o644, gzip(&changelog(release)?)?);
    let control = gzip(&tar(&control(release, &data)?, "./", release.epoch)?)?;
    let data = gzip(&tar(&data, "./", release.epoch)?)?;
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)];
    Ok(ar(&members, release.epoch))
}

fn control(release: &Release, data: &Tree) -> Result<Tree> {
    let (version, arch, size) = (&release.version, release.arch.deb, package::installed_kibibytes(data));
    let description: String = DESCRIPTION.iter().map(|line| format!(" {line}\n")).collect();
    let text = format!(
        "Package: warren\nVersion: {version}-{REVISION}\nArchitecture: {arch}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size}\nSection: net\nPriority: optional\nDescription: {SUMMARY}\n{description}"
    );
    let sums: String =
        data.files().map(|(path, entry)| format!("{}  {path}\n", hex(&Md5::digest(entry.bytes())))).collect();
    let configuration: String = data
        .files()
        .filter(|(path, _)| path.starts_with("etc/"))
        .map(|(path, _)| format!("/{path}\n"))
        .collect();
    let mut control = Tree::default();
    control.file("control", 0o644, text.into_bytes());
    control.file("md5sums", 0o644, sums.into_bytes());
    if !configuration.is_empty() {
        control.file("conffiles", 0o644, configuration.into_bytes());
    }
    for name in SCRIPTS {
        control.file(name, 0o755, package::script(release, &format!("deb/{name}"))?.into_bytes());
    }
    Ok(control)
}

/// The package's own changelog: of each version there is one package.
fn changelog(release: &Release) -> Result<Vec<u8>> {
    let date = release.date()?.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    let version = &release.version;
    let text = format!(
        "warren ({version}-{REVISION}) unstable; urgency=medium\n\n  * Version {version}; changelog.gz says what changed.\n\n \
         -- {MAINTAINER}  {date}\n"
    );
    Ok(text.into_bytes())
}
