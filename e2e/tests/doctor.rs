//! `warren doctor` on nodes of a lab: nothing on a healthy one, and each planted fault is found by its check and no other.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use warren_e2e::faults::{FAULTS, Fault};
use warren_e2e::lab::warren_bin;
use warren_e2e::{Lab, eventually};

const NODE: &str = "node-1";

/// Checks that a machine of tests may note or warn of by itself: its disk, memory, clock and limits are not the lab's.
fn of_the_machine(id: &str) -> bool {
    matches!(id, "disk-space" | "memory" | "clock-sync" | "open-files" | "inotify-limits" | "kernel-version")
}

/// `warren doctor --output json` on the node, and its exit code.
fn report(lab: &Lab, args: &[String]) -> Result<(Value, Option<i32>)> {
    let bin = warren_bin();
    let mut command = vec![bin.to_str().context("path of the binary")?, "doctor", "--output", "json"];
    command.extend(args.iter().map(String::as_str));
    let out = lab.try_exec(NODE, &command)?;
    let text = String::from_utf8_lossy(&out.stdout);
    let report = serde_json::from_str(&text)
        .with_context(|| format!("{text}{}", String::from_utf8_lossy(&out.stderr)))?;
    Ok((report, out.status.code()))
}

/// Names of the checks that warn or fail, but for those of the machine; `planted` counts in any case.
fn fired(report: &Value, planted: &str) -> BTreeSet<String> {
    let checks = report["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bad = checks.iter().filter(|c| c["status"] == "failure" || c["status"] == "warning");
    bad.filter_map(|c| c["id"].as_str())
        .filter(|id| *id == planted || !of_the_machine(id))
        .map(str::to_owned)
        .collect()
}

fn finding<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    let check = report["checks"].as_array()?.iter().find(|c| c["id"] == id)?;
    check["findings"].get(0)
}

/// Waits until the doctor finds nothing: what was undone may take the agent a moment.
fn well(lab: &Lab) -> Result<Value> {
    let look = || {
        let (report, code) = report(lab, &[])?;
        let found = fired(&report, "");
        ensure!(found.is_empty(), "{found:?} on a healthy node: {report:#}");
        ensure!(report["summary"]["failure"] != 0 || code == Some(0), "exit code {code:?}");
        Ok(report)
    };
    Ok(eventually(Duration::from_secs(40), look)?.0)
}

fn shell(lab: &Lab, node: &str, script: &str) -> Result<String> {
    lab.exec(node, &["sh", "-ec", script])
}

/// Plants one fault, looks, and takes it away again, whatever was seen.
fn try_fault(lab: &Lab, fault: &Fault) -> Result<()> {
    let what = format!("{}: {}", fault.check, fault.plant);
    shell(lab, fault.node, fault.plant).with_context(|| format!("plant {what}"))?;
    let args: Vec<String> = fault.args.iter().map(|a| (*a).to_owned()).collect();
    let seen = eventually(Duration::from_secs(10), || {
        let (report, code) = report(lab, &args)?;
        let status = finding(&report, fault.check).and_then(|f| f["status"].as_str()).unwrap_or("nothing");
        ensure!(fault.status.split('|').any(|s| s == status), "{} says {status}: {report:#}", fault.check);
        let expected: BTreeSet<String> =
            Some(fault.check.to_owned()).into_iter().filter(|_| status != "note").collect();
        let fire = fired(&report, fault.check);
        ensure!(fire == expected, "{fire:?} fire: {report:#}");
        ensure!((code == Some(1)) == (report["summary"]["failure"] != 0), "exit code {code:?}");
        let found = finding(&report, fault.check).map(Value::to_string).unwrap_or_default();
        ensure!(found.contains(fault.says), "{found} does not say {:?}", fault.says);
        Ok(())
    });
    shell(lab, fault.node, fault.undo).with_context(|| format!("undo {what}"))?;
    seen.map(drop).context(what)
}

