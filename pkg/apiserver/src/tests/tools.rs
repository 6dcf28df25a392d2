//! Clients of others that tests use; `.ci/tools` fetches them.

use std::path::{Path, PathBuf};

/// A fetched program; a missing one fails the test.
pub(super) fn tool(path: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let found = target.join("tools").join(path);
    assert!(found.exists(), "{} is missing; run .ci/tools, which fetches it", found.display());
    std::path::absolute(found).unwrap()
}

/// The directory of kubectl 1.20 (`old`), or of a current one.
pub(super) fn kubectl(old: bool) -> PathBuf {
    let name = if old { "kubectl-1.20" } else { "kubectl-1.36" };
    tool(&format!("{name}/kubectl")).parent().unwrap().to_owned()
}
