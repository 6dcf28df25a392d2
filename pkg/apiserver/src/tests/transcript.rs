//! What kubectl says, command by command, against what is written down.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

use super::harness::TestServer;
use super::tools;

/// A command and what it is to say.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

/// Reads a transcript, writes its files, and gives the steps for one kubectl.
fn steps(text: &str, old: bool, directory: &Path) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut file: Option<String> = None;
    let mut skipping = false;
    for (i, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("| ") {
            let path = directory.join(file.as_ref().expect("a line of a file follows its name"));
            let mut content = std::fs::read_to_string(&path).unwrap_or_default();
            content += rest;
            content.push('\n');
            std::fs::write(&path, content).unwrap();
            continue;
        }
        if let Some(name) = line.strip_prefix("file ") {
            file = Some(name.to_owned());
            continue;
        }
        let (of, command) = match line.split_once("$ ") {
            Some(("", c)) => (None, Some(c)),
            Some(("old", c)) => (Some(true), Some(c)),
            Some(("new", c)) => (Some(false), Some(c)),
            _ => (None, None),
        };
        if let Some(command) = command {
            skipping = of.is_some_and(|o| o != old);
            if !skipping {
                steps.push(Step { line: i + 1, command: command.to_owned(), expected: Vec::new() });
            }
        } else if let (false, Some(step)) = (skipping || line.starts_with('#'), steps.last_mut()) {
            step.expected.push(line.to_owned());
        }
    }
    for step in &mut steps {
        while step.expected.last().is_some_and(String::is_empty) {
            step.expected.pop();
        }
    }
    steps
}

/// Whether a line is as the pattern says: `*` stands for any text.
fn line_fits(pattern: &str, line: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

fn lines_fit(expected: &[String], said: &[&str]) -> bool {
    match (expected.split_first(), said.split_first()) {
        (None, None) => true,
        (Some((dots, more)), _) if dots == "..." => {
            lines_fit(more, said) || said.split_first().is_some_and(|(_, rest)| lines_fit(expected, rest))
        }
        (Some((e, more)), Some((s, rest))) => {
            (if e.contains('*') { line_fits(e, s) } else { e == s }) && lines_fit(more, rest)
        }
        _ => false,
    }
}

async fn play(text: &str, old: bool) {
    let s = TestServer::start().await;
    let home = s.directory.path();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", tools::kubectl(old).display());
    let mut faults = String::new();
    for step in steps(text, old, home) {
        let out = Command::new("sh")
            .args(["-c", &format!("({}) 2>&1", step.command)])
            .env_clear()
            .env("PATH", &path)
            .env("HOME", home)
            .env("KUBECONFIG", home.join("kubeconfig"))
            .current_dir(home)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let mut said = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() && !step.command.contains('|') {
            if !said.is_empty() && !said.ends_with('\n') {
                said.push('\n');
            }
            let _ = write!(said, "[exit {}]", out.status.code().unwrap_or(-1));
        }
        let mut lines: Vec<&str> = said.lines().collect();
        while lines.last().is_some_and(|l| l.is_empty()) {
            lines.pop();
        }
        if !lines_fit(&step.expected, &lines) {
            let expected = step.expected.join("\n");
            let _ = writeln!(
                faults,
                "line {}: $ {}\n--- expected\n{expected}\n--- said\n{said}\n",
                step.line, step.command
            );
        }
    }
    assert!(faults.is_empty(), "kubectl ({}):\n{faults}", if old { "1.20" } else { "1.36" });
}

#[tokio::test]
async fn everyday_commands_of_an_old_kubectl() {
    play(include_str!("transcripts/everyday.txt"), true).await;
}

#[tokio::test]
async fn everyday_commands_of_a_current_kubectl() {
    play(include_str!("transcripts/everyday.txt"), false).await;
}
