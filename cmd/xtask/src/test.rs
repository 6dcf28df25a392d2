//! The tests, from unit to end to end.

use crate::build::{release, static_cargo};
use crate::run::{cargo, root, run};
use crate::vm;
use crate::{dist, needs};
use anyhow::{Context as _, Result};
use std::process::Command;

/// Everything.
pub(crate) fn all() -> Result<()> {
    needs::root()?;
    needs::for_all()?;
    run(
        "fetch the clients that tests speak to the server with",
        &mut Command::new(root().join(".ci/tools")),
    )?;
    run("unit and property tests", cargo().args(["test", "--workspace", "--exclude", "warren-e2e"]))?;
    e2e(&[])?;
    dist::verify()?;
    vm::run_tests()
}

/// The end-to-end tests, against the release binary. One at a time: each has a cluster of its own, and figures such as
/// the length of a gap mean nothing on a machine that runs three clusters.
pub(crate) fn e2e(args: &[String]) -> Result<()> {
    needs::root()?;
    needs::for_tests()?;
    let binary = release()?;
    let mut tests = static_cargo("test")?;
    tests.env("WARREN_BUNDLE", dist::airgap_bundle(&binary)?).env("WARREN_BIN", binary).arg("--lib");
    for file in std::fs::read_dir(root().join("e2e/tests")).context("e2e/tests")? {
        if let Some(name) = file?.path().file_stem() {
            tests.arg("--test").arg(name);
        }
    }
    tests.arg("--").arg("--test-threads=1").args(args);
    run("end-to-end tests", &mut tests)
}
