//! Agents of a cluster that somebody else runs: by a kubeconfig, with the rights of the manifests and no others, their
//! Nodes and Pods written by a kubelet, podCIDRs by nobody. The API is the embedded one, told to give no podCIDRs.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use warren_e2e::eventually;
use warren_e2e::lab::{Lab, succeeded, warren_bin};
use warren_e2e::runtime::Runtime;
use warren_e2e::tls::certificate;

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");
/// State of the API, on the disk of node-1, and of the agents, each on its own node's.
const DIR: &str = "/var/lib/warren/kube";
const ACCOUNT: &str = "system:serviceaccount:kube-system:warren";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a role gives, or was asked for. No name: any object, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    group: String,
    resource: String,
    verb: String,
    name: Option<String>,
}

impl Right {
    /// Whether `self`, as a role gives it, is what `asked` needs.
    fn serves(&self, asked: &Self) -> bool {
        (&self.group, &self.resource, &self.verb) == (&asked.group, &asked.resource, &asked.verb)
            && (self.name.is_none() || self.name == asked.name)
    }
}

/// A program in the network namespace of a pod, which ends with this.
struct InPod(Child);

impl Drop for InPod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Cluster {
    lab: Lab,
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Cluster {
    /// An API on node-1 and nothing of Warren elsewhere.
    fn up() -> Result<Self> {
        let lab = Lab::up("kubernetes", &["--nodes", "3", "--pods", "0"])?;
        let bin = warren_bin().display().to_string();
        lab.lab(&["service", "node-1", "stop", "server"])?;
        for node in ["node-1", "node-2", "node-3"] {
            lab.lab(&["service", node, "stop", "agent"])?;
            lab.exec(node, &[&bin, "uninstall", "--yes"])?;
        }
        let addresses: BTreeMap<_, _> =
            lab.status()?.nodes.into_iter().map(|n| (n.name, n.addresses)).collect();
        let cluster = Self { lab, addresses };
        cluster.start(
            "node-1",
            &format!(
                "WARREN_LOG=info,rbac=debug {bin} --log-format json server --listen 0.0.0.0:7443 --data-dir {DIR} \
                 --advertise-address {} --write-kubeconfig {DIR}/admin --allocate-node-cidrs=false --issue-certificates=false",
                cluster.address("node-1")?
            ),
            "api",
        )?;
        eventually(PATIENCE, || cluster.kubectl("get --raw /readyz"))?;
        Ok(cluster)
    }

    fn address(&self, node: &str) -> Result<IpAddr> {
        self.addresses.get(node).and_then(|a| a.first()).copied().with_context(|| format!("no node {node}"))
    }

    fn sh(&self, node: &str, script: &str) -> Result<String> {
        self.lab.exec(node, &["sh", "-c", script])
    }

    /// Starts what goes on until the lab ends, or somebody kills it.
    fn start(&self, node: &str, command: &str, log: &str) -> Result<()> {
        let script =
            format!("mkdir -p {DIR} && (exec setsid env {command} > {DIR}/{log}.log 2>&1 < /dev/null &)");
        self.sh(node, &script).map(drop)
    }

    fn kubectl(&self, words: &str) -> Result<String> {
        self.sh("node-1", &format!("kubectl --kubeconfig {DIR}/admin --cache-dir {DIR}/cache {words}"))
    }

    fn apply(&self, what: &str, text: &str) -> Result<String> {
        let file = format!("{DIR}/{what}.yaml");
        self.lab.exec("node-1", &["sh", "-c", "printf %s \"$2\" > \"$1\"", "sh", &file, text])?;
        self.kubectl(&format!("apply -f {file}"))
    }

    fn object(&self, words: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {words} -o json"))?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// What a kubelet writes of its node; a cluster's administrator may do it too.
    fn node(&self, name: &str) -> Result<()> {
        self.apply(
            name,
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string(),
        )?;
        let addresses = [
            json!({"type": "InternalIP", "address": self.address(name)?}),
            json!({"type": "Hostname", "address": name}),
        ];
        let patch = json!({"status": {"addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        self.kubectl(&format!("patch node {name} --subresource=status --type=merge -p '{patch}'")).map(drop)
    }

    /// Starts an agent that has the rights of the service account and no others.
    fn agent(&self, node: &str) -> Result<()> {
        let admin: Value =
            serde_json::from_str(&self.kubectl("config view --raw -o json")?).context("the kubeconfig")?;
        let mut account = admin;
        account["users"][0]["user"]["as"] = ACCOUNT.into();
        let script = format!("mkdir -p {DIR} && printf %s \"$1\" > {DIR}/account");
        self.lab.exec(node, &["sh", "-c", &script, "sh", &account.to_string()])?;
        self.agent_again(node)
    }

    fn agent_again(&self, node: &str) -> Result<()> {
        let bin = warren_bin().display().to_string();
        let command = format!(
            "{bin} agent --kubeconfig {DIR}/account --node-name {node} --data-dir {DIR} --register-node=false \
             --ingress-certificates=on"
        );
        self.start(node, &command, "agent")
    }

    /// A Pod as a kubelet makes it: known to the API, then attached, then running. `n` is the container of `runtime`.
    fn pod(&self, node: &str, name: &str, labels: &Value, runtime: &Runtime) -> Result<Vec<IpAddr>> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        self.apply(name, &pod.to_string())?;
        let (added, _) = runtime.add_many(1, 1)?;
        let ips = added.into_iter().next().context("no answer to ADD")?.ips;
        let shown: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {"phase": "Running", "podIP": ips.first(), "podIPs": shown,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.kubectl(&format!("patch pod {name} --subresource=status --type=merge -p '{status}'"))?;
        Ok(ips)
    }

    /// What the API's log says of questions to the roles, and whether they allowed it.
    fn asked(&self) -> Result<BTreeMap<Right, bool>> {
        let log = self.sh("node-1", &format!("cat {DIR}/api.log"))?;
        let mut asked = BTreeMap::new();
        for line in log.lines() {
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
            if line["target"] == "rbac" && fields["user"] == ACCOUNT {
                let text = |key: &str| fields[key].as_str().unwrap_or_default().to_owned();
                let name = Some(text("name")).filter(|n| !n.is_empty());
                let right =
                    Right { group: text("group"), resource: text("resource"), verb: text("verb"), name };
                asked.insert(right, fields["allowed"] == json!(true));
            }
        }
        Ok(asked)
    }
}

/// Every right in the roles of the manifests.
fn rights(manifests: &str) -> Result<BTreeSet<Right>> {
    let mut out = BTreeSet::new();
    for text in manifests.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(text)?;
        if !matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")) {
            continue;
        }
        for rule in object["rules"].as_array().context("rules")? {
            let all = |key: &str| -> Vec<String> {
                let list = rule[key].as_array().into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let names: Vec<Option<String>> = match all("resourceNames") {
                names if names.is_empty() => vec![None],
                names => names.into_iter().map(Some).collect(),
            };
            for group in all("apiGroups") {
                for resource in all("resources") {
                    for verb in all("verbs") {
                        for name in &names {
                            out.insert(Right {
                                group: group.clone(),
                                resource: resource.clone(),
                                verb: verb.clone(),
                                name: name.clone(),
                            });
                        }
                    }
                }
            }
        }
    }
    ensure!(out.len() > 20, "{out:?}");
    Ok(out)
}

fn in_pod(runtime: &Runtime, words: &[&str]) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", runtime.netns(0)?.display())).args(words);
    Ok(command)
}

fn from_pod(runtime: &Runtime, words: &[&str]) -> Result<String> {
    succeeded(&words.join(" "), &in_pod(runtime, words)?.output()?)
}

/// An agent issues what an Ingress asks for, again for another host, and clients verify it by the exported root.
fn certificates(cluster: &Cluster) -> Result<()> {
    let to = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ask = |hosts: &[&str]| {
        let rules: Vec<Value> = hosts
            .iter()
            .map(|host| json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": to}]}}))
            .collect();
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "metadata": {"name": "issued", "namespace": "default",
                "annotations": {"ingress.warren.dev/certificate": "private"}},
            "spec": {"ingressClassName": "warren", "tls": [{"hosts": hosts, "secretName": "issued"}], "rules": rules}});
        cluster.apply("issued", &ingress.to_string())
    };
    let (root, bin) = (format!("{DIR}/root.crt"), warren_bin().display().to_string());
    let verified = |host: &str, node: &str| -> Result<()> {
        let url = format!("https://{host}/");
        let resolve = format!("{host}:443:{}", cluster.address(node)?);
        let words = [
            "curl",
            "-sS",
            "--max-time",
            "2",
            "--cacert",
            &root,
            "--resolve",
            &resolve,
            "-o",
            "/dev/null",
            &url,
        ];
        cluster.lab.exec("node-1", &words).map(drop)
    };
    ask(&["a.issued.test"])?;
    let export = format!("{bin} ca export --kubeconfig {DIR}/admin -o {root}");
    let ((), took) = eventually(PATIENCE, || {
        cluster.sh("node-1", &export)?;
        verified("a.issued.test", "node-2")?;
        verified("a.issued.test", "node-3")
    })?;
    println!("a certificate was issued and shown after {} ms", took.as_millis());
    ask(&["a.issued.test", "b.issued.test"])?;
    let ((), took) = eventually(PATIENCE, || verified("b.issued.test", "node-3"))?;
    println!("another one for two hosts after {} ms", took.as_millis());

    // One that somebody made himself stays.
    let own = certificate("own.test")?.secret("own");
    cluster.apply("own-secret", &own.to_string())?;
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "own", "namespace": "default", "annotations": {"ingress.warren.dev/certificate": "private"}},
        "spec": {"ingressClassName": "warren", "tls": [{"hosts": ["own.test"], "secretName": "own"}],
            "rules": [{"host": "own.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": to}]}}]}});
    cluster.apply("own", &ingress.to_string())?;
    eventually(PATIENCE, || {
        let events = cluster.object("events -n default")?;
        let refused =
            events["items"].as_array().into_iter().flatten().any(|e| e["reason"] == "CertificateRefused");
        ensure!(refused, "no Event says that it is left as it is");
        Ok(())
    })?;
    let kept = cluster.object("secret own")?;
    ensure!(
        kept["metadata"]["annotations"]["warren.dev/issued"].is_null(),
        "somebody's Secret was written over"
    );
    Ok(())
}

