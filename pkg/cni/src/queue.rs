//! Deletions that arrived while no agent could be reached: a file each, for the next agent.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use warren_types::{AttachmentKey, ContainerId, IfName};

/// Files that one look at the queue takes in.
const AT_ONCE: usize = 4096;

/// The directory. A file's name is the attachment; neither part of a key can contain the separator.
#[derive(Debug, Clone)]
pub(crate) struct DelQueue {
    dir: PathBuf,
}

const SEPARATOR: char = ':';

impl DelQueue {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Makes the directory, for root alone.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        private_dir(&self.dir)
    }

    /// Adds a deletion: a complete file or none. There may be one already.
    pub(crate) fn push(&self, key: &AttachmentKey) -> io::Result<()> {
        self.prepare()?;
        let unfinished = self.dir.join(format!(".{}.{}", std::process::id(), file_name(key)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            let text = serde_json::json!({ "containerID": key.container_id, "ifname": key.if_name });
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(key))
        };
        let done = write();
        if done.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        done
    }

    pub(crate) fn contains(&self, key: &AttachmentKey) -> bool {
        self.path(key).symlink_metadata().is_ok()
    }

    pub(crate) fn remove(&self, key: &AttachmentKey) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// What waits, at most so much as one look takes in. Files that are no deletions are removed.
    pub(crate) fn list(&self) -> io::Result<Vec<AttachmentKey>> {
        let mut keys = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(keys),
            entries => entries?,
        };
        for entry in entries.take(AT_ONCE) {
            let entry = entry?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue; // Being written.
            }
            match name.to_str().and_then(parse) {
                Some(key) => keys.push(key),
                None => {
                    tracing::warn!(file = ?entry.path(), "not a deletion, removing it from the queue");
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(keys)
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.dir.join(file_name(key))
    }
}

fn file_name(key: &AttachmentKey) -> String {
    format!("{}{SEPARATOR}{}", key.container_id, key.if_name)
}

fn parse(name: &str) -> Option<AttachmentKey> {
    let (container, if_name) = name.split_once(SEPARATOR)?;
    Some(AttachmentKey {
        container_id: ContainerId::new(container).ok()?,
        if_name: IfName::new(if_name).ok()?,
    })
}

/// A directory that only we write to: made with mode 0700, or found to be ours.
pub(crate) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let meta = fs::symlink_metadata(dir)?;
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if !meta.is_dir() {
        return refuse("it is not a directory".into());
    }
    if meta.uid() != nix::unistd::geteuid().as_raw() {
        return refuse(format!("it belongs to user {}", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return refuse(format!("others may write to it (mode {:o}); chmod it to 0700", meta.mode() & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey { container_id: ContainerId::new(id).unwrap(), if_name: IfName::new("eth0").unwrap() }
    }

    #[test]
    fn deletions_wait_in_files_of_their_own() {
        let temp = tempfile::tempdir().unwrap();
        let queue = DelQueue::new(temp.path().join("q"));
        assert_eq!(queue.list().unwrap(), []);
        queue.push(&key("a")).unwrap();
        queue.push(&key("a")).unwrap();
        queue.push(&key("b.c-d_e")).unwrap();
        let mut keys = queue.list().unwrap();
        keys.sort();
        assert_eq!(keys, [key("a"), key("b.c-d_e")]);
        assert!(queue.contains(&key("a")) && !queue.contains(&key("c")));
        for entry in fs::read_dir(temp.path().join("q")).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(temp.path().join("q")).unwrap().permissions().mode() & 0o777, 0o700);
        queue.remove(&key("a")).unwrap();
        queue.remove(&key("a")).unwrap();
        assert_eq!(queue.list().unwrap(), [key("b.c-d_e")]);
    }

    #[test]
    fn strange_files_are_dropped_and_open_directories_refused() {
        let temp = tempfile::tempdir().unwrap();
        let queue = DelQueue::new(temp.path());
        for name in ["nonsense", "a:", ":eth0", "a:eth0:b", "_a:eth0", ".unfinished"] {
            fs::write(temp.path().join(name), "").unwrap();
        }
        queue.push(&key("ok")).unwrap();
        assert_eq!(queue.list().unwrap(), [key("ok")]);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(queue.push(&key("x")).unwrap_err().to_string().contains("chmod"));
    }
}