#[test]
fn a_healthy_node_has_nothing_and_each_planted_fault_is_found() -> Result<()> {
    let lab = Lab::up("doctor", &["--nodes", "2", "--pods", "0"])?;
    lab.agent_ready_within(NODE, Duration::from_secs(60))?;
    let report = well(&lab)?;
    let checks = report["checks"].as_array().map_or(0, Vec::len);
    let skipped: Vec<&Value> =
        report["checks"].as_array().into_iter().flatten().filter(|c| c["status"] == "skipped").collect();
    println!("{checks} checks on a healthy node, {} skipped: {skipped:?}", skipped.len());
    ensure!(skipped.len() <= 2, "a healthy node leaves {} checks out: {skipped:#?}", skipped.len());
    let kinds: BTreeSet<&str> = FAULTS.iter().map(|f| f.check).collect();
    ensure!(kinds.len() >= 25, "{} kinds of faults", kinds.len());
    let mut failed = Vec::new();
    for fault in FAULTS {
        match try_fault(&lab, fault) {
            Ok(()) => println!("found: {}", fault.check),
            Err(error) => failed.push(format!("{error:#}")),
        }
        well(&lab).with_context(|| format!("after {} was undone", fault.check))?;
    }
    println!("{} faults of {} kinds planted, {} missed", FAULTS.len(), kinds.len(), failed.len());
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    lab.done()
}

#[test]
fn the_archive_has_no_secrets_and_wrong_usage_is_told() -> Result<()> {
    let lab = Lab::up("doctor-archive", &["--nodes", "1", "--pods", "0"])?;
    lab.agent_ready_within(NODE, Duration::from_secs(60))?;
    archive(&lab)?;
    usage(&lab)?;
    lab.done()
}

/// The archive has none of the secrets that were planted, and the files that it should have.
fn archive(lab: &Lab) -> Result<()> {
    let bin = warren_bin();
    let bin = bin.to_str().context("path of the binary")?;
    shell(
        lab,
        NODE,
        "printf 'token=PLANTED-ONE\\nAuthorization: Bearer PLANTED-TWO\\n-----BEGIN PRIVATE KEY-----\\nPLANTED-THREE\\n-----END PRIVATE KEY-----\\n' > /run/warren/planted.log
         printf '{\"name\": \"x\", \"plugins\": [{\"type\": \"loopback\", \"password\": \"PLANTED-FOUR\"}]}' > /etc/cni/net.d/99-planted.conflist
         mkdir -p /var/lib/warren/server; printf 'PLANTED-FIVE-TOKEN' > /var/lib/warren/planted-token; chmod 600 /var/lib/warren/planted-token
         printf 'joined with PLANTED-FIVE-TOKEN today\\n' >> /run/warren/planted.log",
    )?;
    lab.exec(NODE, &[bin, "doctor", "--check", "ip-forward", "--bundle", "/run/help.tar.gz"])?;
    ensure!(shell(lab, NODE, "stat -c %a /run/help.tar.gz")?.trim() == "600", "the archive is open");
    let names = shell(lab, NODE, "tar tzf /run/help.tar.gz")?;
    for name in [
        "doctor.json",
        "status.json",
        "nftables.json",
        "links.json",
        "routes.json",
        "metrics.txt",
        "versions.json",
        "logs/planted.log",
    ] {
        ensure!(names.contains(&format!("warren-doctor/{name}")), "{name} is missing: {names}");
    }
    let all = shell(lab, NODE, "tar xzOf /run/help.tar.gz")?;
    ensure!(
        all.contains("joined with REDACTED today") && all.contains("wrn-wg"),
        "the archive says too little"
    );
    ensure!(!all.contains("PLANTED-"), "a planted secret is in the archive");
    let key = shell(
        lab,
        NODE,
        r#"sed -n 's/.*client-key-data": *"\([^"]*\)".*/\1/p' /var/lib/warren/agent/kubeconfig"#,
    )?;
    let key = key.trim();
    ensure!(key.len() > 40, "the kubeconfig has no key");
    ensure!(!all.contains(key), "the node's client key is in the archive");
    shell(lab, NODE, "rm /run/help.tar.gz /run/warren/planted.log /etc/cni/net.d/99-planted.conflist /var/lib/warren/planted-token").map(drop)
}

/// Wrong usage is told by the exit code, and a node without a configuration is only noted.
fn usage(lab: &Lab) -> Result<()> {
    let bin = warren_bin();
    let bin = bin.to_str().context("path of the binary")?;
    let out = lab.try_exec(NODE, &[bin, "doctor", "--check", "no-such-check"])?;
    ensure!(out.status.code() == Some(2), "{out:?}");
    let list = lab.exec(NODE, &[bin, "doctor", "--list"])?;
    ensure!(FAULTS.iter().all(|f| list.contains(f.check)), "{list}");
    let text = lab.exec(NODE, &[bin, "doctor", "--check", "ip-forward"])?;
    ensure!(text.contains("0 failures, 0 warnings, 0 notes; 1 check found nothing"), "{text}");
    Ok(())
}
