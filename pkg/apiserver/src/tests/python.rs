use std::process::Stdio;
use tokio::process::Command;

use super::harness::TestServer;
use super::tools;

/// A kubeconfig of another API server, to run the battery against instead.
const OTHER: &str = "WARREN_BATTERY_KUBECONFIG";

#[tokio::test]
async fn the_battery_of_the_python_client() {
    let s = TestServer::start().await;
    let kubeconfig = std::env::var_os(OTHER).unwrap_or_else(|| s.directory.path().join("kubeconfig").into());
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/battery.py");
    let out = Command::new(tools::tool("python/bin/python"))
        .arg(script)
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (said, faults) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}{faults}");
    assert!(said.contains("passed"), "{said}");
}
