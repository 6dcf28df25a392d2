//! Bad input of every kind: a clear error, the right code, nothing changed.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use warren_e2e::lab::{Lab, warren_bin};
use warren_e2e::runtime::{Runtime, call};
use warren_e2e::state;

/// A bad CNI call: what is wrong, the environment's changes, the configuration, the expected error code.
struct Bad {
    what: &'static str,
    env: Vec<(&'static str, Option<&'static str>)>,
    config: Vec<u8>,
    code: u64,
}

fn bad_calls(good: &Value) -> Vec<Bad> {
    let with = |field: &str, value: Value| {
        let mut config = good.clone();
        config[field] = value;
        config.to_string().into_bytes()
    };
    let whole = good.to_string().into_bytes();
    let bad = |what, env: &[(&'static str, Option<&'static str>)], config: &[u8], code| Bad {
        what,
        env: env.to_vec(),
        config: config.to_vec(),
        code,
    };
    vec![
        bad("empty stdin", &[], b"", 6),
        bad("not JSON", &[], b"{\"cniVersion\": ", 6),
        bad("a number", &[], b"42", 6),
        bad("deep nesting", &[], "[".repeat(100_000).as_bytes(), 6),
        bad("bytes that are no text", &[], &[0xff, 0xfe, 0, 1], 6),
        bad("an unknown version", &[], &with("cniVersion", json!("9.9.9")), 1),
        bad("a type with a path", &[], &with("type", json!("../../bin/sh")), 7),
        bad("an oversized configuration", &[], &with("padding", json!("x".repeat(4 << 20))), 7),
        bad("no container id", &[("CNI_CONTAINERID", None)], &whole, 4),
        bad("no interface name", &[("CNI_IFNAME", None)], &whole, 4),
        bad("no namespace", &[("CNI_NETNS", None)], &whole, 4),
        bad("a container id with slashes", &[("CNI_CONTAINERID", Some("../../etc/passwd"))], &whole, 4),
        bad("a container id of dots", &[("CNI_CONTAINERID", Some(".."))], &whole, 4),
        bad("an interface name with a slash", &[("CNI_IFNAME", Some("a/b"))], &whole, 4),
        bad("an interface name too long", &[("CNI_IFNAME", Some("sixteen-letters-"))], &whole, 4),
        bad("a namespace that is a file", &[("CNI_NETNS", Some("/etc/passwd"))], &whole, 4),
        bad("a namespace that is not there", &[("CNI_NETNS", Some("/nonexistent"))], &whole, 4),
        bad("arguments that are no pairs", &[("CNI_ARGS", Some("nonsense"))], &whole, 4),
        bad(
            "a pod name with slashes",
            &[("CNI_ARGS", Some("K8S_POD_NAMESPACE=a;K8S_POD_NAME=../x"))],
            &whole,
            4,
        ),
        bad("an unknown verb", &[("CNI_COMMAND", Some("EXPLODE"))], &whole, 4),
    ]
}

#[test]
fn hostile_cni_calls_are_refused_and_change_nothing() -> Result<()> {
    let lab = Lab::up("hostile", &["--nodes", "1", "--pods", "1"])?;
    let runtime = Runtime::new(&lab, "node-1")?;
    let good: Value = serde_json::from_str(runtime.config())?;
    let netns = warren_e2e::lab::netns_of(std::process::id()).display().to_string();
    let before = state::dump(&lab, "node-1")?;
    for bad in bad_calls(&good) {
        let mut env = vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "hostile"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_NETNS", netns.as_str()),
        ];
        for (name, value) in &bad.env {
            env.retain(|(n, _)| n != name);
            env.extend(value.map(|v| (*name, v)));
        }
        let out = call(&warren_bin(), &env, &bad.config)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let error: Value = serde_json::from_str(&text).with_context(|| format!("{}: {text:?}", bad.what))?;
        ensure!(!out.status.success(), "{}: succeeded with {text}", bad.what);
        ensure!(error["code"] == bad.code, "{}: expected code {}, got {text}", bad.what, bad.code);
        ensure!(error["msg"].as_str().is_some_and(|m| m.len() > 8), "{}: no message: {text}", bad.what);
    }
    let after = state::dump(&lab, "node-1")?;
    ensure!(before == after, "a refused call changed the node:\n{before}\n---\n{after}");
    // And the agent is still there for the others.
    runtime.add_many(1, 1)?;
    runtime.del_many(1, 1)?;
    lab.done()
}

