//! `cargo xtask check`: what must hold before a change may land, short of the tests.

use crate::run::{cargo, run};
use anyhow::Result;

/// Runs every check.
pub(crate) fn all() -> Result<()> {
    run("fmt", cargo().args(["fmt", "--all", "--check"]))?;
    crate::edges::check()?;
    crate::docs::check()?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"];
    run("clippy", cargo().args(clippy))?;
    let docs = ["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"];
    run("docs", cargo().args(docs).env("RUSTDOCFLAGS", "--deny warnings"))
}
