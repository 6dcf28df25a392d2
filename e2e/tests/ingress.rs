//! Ingress, as clients of other make meet it: by `curl` and `h2load`, from a node and from outside, in both families.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use warren_e2e::battery::Objects;
use warren_e2e::eventually;
use warren_e2e::lab::{Lab, warren_bin};
use warren_e2e::tls::{Certificate, certificate};

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");
const NODES: [&str; 2] = ["node-1", "node-2"];
const PATIENCE: Duration = Duration::from_secs(15);

/// What a server says that it was asked.
#[derive(Debug, Deserialize)]
struct Said {
    name: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Said {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A lab of two nodes whose pods serve HTTP: `a` and `b` on node-1, `c` on node-2, each behind a Service of its name.
struct Web {
    lab: Lab,
    objects: Objects,
    /// Addresses of both nodes, of both families.
    addresses: Vec<String>,
}

impl Web {
    fn up(test: &str) -> Result<Self> {
        Self::up_with(test, &[])
    }

    fn up_with(test: &str, more: &[&str]) -> Result<Self> {
        let lab = Lab::up(test, &[&["--nodes", "2", "--dual-stack", "--pods", "0"], more].concat())?;
        let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
        let nodes = lab.status()?.nodes.into_iter().filter(|n| NODES.contains(&n.name.as_str()));
        let addresses = nodes.flat_map(|n| n.addresses).map(|ip| match ip.is_ipv6() {
            true => format!("[{ip}]"),
            false => ip.to_string(),
        });
        let web = Self { addresses: addresses.collect(), lab, objects };
        for (name, node) in [("a", "node-1"), ("b", "node-1"), ("c", "node-2")] {
            web.serve(name, node)?;
            web.objects.apply(&service(name))?;
        }
        Ok(web)
    }

    fn serve(&self, name: &str, node: &str) -> Result<()> {
        let label = format!("app={name}");
        let run = ["run", name, "--node", node, "--label", &label, "--", WHOAMI, "web"];
        self.lab.lab(&[&run[..], &["--name", name, "--port", "8080"]].concat()).map(drop)
    }

    /// Asks by `curl`; status and body.
    fn curl(&self, from: &str, args: &[&str]) -> Result<(u16, String)> {
        let all = [&["curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}"], args].concat();
        let text = self.lab.exec(from, &all)?;
        let (body, status) = text.trim_end().rsplit_once('\n').context("no status")?;
        Ok((status.parse()?, body.to_owned()))
    }

    fn get(&self, host: &str, path: &str) -> Result<(u16, String)> {
        self.curl("node-1", &["-H", &format!("Host: {host}"), &format!("http://127.0.0.1{path}")])
    }

    /// Who answers; the status when nobody of ours does.
    fn who(&self, host: &str, path: &str) -> Result<String> {
        let (status, body) = self.get(host, path)?;
        if status != 200 {
            return Ok(status.to_string());
        }
        Ok(serde_json::from_str::<Said>(&body)?.name)
    }

    /// Waits until this one answers.
    fn answered_by(&self, host: &str, path: &str, wanted: &str) -> Result<()> {
        eventually(PATIENCE, || {
            let who = self.who(host, path)?;
            ensure!(who == wanted, "{host}{path} is answered by {who}, not {wanted}");
            Ok(())
        })
        .map(drop)
    }

    fn warren(&self, node: &str, args: &[&str]) -> Result<std::process::Output> {
        let bin = warren_bin();
        self.lab.try_exec(node, &[&[bin.to_str().context("a path of text")?], args].concat())
    }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn path(path: &str, kind: &str, to: &str) -> Value {
    json!({"path": path, "pathType": kind, "backend": {"service": {"name": to, "port": {"number": 80}}}})
}

fn ingress(name: &str, annotations: &Value, rules: &[(&str, Vec<Value>)], more: &Value) -> Value {
    let rule = |(host, paths): &(&str, Vec<Value>)| match *host {
        "" => json!({"http": {"paths": paths}}),
        host => json!({"host": host, "http": {"paths": paths}}),
    };
    let mut spec = json!({"ingressClassName": "warren", "rules": rules.iter().map(rule).collect::<Vec<_>>()});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": spec,
    })
}

fn none() -> Value {
    json!({})
}

#[test]
fn requests_go_where_the_rules_say() -> Result<()> {
    let web = Web::up("ingress-rules")?;
    // Nothing listens while there is nothing to serve.
    let refused = web.lab.try_exec("node-1", &["curl", "-s", "--max-time", "2", "http://127.0.0.1/"])?;
    ensure!(refused.status.code() == Some(7), "something listens: {refused:?}");

    let port = json!({"path": "/named", "pathType": "Prefix",
        "backend": {"service": {"name": "b", "port": {"name": "http"}}}});
    web.objects.apply(&ingress(
        "rules",
        &none(),
        &[
            (
                "foo.test",
                vec![
                    path("/", "Prefix", "a"),
                    path("/api", "Prefix", "b"),
                    path("/api/exact", "Exact", "c"),
                    port,
                ],
            ),
            ("*.foo.test", vec![path("/", "ImplementationSpecific", "c")]),
            ("", vec![path("/any", "Prefix", "b")]),
        ],
        &none(),
    ))?;
    // Each of the three has been heard of before the rules are judged.
    for (path, wanted) in [("/", "a"), ("/api", "b"), ("/api/exact", "c")] {
        web.answered_by("foo.test", path, wanted)?;
    }
    for (host, path, wanted) in [
        ("foo.test", "/apis", "a"),
        ("foo.test", "/api", "b"),
        ("foo.test", "/api/", "b"),
        ("foo.test", "/api/x?y=1", "b"),
        ("foo.test", "/api/exact", "c"),
        ("foo.test", "/api/exact/", "b"),
        ("foo.test", "/named", "b"),
        ("FOO.test", "/", "a"),
        ("foo.test:8080", "/", "a"),
        ("bar.foo.test", "/x", "c"),
        ("x.bar.foo.test", "/x", "404"),
        ("x.bar.foo.test", "/any/x", "b"),
        ("else.test", "/", "404"),
        ("foo.test", "/api/..%2fexact", "400"),
    ] {
        let who = web.who(host, path)?;
        ensure!(who == wanted, "{host}{path} is answered by {who}, not {wanted}");
    }

    // Every node serves, in both families, by HTTP/1.1 and HTTP/2, and sees the client's own address.
    for address in &web.addresses {
        let url = format!("http://{address}/x");
        let (body, _) = eventually(PATIENCE, || {
            let (status, body) =
                web.curl("outside", &["-H", "Host: foo.test", "-H", "X-Forwarded-For: 6.6.6.6", &url])?;
            ensure!(status == 200, "{url}: {status}");
            Ok(body)
        })?;
        let said: Said = serde_json::from_str(&body)?;
        let client = said.header("x-forwarded-for").context("no X-Forwarded-For")?;
        let outside = web.lab.exec("outside", &[WHOAMI, "addresses"])?;
        let outside: Vec<String> = serde_json::from_str(&outside)?;
        ensure!(outside.iter().any(|own| own == client), "{client} is not the client's address: {outside:?}");
        ensure!((said.target.as_str(), said.header("x-forwarded-proto")) == ("/x", Some("http")), "{said:?}");
        let resolve = format!("foo.test:443:{address}");
        let secure = ["-k", "--http2", "--resolve", &resolve, "https://foo.test/"];
        let (status, body) = web.curl("outside", &secure)?;
        let said: Said = serde_json::from_str(&body).with_context(|| format!("{status}: {body}"))?;
        ensure!(said.header("x-forwarded-proto") == Some("https"), "{said:?}");
    }
    let load = web.lab.exec(
        "outside",
        &[
            "h2load",
            "-n",
            "200",
            "-c",
            "4",
            "-m",
            "10",
            "-H",
            ":authority: foo.test",
            &format!("https://{}/", web.addresses[0]),
        ],
    )?;
    ensure!(load.contains("200 succeeded, 0 failed"), "{load}");

    // The status names both nodes; then nothing is left to serve.
    eventually(PATIENCE, || {
        let found = web.objects.get("Ingress", "default", "rules")?;
        let listed = found.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
        let ips = listed.into_iter().flatten().filter_map(|i| i["ip"].as_str());
        let ips: BTreeSet<String> =
            ips.map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip.into() }).collect();
        ensure!(web.addresses.iter().all(|a| ips.contains(a)), "{ips:?} are not {:?}", web.addresses);
        Ok(())
    })?;
    web.objects.delete("Ingress", "default", "rules", None)?;
    eventually(PATIENCE, || {
        let refused = web.lab.try_exec("node-1", &["curl", "-s", "--max-time", "2", "http://127.0.0.1/"])?;
        ensure!(refused.status.code() == Some(7), "something listens still: {refused:?}");
        Ok(())
    })?;
    web.lab.done()
}

