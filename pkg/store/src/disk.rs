//! The file operations that durability rests on, in one place: journal and `FORMAT` use no others. A test records them
//! here and cuts the power between any two, or lets one fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
pub(crate) mod tape;

/// A file that is written at its end.
pub(crate) struct DiskFile {
    file: File,
    #[cfg(test)]
    tape: tape::Handle,
}

impl DiskFile {
    /// An empty file that only root reads, in the place of what has the name.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        #[cfg(test)]
        let tape = tape::Handle::new(path, true)?;
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        Ok(Self {
            file,
            #[cfg(test)]
            tape,
        })
    }

    /// Goes on at the end of a file.
    pub(crate) fn append(path: &Path) -> io::Result<Self> {
        #[cfg(test)]
        let tape = tape::Handle::new(path, false)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self {
            file,
            #[cfg(test)]
            tape,
        })
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.tape.write(bytes)?;
        self.file.write_all(bytes)
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        #[cfg(test)]
        self.tape.set_len(len)?;
        self.file.set_len(len)
    }

    /// Content and length are on disk after this.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.tape.sync()?;
        self.file.sync_data()
    }
}

/// Gives a file another name in its directory; the one that had that name is gone. On disk after [`sync_dir`].
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::record(from, || tape::Event::Rename(from.to_owned(), to.to_owned()))?;
    fs::rename(from, to)
}

/// Removes a file; that there is none is no error. On disk after [`sync_dir`].
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::record(path, || tape::Event::Remove(path.to_owned()))?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Brings the names in a directory to disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::record(dir, || tape::Event::SyncDir(dir.to_owned()))?;
    File::open(dir)?.sync_all()
}

/// Makes a directory that only its owner enters, and those above it; all of them are on disk after this.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    if !parent.is_dir() {
        create_dir(parent)?;
    }
    #[cfg(test)]
    tape::record(dir, || tape::Event::MakeDir(dir.to_owned()))?;
    if !dir.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(dir)?;
    }
    sync_dir(parent)
}
