//! Where everything of an installation is, below a root.

use std::path::{Path, PathBuf};
use warren_types::defaults;

/// File name of the record of an installation, in the data directory.
pub const RECORD: &str = "install.json";

/// File name of the journal of an upgrade, in the data directory.
pub const JOURNAL: &str = "upgrade.json";
/// File name of the lock of an upgrade, in the data directory.
pub const LOCK: &str = "upgrade.lock";

/// The places of an installation below a root: `/`, or the tree of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Those below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// An absolute path of the installed system, as it is reached from here.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    /// Whether this is the running system.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.at("/usr/local/bin/warren")
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.at(defaults::CONFIG_FILE)
    }

    /// The record of what was installed.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.at(defaults::DATA_DIR).join(RECORD)
    }
}

/// The program before an upgrade, beside `program`.
#[must_use]
pub fn previous(program: &Path) -> PathBuf {
    let mut name = program.file_name().unwrap_or_default().to_owned();
    name.push(".previous");
    program.with_file_name(name)
}
