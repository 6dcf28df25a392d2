//! The tests, from unit to end to end.

use crate::build::{release, static_cargo, target_dir};
use crate::run::{Beside, cargo, root, run, yielding};
use crate::vm;
use crate::{dist, needs};
use anyhow::{Context as _, Result};
use std::process::Command;

/// End-to-end tests that wait for most of their time, and judge what happens rather than how fast: they run beside the
/// others. What wants an answer within a second is not among them.
const WAITING: [&str; 5] = ["connectivity_run", "containerd", "doctor", "kubernetes", "vagrant"];

/// Everything.
pub(crate) fn all() -> Result<()> {
    needs::root()?;
    needs::for_all()?;
    run(
        "fetch the clients that tests speak to the server with",
        &mut Command::new(root().join(".ci/tools")),
    )?;
    run("build the unit and property tests", units().arg("--no-run"))?;
    // They wait for half of their time, which is enough for much of this.
    let mut build = end_to_end("build", &names()?)?;
    let mut build = yielding(build.args(["--quiet", "--bin", "warren"]));
    let build = Beside::start("build the release binary and the end-to-end tests, beside them", &mut build)?;
    run("unit and property tests", &mut units())?;
    build.finish()?;
    e2e(&[])?;
    dist::verify()?;
    vm::run_tests()
}

fn units() -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--exclude", "warren-e2e"]);
    command
}

/// `cargo` on these end-to-end tests.
fn end_to_end(verb: &str, names: &[String]) -> Result<Command> {
    let mut command = static_cargo(verb)?;
    command.args(names.iter().flat_map(|name| ["--test", name]));
    Ok(command)
}

/// The names of the end-to-end tests.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(root().join("e2e/tests")).context("e2e/tests")? {
        names.extend(file?.path().file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The end-to-end tests, against the release binary. What measures runs one at a time: each test has a cluster of its own,
/// and figures such as the length of a gap mean nothing on a machine that runs three busy clusters.
pub(crate) fn e2e(args: &[String]) -> Result<()> {
    needs::root()?;
    needs::for_tests()?;
    let binary = release()?;
    let bundle = dist::airgap_bundle(&binary)?;
    let names = names()?;
    run("build the end-to-end tests", end_to_end("test", &names)?.args(["--lib", "--no-run"]))?;
    let (waiting, measuring): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| WAITING.contains(&name.as_str()));
    let tests = |names: &[String]| {
        let mut tests = end_to_end("test", names)?;
        tests.env("WARREN_BUNDLE", &bundle).env("WARREN_BIN", &binary);
        Ok::<_, anyhow::Error>(tests)
    };
    let one_at_a_time = ["--", "--test-threads=1"];
    let said = target_dir().join("e2e-beside.log");
    let mut beside = tests(&waiting)?;
    let beside = Beside::start_quietly(
        "end-to-end tests that mostly wait",
        beside.args(one_at_a_time).args(args),
        &said,
    )?;
    let measured = run("end-to-end tests", tests(&measuring)?.arg("--lib").args(one_at_a_time).args(args));
    beside.finish()?;
    measured
}
