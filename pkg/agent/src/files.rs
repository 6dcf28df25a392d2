//! Writing files so that a reader, or a power cut, sees the old one or the new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file operation that failed, naming the file.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}")]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// That `what` could not be done to `path`.
    #[must_use]
    pub fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        at(what, path)(source)
    }

    /// What the kernel said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { what, path, source }
}

/// Makes a directory (and those above it) that only root can enter, and tightens one that is there.
///
/// # Errors
/// [`FileError`].
pub fn private_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create directory", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at("protect directory", path))
}

/// Writes `content` to `path` with `mode`, atomically; makes the directory. False when it was already so.
///
/// # Errors
/// [`FileError`].
pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
    let same_mode = fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o7777 == mode);
    if same_mode && fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let temporary = beside(path);
    let result = (|| {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(at("create directory", dir))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(at("create", &temporary))?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at("protect", &temporary))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(at("write", &temporary))?;
        fs::rename(&temporary, path).map_err(at("replace", path))?;
        sync_parent(path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map(|()| true)
}

/// Makes `target` an executable with the content of `source`: a hard link where that is possible, else a copy, put in
/// place by a rename so that a program that is being started is never half written. False when it was already so.
///
/// # Errors
/// [`FileError`].
pub fn install(source: &Path, target: &Path) -> Result<bool, FileError> {
    place(source, target, true)
}

/// As [`install`], but never a link: what is done to `source` later does not reach `target`.
///
/// # Errors
/// [`FileError`].
pub fn copy(source: &Path, target: &Path) -> Result<bool, FileError> {
    place(source, target, false)
}

/// Makes a symbolic link to `target`, unless there is something of that name already, whatever it is. False when there was.
///
/// # Errors
/// [`FileError`].
pub fn link_unless_there(target: &str, path: &Path) -> Result<bool, FileError> {
    match std::os::unix::fs::symlink(target, path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(at("link", path)(e)),
    }
}

/// Gives a file another name in the same directory, over whatever has it.
///
/// # Errors
/// [`FileError`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(at("rename", from))?;
    sync_parent(to)
}

/// Removes a file; false when there was none.
///
/// # Errors
/// [`FileError`].
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(at("remove", path)(e)),
    }
}

fn place(source: &Path, target: &Path, link: bool) -> Result<bool, FileError> {
    if same_content(source, target).map_err(at("compare", target))? {
        return Ok(false);
    }
    let temporary = beside(target);
    let result = (|| {
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir).map_err(at("create directory", dir))?;
        }
        if !link || fs::hard_link(source, &temporary).is_err() {
            fs::copy(source, &temporary).map_err(at("copy to", &temporary))?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))
                .map_err(at("protect", &temporary))?;
            File::open(&temporary).and_then(|f| f.sync_all()).map_err(at("write", &temporary))?;
        }
        fs::rename(&temporary, target).map_err(at("replace", target))?;
        sync_parent(target)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map(|()| true)
}

/// Whether two files have the same bytes. A link in place of the second is not followed, and a second that cannot be executed
/// is another.
///
/// # Errors
/// When the first cannot be read.
pub fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (ma, mb) = match (fs::metadata(a), fs::symlink_metadata(b)) {
        (Ok(ma), Ok(mb)) if mb.is_file() => (ma, mb),
        (Err(e), _) => return Err(e),
        _ => return Ok(false),
    };
    if (ma.dev(), ma.ino()) == (mb.dev(), mb.ino()) {
        return Ok(true);
    }
    if ma.len() != mb.len() || mb.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let (mut fa, mut fb) = (File::open(a)?, File::open(b)?);
    let (mut ba, mut bb) = (vec![0u8; 1 << 16], vec![0u8; 1 << 16]);
    loop {
        let n = fa.read(&mut ba)?;
        if n == 0 {
            return Ok(fb.read(&mut bb)? == 0);
        }
        if fb.read_exact(&mut bb[..n]).is_err() || ba[..n] != bb[..n] {
            return Ok(false);
        }
    }
}

/// A name beside `path` that no runtime reads as configuration.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(dir) => File::open(dir).and_then(|d| d.sync_all()).map_err(at("sync directory", dir)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_only_when_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.conflist");
        assert!(write(&path, b"one", 0o600).unwrap());
        assert!(!write(&path, b"one", 0o600).unwrap());
        assert!(write(&path, b"two", 0o600).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_program_is_installed_once_and_replaced_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("src"), dir.path().join("bin/warren"));
        fs::write(&source, b"v1").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(install(&source, &target).unwrap());
        assert!(!install(&source, &target).unwrap());
        fs::remove_file(&source).unwrap();
        fs::write(&source, b"v2").unwrap();
        assert!(install(&source, &target).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"v2");
        fs::remove_file(&target).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &target).unwrap();
        assert!(install(&source, &target).unwrap(), "a link is replaced, not followed");
        assert!(!fs::symlink_metadata(&target).unwrap().is_symlink());
    }

    #[test]
    fn a_directory_is_made_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        fs::create_dir_all(&path).unwrap();
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