#[test]
fn agents_live_with_the_rights_of_the_manifests() -> Result<()> {
    let cluster = Cluster::up()?;
    if let Err(error) = live(&cluster) {
        for (node, log) in [("node-1", "api"), ("node-2", "agent"), ("node-3", "agent")] {
            let lines = cluster
                .sh(node, &format!("grep -v '\"verb\":\"\\(list\\|watch\\)' {DIR}/{log}.log | tail -40"));
            eprintln!("--- {node}: {log}\n{}", lines.unwrap_or_default());
        }
        eprintln!("asked: {:#?}", cluster.asked());
        return Err(error);
    }
    cluster.lab.done()
}

fn live(cluster: &Cluster) -> Result<()> {
    let printed = Command::new(warren_bin())
        .args([
            "manifests",
            "--k3s",
            "--certificates",
            "--api-server",
            &format!("https://{}:7443", cluster.address("node-1")?),
        ])
        .output()?;
    let manifests = succeeded("warren manifests", &printed)?;

    println!("{}", cluster.apply("manifests", &manifests)?);
    let again = cluster.apply("manifests", &manifests)?;
    let changed: Vec<&str> = again.lines().filter(|l| !l.ends_with("unchanged")).collect();
    ensure!(changed.is_empty() && again.lines().count() == 13, "applied again: {again}");

    for node in ["node-2", "node-3"] {
        cluster.node(node)?;
        cluster.agent(node)?;
    }
    // Nobody else gives podCIDRs here.
    let given = |node: &str| -> Result<String> {
        let object = cluster.object(&format!("node {node}"))?;
        Ok(object["spec"]["podCIDR"].as_str().context("no podCIDR")?.to_owned())
    };
    let (first, took) = eventually(PATIENCE, || Ok((given("node-2")?, given("node-3")?)))?;
    println!("podCIDRs {first:?} after {} ms", took.as_millis());
    ensure!(first.0 != first.1, "two nodes have one prefix");
    for node in ["node-2", "node-3"] {
        if let Err(error) = cluster.lab.agent_ready_within(node, PATIENCE) {
            bail!("{error:#}: {}", cluster.sh(node, &format!("tail -50 {DIR}/agent.log"))?);
        }
    }

    let runtime = |node: &str| eventually(PATIENCE, || Runtime::new(&cluster.lab, node)).map(|(r, _)| r);
    let (web, client) = (runtime("node-2")?.named("web"), runtime("node-3")?.named("client"));
    let at = cluster.pod("node-2", "web-0", &json!({"app": "web"}), &web)?;
    cluster.pod("node-3", "client-0", &json!({"app": "client"}), &client)?;
    let server =
        in_pod(&web, &[WHOAMI, "web", "--name", "web", "--port", "8080"])?.stdout(Stdio::null()).spawn()?;
    let _server = InPod(server);
    let url = format!("http://{}:8080/", at.first().context("no address")?);
    eventually(PATIENCE, || from_pod(&client, &["curl", "-sS", "--max-time", "2", &url]))?;

    // Services, of two kinds, and DNS.
    let service = |name: &str, kind: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
        .to_string()
    };
    cluster.apply("web", &service("web", "ClusterIP"))?;
    cluster.apply("balanced", &service("balanced", "LoadBalancer"))?;
    eventually(PATIENCE, || {
        let name =
            from_pod(&client, &["dig", "+short", "+time=1", "@10.43.0.10", "web.default.svc.cluster.local"])?;
        ensure!(!name.trim().is_empty(), "no such name");
        from_pod(&client, &["curl", "-sS", "--max-time", "2", &format!("http://{}/", name.trim())])
    })?;
    eventually(PATIENCE, || {
        let shown = cluster.object("service balanced")?;
        ensure!(!shown["status"]["loadBalancer"]["ingress"].is_null(), "no address: {}", shown["status"]);
        Ok(())
    })?;

    // Ingress, with a Secret, and an Event of what is not understood.
    cluster.apply("secret", &certificate("web.test")?.secret("web").to_string())?;
    let to = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "web", "namespace": "default",
            "annotations": {"nginx.ingress.kubernetes.io/enable-opentelemetry": "true"}},
        "spec": {"ingressClassName": "warren", "tls": [{"hosts": ["web.test"], "secretName": "web"}],
            "rules": [{"host": "web.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": to}]}}]}});
    cluster.apply("ingress", &ingress.to_string())?;
    let resolve = format!("web.test:443:{}", cluster.address("node-3")?);
    eventually(PATIENCE, || {
        let words = [
            "curl",
            "-sSk",
            "--max-time",
            "2",
            "--resolve",
            &resolve,
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
        ];
        let status = cluster.lab.exec("outside", &[&words[..], &["https://web.test/"]].concat())?;
        ensure!(status == "200", "{status}");
        let shown = cluster.object("ingress web")?;
        ensure!(!shown["status"]["loadBalancer"]["ingress"].is_null(), "no address: {}", shown["status"]);
        let events = cluster.object("events -n default")?;
        let told =
            events["items"].as_array().into_iter().flatten().any(|e| e["involvedObject"]["name"] == "web");
        ensure!(told, "no Event");
        Ok(())
    })?;

    gateway(cluster)?;
    certificates(cluster)?;

    // A policy is enforced, for Pods that a kubelet has written.
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}});
    cluster.apply("policy", &policy.to_string())?;
    eventually(PATIENCE, || {
        let out = in_pod(&client, &["curl", "-sS", "--max-time", "1", &url])?.output()?;
        ensure!(!out.status.success(), "still allowed");
        Ok(())
    })?;

    // Who reaches whom, by pods that no kubelet makes. The balanced Service has the nodes' port 80, which ingress needs.
    cluster.kubectl("delete service balanced")?;
    let bin = warren_bin().display().to_string();
    let script = format!("{bin} connectivity --kubeconfig {DIR}/admin --nodes node-2,node-3");
    println!("{}", cluster.sh("node-1", &script)?);

    // A third node comes: the Lease is renewed for it. An agent that starts anew tells again what was told before.
    cluster.node("node-1")?;
    for node in ["node-2", "node-3"] {
        cluster.lab.kill_process(node, &["agent --kubeconfig"])?;
        cluster.agent_again(node)?;
        cluster.lab.agent_ready_within(node, PATIENCE)?;
    }
    eventually(PATIENCE, || given("node-1"))?;

    let wanted = rights(&manifests)?;
    eventually(PATIENCE, || {
        let asked = cluster.asked()?;
        let refused: Vec<_> = asked.iter().filter(|(_, allowed)| !**allowed).collect();
        ensure!(refused.is_empty(), "rights that are missing: {refused:?}");
        let unused: Vec<_> = wanted.iter().filter(|w| !asked.keys().any(|a| w.serves(a))).collect();
        ensure!(unused.is_empty(), "rights that nobody uses: {unused:?}");
        Ok(())
    })?;
    println!("{} rights, each used; none was missing", wanted.len());
    Ok(())
}

