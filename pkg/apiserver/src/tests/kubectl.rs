use std::process::{Output, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::harness::TestServer;
use super::tools;

fn kubectl(s: &TestServer) -> Command {
    kubectl_of(s, "1.36")
}

fn kubectl_of(s: &TestServer, version: &str) -> Command {
    let home = s.directory.path();
    let mut c = Command::new(tools::tool(&format!("kubectl-{version}/kubectl")));
    c.env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", home)
        .env("KUBECONFIG", home.join("kubeconfig"));
    c.arg("--cache-dir").arg(home.join("cache")).kill_on_drop(true);
    c
}

async fn run(s: &TestServer, args: &[&str]) -> Output {
    kubectl(s).args(args).stdin(Stdio::null()).output().await.expect("kubectl is installed")
}

async fn ok(s: &TestServer, args: &[&str]) -> String {
    let out = run(s, args).await;
    let (text, err) =
        (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "kubectl {args:?}: {text}{err}");
    assert!(!err.contains("arning") && !err.contains("rror"), "kubectl {args:?}: {err}");
    text
}

/// Words of the first line with this name.
fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let found = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    found.split_whitespace().collect()
}

#[tokio::test]
async fn everyday_kubectl() {
    let s = TestServer::start().await;
    let file = |name: &str, text: &str| {
        let path = s.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let nodes = file(
        "nodes.yaml",
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels: {node-role.kubernetes.io/edge: ''}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n",
    );
    ok(&s, &["create", "-f", &nodes]).await;
    let pods = file(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p1, labels: {app: web}}\nspec:\n  nodeName: n1\n  containers: [{name: main, image: 'busybox:1'}]\n",
    );
    assert_eq!(ok(&s, &["apply", "-f", &pods]).await, "pod/p1 created\n");
    assert_eq!(ok(&s, &["apply", "-f", &pods]).await, "pod/p1 unchanged\n");
    ok(&s, &["patch", "node", "n1", "--subresource=status", "--type=strategic", "-p", r#"{"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}"#]).await;
    ok(
        &s,
        &[
            "patch",
            "pod",
            "p1",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"phase":"Running","podIP":"10.42.0.9","podIPs":[{"ip":"10.42.0.9"}]}}"#,
        ],
    )
    .await;

    let text = ok(&s, &["get", "nodes,pods", "-o", "wide"]).await;
    let n1 = line(&text, "node/n1");
    assert_eq!((n1[1], n1[2], n1[4]), ("Ready", "edge", "192.0.2.7"), "{text}");
    let header = line(&text, "NAME ");
    assert_eq!(
        header,
        [
            "NAME",
            "STATUS",
            "ROLES",
            "AGE",
            "VERSION",
            "INTERNAL-IP",
            "EXTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME"
        ]
    );
    let p1 = line(&text, "pod/p1");
    assert_eq!((p1[1], p1[2], p1[3], p1[5], p1[6]), ("0/1", "Running", "0", "10.42.0.9", "n1"), "{text}");

    let map = file("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}\n");
    assert_eq!(ok(&s, &["apply", "--server-side=false", "-f", &map]).await, "configmap/c created\n");
    file("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {b: '2'}\n");
    assert_eq!(ok(&s, &["apply", "-f", &map]).await, "configmap/c configured\n");
    assert_eq!(ok(&s, &["get", "cm", "c", "-o", "jsonpath={.data}"]).await, r#"{"b":"2"}"#);
    ok(&s, &["create", "configmap", "lit", "--from-literal=k=v"]).await;
    ok(&s, &["create", "namespace", "team"]).await;
    ok(&s, &["label", "pod", "p1", "tier=front"]).await;
    ok(&s, &["annotate", "node", "n1", "a.example/b=c"]).await;
    assert_eq!(ok(&s, &["get", "pods", "-l", "tier=front", "-o", "name"]).await, "pod/p1\n");
    assert!(ok(&s, &["describe", "node", "n1"]).await.contains("p1"));
    assert!(ok(&s, &["describe", "pod", "p1"]).await.contains("10.42.0.9"));
    ok(&s, &["wait", "--for=condition=Ready", "node/n1", "--timeout=5s"]).await;
    assert_eq!(
        ok(&s, &["delete", "configmap", "lit"]).await,
        "configmap \"lit\" deleted from default namespace\n"
    );
    let resources = ok(&s, &["api-resources"]).await;
    assert_eq!(line(&resources, "leases")[1..3], ["coordination.k8s.io/v1", "true"], "{resources}");
    assert!(ok(&s, &["version"]).await.contains("v1.36.0+warren"));
    let bad = run(
        &s,
        &[
            "create",
            "-f",
            &file("bad.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndat: {}\nx: 1\n"),
        ],
    )
    .await;
    assert!(String::from_utf8_lossy(&bad.stderr).contains("unknown field \"x\""), "{bad:?}");

    // Watching: the rows as they come.
    for version in ["1.20", "1.36"] {
        ok(&s, &["apply", "-f", &pods]).await;
        let mut watching = kubectl_of(&s, version);
        watching.args(["get", "pods", "-o", "wide", "-w"]).stdout(Stdio::piped());
        let mut watching = watching.spawn().unwrap();
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        assert!(lines.next_line().await.unwrap().unwrap().starts_with("NAME"));
        assert!(lines.next_line().await.unwrap().unwrap().starts_with("p1"));
        // As the node's agent confirms: the pod has ended.
        let gone = run(&s, &["delete", "pod", "p1", "--grace-period=0", "--force"]).await;
        assert!(String::from_utf8_lossy(&gone.stdout).contains("\"p1\" force deleted"), "{gone:?}");
        let last = lines.next_line().await.unwrap().unwrap();
        assert!(last.starts_with("p1"), "{last}");
        watching.start_kill().unwrap();
        watching.wait().await.unwrap();
    }
}