#[test]
fn certificates_are_the_secrets_and_follow_them() -> Result<()> {
    let web = Web::up("ingress-tls")?;
    let dir = tempfile::tempdir()?;
    let trusted = dir.path().join("ca.pem");
    let verified = |host: &str| -> Result<(u16, String)> {
        let (resolve, url) = (format!("{host}:443:127.0.0.1"), format!("https://{host}/"));
        let ca = trusted.to_str().context("a path of text")?;
        web.curl("node-2", &["--cacert", ca, "--resolve", &resolve, &url])
    };
    let tls = json!({"tls": [{"hosts": ["foo.test"], "secretName": "foo"}]});
    let rules =
        [("foo.test", vec![path("/", "Prefix", "a")]), ("other.test", vec![path("/", "Prefix", "a")])];
    web.objects.apply(&ingress(
        "tls",
        &json!({"nginx.ingress.kubernetes.io/ssl-redirect": "true"}),
        &rules,
        &tls,
    ))?;
    // The Secret comes after the Ingress, and is replaced later.
    for _ in 0..2 {
        let made = certificate("foo.test")?;
        std::fs::write(&trusted, &made.cert)?;
        web.objects.apply(&made.secret("foo"))?;
        eventually(PATIENCE, || {
            let (status, body) = verified("foo.test")?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        })?;
    }
    ensure!(verified("other.test").is_err(), "a certificate of foo.test is shown for other.test");
    let (status, _) = web.get("foo.test", "/")?;
    ensure!(status == 308, "a plain request is answered by {status}, not sent to HTTPS");
    ensure!(web.get("other.test", "/")?.0 == 200, "a host without TLS is sent to HTTPS");
    let explained = web.warren("node-2", &["ingress", "explain", "https://foo.test/x"])?;
    let text = String::from_utf8_lossy(&explained.stdout);
    ensure!(explained.status.success() && text.contains("Secret default/foo"), "{text}");

    // A Secret that is none is said, and the old certificate does not stay.
    let nonsense = Certificate { cert: "nonsense".into(), key: "nonsense".into() };
    web.objects.apply(&nonsense.secret("foo"))?;
    eventually(PATIENCE, || {
        ensure!(verified("foo.test").is_err(), "the old certificate is still shown");
        let events = web.objects.list("Event", "default")?;
        let reasons: Vec<&str> = events.iter().filter_map(|e| e["reason"].as_str()).collect();
        ensure!(reasons.contains(&"CertificateInvalid"), "{reasons:?}");
        Ok(())
    })?;
    web.lab.done()
}

