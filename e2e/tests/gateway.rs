//! Gateways and routes, as clients of other make meet them: by `curl` for requests, by kubectl for what is said of objects.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use warren_e2e::battery::Objects;
use warren_e2e::eventually;
use warren_e2e::lab::{Lab, succeeded, warren_bin};
use warren_e2e::tls::certificate;

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");
const PATIENCE: Duration = Duration::from_secs(30);
const API: &str = "gateway.networking.k8s.io/v1";

/// A lab of two nodes whose pods serve HTTP: `a` on node-1 and `b` on node-2, each behind a Service of its name; `b` behind
/// one of namespace `store` too.
struct Web {
    lab: Lab,
    objects: Objects,
    /// The kubeconfig, and what kubectl remembers of the API.
    dir: tempfile::TempDir,
}

impl Web {
    fn up() -> Result<Self> {
        let lab = Lab::up("gateway", &["--nodes", "2", "--pods", "0"])?;
        let text = lab.lab(&["kubeconfig"])?;
        let objects = Objects::of(&text)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("config"), text)?;
        let web = Self { lab, objects, dir };
        for (name, node) in [("a", "node-1"), ("b", "node-2")] {
            let label = format!("app={name}");
            let run = ["run", name, "--node", node, "--label", &label, "--", WHOAMI, "web"];
            web.lab.lab(&[&run[..], &["--name", name, "--port", "8080"]].concat())?;
            web.objects.apply(&service("default", name))?;
        }
        Ok(web)
    }

    /// Asks by `curl` on node-1; status, body, and where it is sent to.
    fn curl(&self, args: &[&str]) -> Result<(u16, String, String)> {
        let format = "\n%{http_code} %{redirect_url}";
        let all = [&["curl", "-sS", "--max-time", "5", "-w", format], args].concat();
        let text = self.lab.exec("node-1", &all)?;
        let (body, last) = text.trim_end_matches('\n').rsplit_once('\n').context("no status")?;
        let (status, to) = last.split_once(' ').context("no status")?;
        Ok((status.parse()?, body.to_owned(), to.to_owned()))
    }

    fn get(&self, host: &str, path: &str, more: &[&str]) -> Result<(u16, String, String)> {
        let (host, url) = (format!("Host: {host}"), format!("http://127.0.0.1{path}"));
        self.curl(&[&["-H", &host, &url], more].concat())
    }

    /// What the pod that answers says of itself and of what it was asked; the status when none of ours does.
    fn said(&self, host: &str, path: &str, more: &[&str]) -> Result<Value> {
        let (status, body, _) = self.get(host, path, more)?;
        Ok(if status == 200 { serde_json::from_str(&body)? } else { json!({"name": status.to_string()}) })
    }

    fn answered_by(&self, host: &str, path: &str, more: &[&str], wanted: &str) -> Result<()> {
        eventually(PATIENCE, || {
            let said = self.said(host, path, more)?;
            ensure!(
                said["name"] == wanted,
                "{host}{path} {more:?} is answered by {}, not {wanted}",
                said["name"]
            );
            Ok(())
        })
        .map(drop)
    }

    /// What kubectl shows by a JSON path.
    fn kubectl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.dir.path().join("config"));
        command.arg("--cache-dir").arg(self.dir.path().join("cache")).args(words);
        succeeded(&words.join(" "), &command.output()?)
    }

    /// Waits until the condition of an object, as kubectl shows it, is this: `True Accepted`.
    fn condition(&self, object: &[&str], conditions: &str, kind: &str, wanted: &str) -> Result<()> {
        let path = format!(
            "jsonpath={{{conditions}[?(@.type==\"{kind}\")].status}} {{{conditions}[?(@.type==\"{kind}\")].reason}}"
        );
        eventually(PATIENCE, || {
            let shown = self.kubectl(&[&["get"], object, &["-o", &path]].concat())?;
            ensure!(shown.trim() == wanted, "{object:?} {kind}: {shown:?}, not {wanted:?}");
            Ok(())
        })
        .map(drop)
    }
}

fn service(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    })
}

fn route(name: &str, section: &str, hosts: &[&str], rules: &Value) -> Value {
    json!({
        "apiVersion": API, "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": "edge", "sectionName": section}], "hostnames": hosts, "rules": rules},
    })
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

