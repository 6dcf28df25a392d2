//! Certificates of Warren's own authority, judged by `curl` with nothing but the root that `warren ca export` prints.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use warren_e2e::battery::Objects;
use warren_e2e::eventually;
use warren_e2e::lab::{Lab, succeeded, warren_bin};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");
const NODES: [&str; 2] = ["node-1", "node-2"];
const PATIENCE: Duration = Duration::from_secs(20);

/// The root, printed on the machine of the server.
fn export(kubeconfig: &Path, more: &[&str]) -> Result<String> {
    let mut command = Command::new(warren_bin());
    let out = command.args(["ca", "export", "--kubeconfig"]).arg(kubeconfig).args(more).output()?;
    succeeded("warren ca export", &out)
}

/// An Ingress for these hosts that asks for a private certificate in the Secret of its name.
fn ingress(name: &str, hosts: &[&str]) -> Value {
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "a", "port": {"number": 80}}}});
    let rules: Vec<Value> =
        hosts.iter().map(|host| json!({"host": host, "http": {"paths": [path]}})).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default",
            "annotations": {"ingress.warren.dev/certificate": "private"}},
        "spec": {"ingressClassName": "warren", "rules": rules, "tls": [{"hosts": hosts, "secretName": name}]},
    })
}

#[test]
fn who_trusts_the_root_alone_verifies_what_ingress_shows() -> Result<()> {
    let lab = Lab::up("ingress-ca", &["--nodes", "2", "--dual-stack", "--pods", "0"])?;
    let dir = tempfile::tempdir()?;
    let (kubeconfig, root) = (dir.path().join("kubeconfig"), dir.path().join("root.pem"));
    std::fs::write(&kubeconfig, lab.lab(&["kubeconfig"])?)?;
    let objects = Objects::of(&std::fs::read_to_string(&kubeconfig)?)?;
    let run = ["run", "a", "--node", "node-1", "--label", "app=a", "--", WHOAMI, "web", "--name", "a"];
    lab.lab(&[&run[..], &["--port", "8080"]].concat())?;
    objects.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "default"},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))?;
    let (pem, _) = eventually(PATIENCE, || export(&kubeconfig, &[]))?;
    export(&kubeconfig, &["-o", root.to_str().context("a path of text")?])?;
    ensure!(std::fs::read_to_string(&root)? == pem, "the file holds something else than what is printed");

    // Status of a verified answer; nothing of what the machine trusts helps.
    let trusted = root.to_str().context("a path of text")?;
    let get = |from: &str, resolve: &str, url: &str| -> Result<()> {
        let args = ["curl", "-sS", "--max-time", "5", "--capath", "/nonexistent", "--cacert", trusted];
        let more = ["-o", "/dev/null", "-w", "%{http_code}", "--resolve", resolve, url];
        let status = lab.exec(from, &[&args[..], &more].concat())?;
        ensure!(status == "200", "{url}: {status}");
        Ok(())
    };
    let nodes = lab.status()?.nodes.into_iter().filter(|n| NODES.contains(&n.name.as_str()));
    let addresses: Vec<String> = nodes
        .flat_map(|n| n.addresses)
        .map(|ip| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() })
        .collect();
    ensure!(addresses.len() == 4, "{addresses:?}");
    let everywhere = |host: &str| -> Result<()> {
        for address in &addresses {
            get("outside", &format!("{host}:443:{address}"), &format!("https://{host}/"))?;
        }
        Ok(())
    };
    objects.apply(&ingress("web", &["a.test", "*.wild.test"]))?;
    let (_, took) = eventually(PATIENCE, || everywhere("a.test"))?;
    println!("verified on every node {} ms after the Ingress was made", took.as_millis());
    everywhere("x.wild.test")?;
    let explained =
        lab.exec("node-2", &[&warren_bin().to_string_lossy(), "ingress", "explain", "https://a.test/"])?;
    ensure!(
        explained.contains("Secret default/web, for a.test; issued by O=Warren, CN=Warren CA"),
        "{explained}"
    );

    // By address, without a name in the handshake: the default certificate is for the nodes. No rule takes this host.
    let by_address = || -> Result<()> {
        for address in &addresses {
            let url = format!("https://{address}/");
            let args = ["curl", "-sS", "--max-time", "5", "--capath", "/nonexistent", "--cacert", trusted];
            let status =
                lab.exec("outside", &[&args[..], &["-o", "/dev/null", "-w", "%{http_code}", &url]].concat())?;
            ensure!(status == "404", "{url}: {status}");
        }
        Ok(())
    };
    eventually(PATIENCE, by_address)?;

    // Other hosts, another certificate, and no connection refused on the way.
    let cert =
        || -> Result<Value> { Ok(objects.get("Secret", "default", "web")?["data"]["tls.crt"].clone()) };
    let before = cert()?;
    objects.apply(&ingress("web", &["b.test"]))?;
    eventually(PATIENCE, || everywhere("b.test"))?;
    ensure!(cert()? != before, "the certificate is the one for the other hosts");

    // What somebody else made stays, and is said.
    let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let foreign = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "theirs", "namespace": "default"},
        "data": {"tls.crt": encoded("their certificate"), "tls.key": encoded("their key")},
    });
    let applied = objects.apply(&foreign)?;
    objects.apply(&ingress("theirs", &["theirs.test"]))?;
    eventually(PATIENCE, || {
        let events = objects.list("Event", "default")?;
        let told = events.iter().find(|e| e["reason"] == "CertificateRefused").context("no Event")?;
        ensure!(told["involvedObject"]["name"] == "theirs", "{told}");
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(message.contains("default/theirs") && message.contains("delete it"), "{message}");
        Ok(())
    })?;
    let now = objects.get("Secret", "default", "theirs")?;
    ensure!(now["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"], "{now}");

    // The root and what it issued outlive the server.
    let before = cert()?;
    lab.lab(&["service", "node-1", "stop", "server"])?;
    lab.lab(&["service", "node-1", "start", "server"])?;
    eventually(PATIENCE, || {
        ensure!(export(&kubeconfig, &[])? == pem, "another root");
        ensure!(cert()? == before, "another certificate");
        everywhere("b.test")
    })?;
    eventually(PATIENCE, by_address)?;

    // With the Ingress goes the Secret.
    objects.delete("Ingress", "default", "web", None)?;
    eventually(PATIENCE, || {
        ensure!(objects.get("Secret", "default", "web").is_err(), "it is still there");
        Ok(())
    })?;
    lab.done()
}