#[test]
fn others_classes_are_left_alone_and_what_is_wrong_is_said() -> Result<()> {
    let web = Web::up("ingress-classes")?;
    web.objects.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "theirs"}, "spec": {"controller": "example.org/other"},
    }))?;
    let rules = |host: &'static str| [(host, vec![path("/", "Prefix", "a")])];
    web.objects.apply(&ingress(
        "theirs",
        &none(),
        &rules("theirs.test"),
        &json!({"ingressClassName": "theirs"}),
    ))?;
    let mut old =
        ingress("annotated", &json!({"kubernetes.io/ingress.class": "warren"}), &rules("old.test"), &none());
    old["spec"].as_object_mut().context("a spec")?.remove("ingressClassName");
    web.objects.apply(&old)?;
    web.objects.apply(&ingress(
        "default",
        &none(),
        &rules("named.test"),
        &json!({"defaultBackend": {"service": {"name": "c", "port": {"number": 80}}}}),
    ))?;
    web.objects.apply(&ingress(
        "wrong",
        &json!({"ingress.warren.dev/no-such-option": "1", "nginx.ingress.kubernetes.io/auth-url": "https://x"}),
        &[("wrong.test", vec![path("/", "Prefix", "a"), path("/gone", "Prefix", "nothing")])],
        &none(),
    ))?;
    web.answered_by("old.test", "/", "a")?;
    web.answered_by("named.test", "/", "a")?;
    web.answered_by("unknown.test", "/", "c")?;
    // It is not ours, so the default backend has it.
    web.answered_by("theirs.test", "/", "c")?;
    web.answered_by("wrong.test", "/", "503")?;
    let list = web.warren("node-1", &["ingress", "list"])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    ensure!(!list.contains("theirs") && list.contains("wrong.test"), "{list}");
    eventually(PATIENCE, || {
        let events = web.objects.list("Event", "default")?;
        let of = events.iter().filter(|e| e["involvedObject"]["name"] == "wrong");
        let found: BTreeSet<&str> = of.filter_map(|e| e["reason"].as_str()).collect();
        for wanted in ["AnnotationNotUnderstood", "BackendMissing"] {
            ensure!(found.contains(wanted), "{wanted} is not among {found:?}");
        }
        Ok(())
    })?;
    let theirs = web.objects.get("Ingress", "default", "theirs")?;
    ensure!(theirs.pointer("/status/loadBalancer/ingress").is_none(), "{theirs}");
    web.lab.done()
}