/// A Gateway with a route of each kind: what is said of them is written.
fn gateway(cluster: &Cluster) -> Result<()> {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
            .to_string()
    };
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let route =
        json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    for (kind, name, spec) in [
        ("GatewayClass", "warren", json!({"controllerName": "warren.dev/gateway-controller"})),
        ("Gateway", "edge", json!({"gatewayClassName": "warren", "listeners": [listener]})),
        ("HTTPRoute", "http", route.clone()),
        ("GRPCRoute", "grpc", route),
    ] {
        cluster.apply(name, &object(kind, name, spec))?;
    }
    for (kind, name) in
        [("gatewayclass", "warren"), ("gateway", "edge"), ("httproute", "http"), ("grpcroute", "grpc")]
    {
        eventually(PATIENCE, || {
            let shown = cluster.object(&format!("{kind} {name}"))?;
            let (own, of_parent) = ("/status/conditions", "/status/parents/0/conditions");
            let conditions = shown.pointer(if kind.ends_with("route") { of_parent } else { own });
            let accepted = conditions.and_then(Value::as_array).into_iter().flatten();
            let accepted = accepted.filter(|c| c["type"] == "Accepted" && c["status"] == "True").count();
            ensure!(accepted == 1, "{kind} {name}: {}", shown["status"]);
            Ok(())
        })?;
    }
    Ok(())
}