fn below(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

const GATEWAY: [&str; 2] = ["gateway", "edge"];
const OF_ROUTE: &str = ".status.parents[0].conditions";

#[test]
fn routes_are_served_and_their_status_is_written() -> Result<()> {
    let web = Web::up()?;
    web.objects.apply(&json!({
        "apiVersion": API, "kind": "GatewayClass", "metadata": {"name": "warren"},
        "spec": {"controllerName": "warren.dev/gateway-controller"},
    }))?;
    // A class is accepted while there is nothing to serve yet.
    web.condition(&["gatewayclass", "warren"], ".status.conditions", "Accepted", "True Accepted")?;
    web.objects.apply(&json!({
        "apiVersion": API, "kind": "Gateway", "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"gatewayClassName": "warren", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.shop.test",
                "tls": {"certificateRefs": [{"name": "edge"}]}},
            {"name": "odd", "port": 8080, "protocol": "HTTP"},
        ]},
    }))?;
    web.condition(&GATEWAY, ".status.conditions", "Programmed", "True Programmed")?;
    web.condition(&GATEWAY, ".status.conditions", "Accepted", "True ListenersNotValid")?;
    let listener = |name: &str| format!(".status.listeners[?(@.name==\"{name}\")].conditions");
    web.condition(&GATEWAY, &listener("odd"), "Accepted", "False PortUnavailable")?;
    web.condition(&GATEWAY, &listener("https"), "ResolvedRefs", "False InvalidCertificateRef")?;
    let addresses =
        web.kubectl(&["get", "gateway", "edge", "-o", "jsonpath={.status.addresses[*].value}"])?;
    ensure!(addresses.split_whitespace().count() == 2, "{addresses}");

    requests(&web)?;
    tls(&web)?;
    references(&web)?;

    // The spec changes, and what is said follows it.
    web.objects.merge("HTTPRoute", "default", "plain", &json!({"spec": {"hostnames": ["moved.test"]}}))?;
    web.answered_by("moved.test", "/", &[], "a")?;
    web.answered_by("plain.test", "/", &[], "404")?;
    eventually(PATIENCE, || {
        let shown = web.objects.get("HTTPRoute", "default", "plain")?;
        let observed = &shown["status"]["parents"][0]["conditions"][0]["observedGeneration"];
        ensure!(*observed == shown["metadata"]["generation"], "{shown}");
        Ok(())
    })?;
    web.objects.delete("Gateway", "default", "edge", None)?;
    eventually(PATIENCE, || {
        let refused = web.lab.try_exec("node-1", &["curl", "-s", "--max-time", "2", "http://127.0.0.1/"])?;
        ensure!(refused.status.code() == Some(7), "something listens still: {refused:?}");
        let shown = web.objects.get("HTTPRoute", "default", "plain")?;
        ensure!(shown["status"]["parents"].as_array().is_none_or(Vec::is_empty), "{}", shown["status"]);
        Ok(())
    })?;
    web.lab.done()
}

