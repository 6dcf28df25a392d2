//! The changes that an installation and an upgrade make to files, in one place: tests cut the power between any two.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;
use warren_agent::files::{self, FileError};

/// Changes to files; each is on the disk, whole, when it returns.
pub trait Disk {
    /// Makes a directory and those above it; one that is there stays as it is.
    ///
    /// # Errors
    /// [`FileError`].
    fn make_dir(&self, path: &Path, mode: u32) -> Result<(), FileError>;
    /// Writes a file; false when it was already so.
    ///
    /// # Errors
    /// [`FileError`].
    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError>;
    /// Copies a program; false when it was already so.
    ///
    /// # Errors
    /// [`FileError`].
    fn copy(&self, source: &Path, target: &Path) -> Result<bool, FileError>;
    /// Makes a symbolic link, over whatever has its name.
    ///
    /// # Errors
    /// [`FileError`].
    fn link(&self, to: &Path, path: &Path) -> Result<(), FileError>;
    /// Gives a file another name of its directory.
    ///
    /// # Errors
    /// [`FileError`].
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError>;
    /// Removes a file; false when there was none.
    ///
    /// # Errors
    /// [`FileError`].
    fn remove(&self, path: &Path) -> Result<bool, FileError>;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|e| FileError::new("create directory", path, e))
    }
    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
        files::write(path, content, mode)
    }
    fn copy(&self, source: &Path, target: &Path) -> Result<bool, FileError> {
        files::copy(source, target)
    }
    fn link(&self, to: &Path, path: &Path) -> Result<(), FileError> {
        if let Some(dir) = path.parent() {
            self.make_dir(dir, 0o755)?;
        }
        let temporary = path.with_extension("new");
        let failed = |e: io::Error| FileError::new("link", path, e);
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        symlink(to, &temporary).map_err(failed)?;
        files::rename(&temporary, path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        files::rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<bool, FileError> {
        files::remove(path)
    }
}

#[cfg(test)]
pub(crate) mod cut {
    //! A disk whose power is cut after so many changes.

    use super::*;
    use std::cell::Cell;

    pub(crate) struct CutDisk {
        left: Cell<usize>,
    }

    impl CutDisk {
        pub(crate) fn after(changes: usize) -> Self {
            Self { left: Cell::new(changes) }
        }
        fn spend(&self, path: &Path) -> Result<(), FileError> {
            match self.left.get() {
                0 => Err(FileError::new("reach", path, io::Error::other("the power is cut"))),
                n => {
                    self.left.set(n - 1);
                    Ok(())
                }
            }
        }
    }

    impl Disk for CutDisk {
        fn make_dir(&self, path: &Path, mode: u32) -> Result<(), FileError> {
            self.spend(path)?;
            RealDisk.make_dir(path, mode)
        }
        fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<bool, FileError> {
            self.spend(path)?;
            RealDisk.write(path, content, mode)
        }
        fn copy(&self, source: &Path, target: &Path) -> Result<bool, FileError> {
            self.spend(target)?;
            RealDisk.copy(source, target)
        }
        fn link(&self, to: &Path, path: &Path) -> Result<(), FileError> {
            self.spend(path)?;
            RealDisk.link(to, path)
        }
        fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
            self.spend(from)?;
            RealDisk.rename(from, to)
        }
        fn remove(&self, path: &Path) -> Result<bool, FileError> {
            self.spend(path)?;
            RealDisk.remove(path)
        }
    }
}
