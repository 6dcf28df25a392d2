//! Ingress between clients and servers of other make: gRPC, WebSockets, events as they come, and what curl waits for.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use warren_e2e::battery::Objects;
use warren_e2e::eventually;
use warren_e2e::lab::Lab;
use warren_e2e::tls::certificate;

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/ingress/peers.py");
const HOST: &str = "peers.test";
/// How long a tunnel may be silent, in seconds.
const IDLE: &str = "3";

/// Python with the packages that the peers are made of.
fn python() -> Result<String> {
    // With a target of its own, cargo puts what it builds one deeper.
    let mut dirs = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors();
    let program = dirs.find_map(|dir| Some(dir.join("tools/python/bin/python")).filter(|path| path.exists()));
    let program = program.context("there is no target/tools/python: run .ci/tools, which fetches it")?;
    Ok(program.display().to_string())
}

fn ingress(name: &str, path: &str, port: u16) -> [Value; 2] {
    let app = if name == "grpc" { "kubernetes.io/h2c" } else { "http" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port, "appProtocol": app}]},
    });
    let to = json!({"service": {"name": name, "port": {"number": 80}}});
    let ingress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": {
            "ingress.warren.dev/read-timeout": if name == "ws" { format!("{IDLE}s") } else { "60s".to_owned() },
            "ingress.warren.dev/redirect-to-https": "false",
        }},
        "spec": {
            "ingressClassName": "warren",
            "rules": [{"host": HOST, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": to}]}}],
            "tls": [{"hosts": [HOST], "secretName": "peers"}],
        },
    });
    [service, ingress]
}

#[test]
fn peers_of_other_make_understand_each_other() -> Result<()> {
    let python = python()?;
    let dir = tempfile::tempdir()?;
    let lab = Lab::up("ingress-clients", &["--nodes", "2", "--pods", "0"])?;
    let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
    let made = certificate(HOST)?;
    let ca = dir.path().join("cert");
    std::fs::write(&ca, &made.cert)?;
    let ca = ca.display().to_string();
    objects.apply(&made.secret("peers"))?;
    for (at, (name, path)) in [("grpc", "/test.Peer"), ("ws", "/"), ("http", "/sse")].into_iter().enumerate()
    {
        let port = 9000 + u16::try_from(at)?;
        let (label, role) = (format!("app={name}"), format!("server-{name}"));
        let run = ["run", name, "--node", "node-2", "--label", &label, "--"];
        lab.lab(&[&run[..], &[&python, PEERS, &role, &port.to_string()]].concat())?;
        for object in ingress(name, path, port) {
            objects.apply(&object)?;
        }
    }
    // From outside, by the node that runs none of them.
    let status = lab.status()?;
    let node = status.nodes.iter().find(|node| node.name == "node-1").context("no node-1")?;
    let address = node.addresses.first().context("node-1 has no address")?.to_string();
    let url = |path: &str| format!("https://{HOST}{path}");
    let resolve = format!("{HOST}:443:{address}");
    let curl = |args: &[&str]| {
        let all = ["curl", "-sS", "--max-time", "10", "--cacert", &ca, "--resolve", &resolve];
        lab.exec("outside", &[&all[..], args].concat())
    };
    for (path, wanted) in [("/codes", "200"), ("/test.Peer/Count", "200"), ("/sse", "204")] {
        eventually(Duration::from_secs(20), || {
            let method = if path == "/codes" { "GET" } else { "POST" };
            let grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-X", method];
            let code = curl(&[&grpc[..], &["-o", "/dev/null", "-w", "%{http_code}", &url(path)]].concat())?;
            ensure!(code == wanted, "{path}: {code}");
            Ok(())
        })?;
    }
    let ask = |role: &str, more: &[&str]| -> Result<()> {
        let begun = std::time::Instant::now();
        let all = [&["timeout", "60", &*python, PEERS, role, &*address, HOST, &*ca][..], more].concat();
        lab.exec("outside", &all).with_context(|| role.to_owned())?;
        println!("{role}: {:.1?}", begun.elapsed());
        Ok(())
    };
    ask("client-grpc", &[])?;
    ask("client-ws", &[IDLE])?;

    // A client that sends its body only when it is asked to.
    let body = dir.path().join("body");
    std::fs::write(&body, vec![b'x'; 1 << 20])?;
    let file = format!("@{}", body.display());
    for version in ["--http1.1", "--http2"] {
        let expects =
            ["-v", "--stderr", "-", version, "-H", "Expect: 100-continue", "--expect100-timeout", "60"];
        let said = curl(&[&expects[..], &["--data-binary", &file, &url("/sse/more")]].concat())?;
        let version = if version == "--http2" { "HTTP/2" } else { "HTTP/1.1" };
        for status in ["100", "204"] {
            ensure!(said.contains(&format!("< {version} {status}")), "{said}");
        }
    }
    ask("client-sse", &[])?;
    lab.done()
}