/// Hosts, paths, headers, weights, filters.
fn requests(web: &Web) -> Result<()> {
    let header = json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "Version", "value": "2"}]}]);
    let rewrite = json!([{"type": "URLRewrite", "urlRewrite": {"hostname": "inside.test",
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}},
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-Edge", "value": "1"}]}}]);
    let both = json!([{"name": "a", "port": 80, "weight": 1}, {"name": "b", "port": 80, "weight": 1}]);
    let none = json!([{"name": "a", "port": 80, "weight": 1}, {"name": "b", "port": 80, "weight": 0}]);
    web.objects.apply(&route(
        "plain",
        "http",
        &["plain.test", "*.plain.test"],
        &json!([
            {"backendRefs": to("a")},
            {"matches": below("/b"), "backendRefs": to("b")},
            {"matches": header, "backendRefs": to("b")},
            {"matches": below("/old"), "filters": rewrite, "backendRefs": to("a")},
            {"matches": below("/both"), "backendRefs": both},
            {"matches": below("/one"), "backendRefs": none},
        ]),
    ))?;
    let away =
        json!([{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]);
    web.objects.apply(&route("away", "http", &["away.shop.test"], &json!([{"filters": away}])))?;
    web.condition(&["httproute", "plain"], OF_ROUTE, "Accepted", "True Accepted")?;
    web.condition(&["httproute", "plain"], OF_ROUTE, "ResolvedRefs", "True ResolvedRefs")?;
    for (host, path, more, wanted) in [
        ("plain.test", "/", &[][..], "a"),
        ("x.y.plain.test", "/", &[], "a"),
        ("plain.test", "/b/c", &[], "b"),
        ("plain.test", "/bc", &[], "a"),
        ("plain.test", "/", &["-H", "version: 2"], "b"),
        ("plain.test", "/", &["-H", "version: 3"], "a"),
        ("other.test", "/", &[], "404"),
    ] {
        web.answered_by(host, path, more, wanted)?;
    }
    let said = web.said("plain.test", "/old/x?y=1", &[])?;
    ensure!(said["target"] == "/new/x?y=1", "{said}");
    let headers = said["headers"].as_array().context("headers")?;
    for wanted in [json!(["host", "inside.test"]), json!(["x-edge", "1"])] {
        let there = headers.iter().any(|h| {
            let name = h[0].as_str().unwrap_or_default().to_ascii_lowercase();
            wanted[0] == name && wanted[1] == h[1]
        });
        ensure!(there, "{wanted} is not among {headers:?}");
    }
    let (mut of_a, mut of_one) = (0, 0);
    for _ in 0..40 {
        of_a += usize::from(web.said("plain.test", "/both", &[])?["name"] == "a");
        of_one += usize::from(web.said("plain.test", "/one", &[])?["name"] == "a");
    }
    // Forty draws of two equal shares: fewer than five of one come once in a million times.
    ensure!((5..=35).contains(&of_a) && of_one == 40, "{of_a} and {of_one} of 40");
    let (status, _, to) = web.get("away.shop.test", "/x?y", &[])?;
    ensure!((status, to.as_str()) == (301, "https://away.shop.test/x?y"), "{status} {to}");
    Ok(())
}

/// A listener of HTTPS, its Secret, and that it has routes of its own.
fn tls(web: &Web) -> Result<()> {
    let made = certificate("a.shop.test")?;
    let ca = tempfile::NamedTempFile::new()?;
    std::fs::write(ca.path(), &made.cert)?;
    web.objects.apply(&made.secret("edge"))?;
    web.objects.apply(&route("secure", "https", &["a.shop.test"], &json!([{"backendRefs": to("b")}])))?;
    let path = ca.path().to_str().context("a path of text")?;
    eventually(PATIENCE, || {
        let (status, body, _) =
            web.curl(&["--cacert", path, "--resolve", "a.shop.test:443:127.0.0.1", "https://a.shop.test/"])?;
        let said: Value = serde_json::from_str(&body).with_context(|| format!("{status}: {body}"))?;
        ensure!(said["name"] == "b", "{said}");
        Ok(())
    })?;
    web.answered_by("a.shop.test", "/", &[], "404")?;
    let of_https = ".status.listeners[?(@.name==\"https\")].conditions";
    web.condition(&GATEWAY, of_https, "Programmed", "True Programmed")?;
    let attached = "jsonpath={.status.listeners[?(@.name==\"https\")].attachedRoutes}";
    ensure!(web.kubectl(&["get", "gateway", "edge", "-o", attached])? == "1");
    let bin = warren_bin();
    let bin = bin.to_str().context("a path of text")?;
    let explained = web.lab.exec("node-1", &[bin, "ingress", "explain", "https://a.shop.test/"])?;
    ensure!(
        explained.contains("HTTPRoute default/secure") && explained.contains("Secret default/edge"),
        "{explained}"
    );
    let list = web.lab.exec("node-1", &[bin, "ingress", "list"])?;
    ensure!(list.lines().any(|l| l.contains("HTTPRoute") && l.contains("secure")), "{list}");
    Ok(())
}

/// Backends of another namespace, without a grant and with one, and backends that are not there.
fn references(web: &Web) -> Result<()> {
    web.objects.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "store"}}))?;
    // The pods of `a` are in another namespace than this Service, so its endpoints are written by hand.
    let mut foreign = service("store", "far");
    foreign["spec"].as_object_mut().context("a spec")?.remove("selector");
    web.objects.apply(&foreign)?;
    let slices = web.objects.list("EndpointSlice", "default")?;
    let of_a = slices.iter().find(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "a");
    let of_a = of_a.context("no slice of a")?;
    web.objects.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": of_a["addressType"],
        "metadata": {"name": "far", "namespace": "store", "labels": {"kubernetes.io/service-name": "far"}},
        "endpoints": [{"addresses": of_a["endpoints"][0]["addresses"], "conditions": {"ready": true}}],
        "ports": of_a["ports"],
    }))?;
    let backend = json!([{"name": "far", "namespace": "store", "port": 80}]);
    web.objects.apply(&route("far", "http", &["far.test"], &json!([{"backendRefs": backend}])))?;
    web.condition(&["httproute", "far"], OF_ROUTE, "ResolvedRefs", "False RefNotPermitted")?;
    web.answered_by("far.test", "/", &[], "500")?;
    web.objects.apply(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "edge", "namespace": "store"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}]},
    }))?;
    web.answered_by("far.test", "/", &[], "a")?;
    web.condition(&["httproute", "far"], OF_ROUTE, "ResolvedRefs", "True ResolvedRefs")?;
    web.objects.apply(&route("gone", "http", &["gone.test"], &json!([{"backendRefs": to("gone")}])))?;
    web.condition(&["httproute", "gone"], OF_ROUTE, "ResolvedRefs", "False BackendNotFound")?;
    web.objects.apply(&route("lost", "nowhere", &["lost.test"], &json!([{"backendRefs": to("a")}])))?;
    web.condition(&["httproute", "lost"], OF_ROUTE, "Accepted", "False NoMatchingParent")
}