/// Runs the binary and expects exit code `code` and every one of `words` on stderr. Should it start after all, it finds
/// itself in an empty network namespace and with a minute to live.
fn refuses(args: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let ns = warren_e2e::runtime::fresh_netns()?;
    let mut command = Command::new("timeout");
    command.arg("60").arg(warren_bin()).args(args);
    let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
    let out = warren_e2e::netns::run(path.as_ref(), move || Ok(command.output()?))?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(code), "{args:?}: {}: {text}", out.status);
    for word in words {
        ensure!(text.contains(word), "{args:?}: no {word:?} in {text:?}");
    }
    Ok(())
}

#[test]
fn bad_flags_and_files_are_all_named_before_anything_starts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data").display().to_string();
    let file = dir.path().join("config.yaml");
    let path = file.display().to_string();
    refuses(&["agent", "--no-such-flag"], 2, &["--no-such-flag"])?;
    refuses(&["frobnicate"], 2, &["frobnicate"])?;
    std::fs::write(&file, "node-name: [not, a, name\n")?;
    refuses(&["agent", "--config", &path, "--data-dir", &data], 2, &[&path])?;
    std::fs::write(&file, "node-name: Not_A_Name\ntunnel-port: 0\nfrobnicate: 1\n")?;
    refuses(&["agent", "--config", &path, "--data-dir", &data], 2, &["frobnicate"])?;
    std::fs::write(&file, "node-name: Not_A_Name\ntunnel-port: 0\n")?;
    refuses(&["agent", "--config", &path, "--data-dir", &data], 2, &["Not_A_Name", "tunnel-port"])?;
    refuses(
        &["agent", "--server", "https://127.0.0.1:1", "--token", "nonsense", "--data-dir", &data],
        2,
        &["token"],
    )?;
    let clash =
        ["server", "--cluster-cidr", "10.42.0.0/16", "--service-cidr", "10.42.8.0/24", "--data-dir", &data];
    refuses(&clash, 2, &["10.42.0.0/16", "10.42.8.0/24", "overlap"])?;
    refuses(&["server", "--cluster-cidr", "300.0.0.0/8", "--data-dir", &data], 2, &["300.0.0.0/8"])?;
    ensure!(!dir.path().join("data").exists(), "a refused start left files");
    Ok(())
}

#[test]
fn a_token_for_another_ca_sends_no_secret() -> Result<()> {
    let lab = Lab::up("wrong-ca", &["--nodes", "2", "--pods", "0"])?;
    let bin = warren_bin().display().to_string();
    let token = format!("K10{}::node:top-secret-canary", "0".repeat(64));
    lab.lab(&["service", "node-2", "stop", "agent"])?;
    let server = lab.status()?.nodes.iter().find(|n| n.name == "node-1").map(|n| n.addresses[0]);
    let url = format!("https://{}:6443", server.context("node-1")?);
    let script = format!(
        "timeout 5 {bin} agent --node-name imposter --server {url} --token {token} --data-dir /tmp/imposter \
         --run-dir /tmp/imposter-run --cni-conf-dir /tmp/imposter-cni --cni-bin-dir /tmp/imposter-bin \
         --health-address 127.0.0.1:19999 2>&1"
    );
    let out = lab.try_exec("node-2", &["sh", "-c", &script])?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        text.contains("is not the server that the token is for"),
        "the agent does not name the mismatch: {text}"
    );
    ensure!(!text.contains("top-secret-canary"), "the secret is in the log: {text}");
    let server_log = lab.lab(&["logs", "node-1"])?;
    ensure!(server_log.contains("server"), "the log of the server is not there: the test is blind");
    ensure!(!server_log.contains("top-secret-canary"), "the secret is in the server's log");
    lab.done()
}