#[test]
fn endpoints_come_and_go_and_agents_restart_without_a_failed_request() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("access.log");
    let file = format!("--agent-arg=--ingress-access-log-file={}", log.display());
    let web = Web::up_with("ingress-restart", &["--agent-arg=--ingress-access-log=json", &file])?;
    web.objects.apply(&ingress("one", &none(), &[("foo.test", vec![path("/", "Prefix", "a")])], &none()))?;
    web.answered_by("foo.test", "/", "a")?;
    let body = json!({"spec": {"selector": {"app": "c"}}});
    web.objects.merge("Service", "default", "a", &body)?;
    web.answered_by("foo.test", "/", "c")?;
    web.objects.merge("Service", "default", "a", &json!({"spec": {"selector": {"app": "nobody"}}}))?;
    web.answered_by("foo.test", "/", "503")?;
    web.objects.merge("Service", "default", "a", &json!({"spec": {"selector": {"app": "b"}}}))?;
    web.answered_by("foo.test", "/", "b")?;

    // A client that asks again and again, each time on a connection of its own, while the agent stops and starts.
    let url = "http://127.0.0.1/?[1-2000]";
    let script = format!(
        "curl -sS --no-keepalive -H 'Host: foo.test' -H 'Connection: close' --max-time 10 -o /dev/null -w '%{{http_code}}\\n' '{url}'"
    );
    let lab = &web.lab;
    let codes = std::thread::scope(|scope| -> Result<String> {
        let asker = scope.spawn(|| lab.exec("node-1", &["sh", "-c", &script]));
        for _ in 0..3 {
            lab.lab(&["service", "node-1", "stop", "agent"])?;
            lab.lab(&["service", "node-1", "start", "agent"])?;
            lab.agent_ready_within("node-1", Duration::from_secs(30))?;
        }
        asker.join().map_err(|_| anyhow::anyhow!("the asker panicked"))?
    })?;
    let bad: Vec<&str> = codes.lines().filter(|code| *code != "200").collect();
    if !bad.is_empty() {
        bail!("{} of {} requests failed: {bad:?}", bad.len(), codes.lines().count());
    }
    // Each of them is in the log once, whichever agent served it.
    eventually(PATIENCE, || {
        let lines = std::fs::read_to_string(&log)?;
        let lines = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let asked = lines.iter().filter(|line| line["path"].as_str().is_some_and(|p| p.starts_with("/?")));
        let asked: Vec<&Value> = asked.collect();
        let paths: BTreeSet<&str> = asked.iter().filter_map(|line| line["path"].as_str()).collect();
        ensure!((asked.len(), paths.len()) == (2000, 2000), "{} lines, {} paths", asked.len(), paths.len());
        for line in asked {
            let told = (line["status"].as_u64(), line["host"].as_str(), line["route"].as_str());
            ensure!(told == (Some(200), Some("foo.test"), Some("default/one foo.test /")), "{line}");
            ensure!(line["endpoint"].is_string() && line["client"] == "127.0.0.1", "{line}");
        }
        Ok(())
    })?;
    web.lab.done()
}
