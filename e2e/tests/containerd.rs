//! Debian's containerd attaches and detaches containers through the plugin; those that are pods have names, reach Services, and
//! obey policies.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use warren_e2e::battery::Objects;
use warren_e2e::cri::{Cri, Sandbox};
use warren_e2e::lab::{succeeded, warren_bin};
use warren_e2e::{Lab, eventually};

/// A `docker save` archive with one layer: busybox-static and its shell.
fn busybox_image(dir: &Path) -> Result<String> {
    let script = r#"
set -e
mkdir -p layer/bin
cp "$(command -v busybox)" layer/bin/busybox
for applet in sh sleep ip ping wget cat; do ln -sf busybox layer/bin/$applet; done
tar -C layer -cf layer.tar .
diff=$(sha256sum layer.tar | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sleep","600"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$diff" > config.json
printf '[{"Config":"config.json","RepoTags":["warren.test/busybox:local"],"Layers":["layer.tar"]}]' > manifest.json
tar -cf image.tar manifest.json config.json layer.tar
"#;
    succeeded("build the image", &Command::new("sh").args(["-c", script]).current_dir(dir).output()?)?;
    Ok(dir.join("image.tar").display().to_string())
}

const CTR: &str = "ctr --address /run/containerd/containerd.sock";
const NODE: &str = "node-2";
const IMAGE: &str = "warren.test/busybox:local";
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts containerd on a node, with this configuration. The node's own mount namespace: cgroups and containerd's
/// directories are set up there and end with it.
fn start_containerd(lab: &Lab, config: &str) -> Result<()> {
    let sh = |script: &str| lab.exec(NODE, &["sh", "-c", script]);
    lab.exec(
        NODE,
        &[
            "sh",
            "-c",
            "mkdir -p /run/containerd && printf '%s' \"$1\" > /run/containerd/config.toml",
            "sh",
            config,
        ],
    )?;
    sh("mkdir -p /sys/fs/cgroup /var/lib/warren/containerd && \
        (mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup) && \
        (setsid containerd --config /run/containerd/config.toml --root /var/lib/warren/containerd \
            --state /run/containerd/state --address /run/containerd/containerd.sock \
            > /run/containerd/log 2>&1 < /dev/null &)")?;
    let ready = eventually(Duration::from_secs(20), || sh(&format!("{CTR} version")));
    ready.map(drop).map_err(|error| error.context(sh("tail -40 /run/containerd/log").unwrap_or_default()))
}

/// Fails unless the node has so many links of pods.
fn links(lab: &Lab, want: usize) -> Result<()> {
    let count =
        lab.exec(NODE, &["sh", "-c", "ip -o link | grep -c wrnp || true"])?.trim().parse::<usize>()?;
    ensure!(count == want, "{count} pod links, expected {want}");
    Ok(())
}

#[test]
fn containerd_attaches_and_detaches() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = busybox_image(dir.path())?;
    let lab = Lab::up("containerd", &["--nodes", "2", "--dual-stack"])?;
    let sh = |script: &str| lab.exec(NODE, &["sh", "-c", script]);
    start_containerd(&lab, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
    sh(&format!("{CTR} image import --snapshotter native {image}"))?;
    for n in 0..5 {
        sh(&format!("{CTR} run -d --cni --snapshotter native {IMAGE} c{n} /bin/sleep 600"))?;
    }
    let remote = lab.pods_on("node-1")?.remove(0);
    for ip in &remote.ips {
        let ping = format!("{CTR} task exec --exec-id ping-{} c0 /bin/ping -c 1 -W 2 {ip}", ip.is_ipv4());
        println!("{}", sh(&ping)?);
    }
    let own = lab.pods_on(NODE)?.len();
    links(&lab, own + 5)?;
    for n in 0..5 {
        sh(&format!("{CTR} task delete --force c{n} && {CTR} container delete c{n}"))?;
    }
    println!("links after the containers were deleted: {}", sh("ip -o link | grep -c wrnp || true")?.trim());
    eventually(Duration::from_secs(30), || links(&lab, own))?;
    lab.done()
}

/// As a kubelet has it, with what the node of a lab has not left out.
const CONFIG: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "warren.test/busybox:local"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
"#;
const SHOP: &str = "shop";
const PROGRAM: &str = "/usr/local/bin/warren";

/// A node that `warren install` made, with containerd, and the API's objects.
struct Site {
    lab: Lab,
    objects: Objects,
    cri: Cri,
}

/// A pod of a kubelet: its object, its sandbox, and one container.
struct Running {
    sandbox: String,
    container: String,
    ips: Vec<String>,
}

impl Site {
    fn up(image: &str) -> Result<Self> {
        let lab = Lab::up("containerd-pods", &["--nodes", "2", "--dual-stack", "--pods", "0"])?;
        let objects = Objects::of(&lab.lab(&["kubeconfig"])?)?;
        let bin = warren_bin().display().to_string();
        lab.lab(&["service", NODE, "stop", "agent"])?;
        lab.exec(NODE, &[&bin, "uninstall", "--yes"])?;
        // Its keys are gone, so the next agent is another node to the server.
        objects.delete("Node", "", NODE, None)?;
        lab.exec(NODE, &["mount", "-t", "tmpfs", "none", "/usr/local"])?;
        let server = lab.status()?.nodes.into_iter().find(|n| n.name == "node-1").context("no node-1")?;
        let url =
            format!("https://{}", SocketAddr::new(*server.addresses.first().context("no address")?, 6443));
        let install = [&*bin, "install", "agent", "--server", &url, "--token-file", "/etc/warren/token"];
        let more = ["--node-name", NODE, "--init", "none"];
        println!("{}", lab.exec(NODE, &[&install[..], &more].concat())?);
        for early in ["/etc/cni/net.d/10-warren.conflist", "/opt/cni/bin/warren"] {
            ensure!(
                !lab.try_exec(NODE, &["test", "-e", early])?.status.success(),
                "{early} before pods can be attached"
            );
        }
        Self::start_agent(&lab)?;
        // Nobody else brings the plugin that containerd calls for the loopback.
        eventually(Duration::from_secs(20), || {
            lab.exec(NODE, &["test", "-L", "/opt/cni/bin/loopback"]).map(drop)
        })?;
        start_containerd(&lab, CONFIG)?;
        lab.exec(NODE, &["sh", "-c", &format!("{CTR} -n k8s.io image import --snapshotter native {image}")])?;
        let pid = lab
            .status()?
            .nodes
            .into_iter()
            .find_map(|n| n.pid.filter(|_| n.name == NODE))
            .context("no node")?;
        let cri = Cri::at(&PathBuf::from(format!("/proc/{pid}/root/run/containerd/containerd.sock")))?;
        let site = Self { lab, objects, cri };
        // The runtime finds the conflist that the agent has written.
        let ready = eventually(PATIENCE, || site.cri.is_ready());
        ready.map_err(|error| error.context(site.log("/run/containerd/log")))?;
        Ok(site)
    }

    fn log(&self, path: &str) -> String {
        self.lab.exec(NODE, &["tail", "-40", path]).unwrap_or_default()
    }

    fn start_agent(lab: &Lab) -> Result<()> {
        let script = format!("setsid {PROGRAM} agent >>/run/agent.log 2>&1 </dev/null &");
        lab.exec(NODE, &["sh", "-c", &script])?;
        lab.agent_ready_within(NODE, PATIENCE).map(drop)
    }

    /// What a kubelet does with a pod that was scheduled to it.
    fn run(&self, name: &str, command: &[&str]) -> Result<Running> {
        let pod = json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": SHOP, "labels": { "app": name } },
            "spec": { "nodeName": NODE, "containers": [{ "name": "main", "image": IMAGE }] } });
        let made = self.objects.apply(&pod)?;
        let of = Sandbox {
            name: name.to_owned(),
            namespace: SHOP.into(),
            uid: made["metadata"]["uid"].as_str().context("no uid")?.to_owned(),
            dns: "10.43.0.10".into(),
        };
        let sandbox = self.cri.run_sandbox(&of).map_err(|e| e.context(self.log("/run/containerd/log")))?;
        let container = self.cri.start(&sandbox, &of, IMAGE, command)?;
        let ips = self.cri.addresses(&sandbox)?;
        ensure!(ips.len() == 2, "{name} has {ips:?}");
        // The object says so too, with the labels that it had.
        eventually(PATIENCE, || {
            let seen = self.objects.get("Pod", SHOP, name)?;
            let shown: Vec<&str> = seen["status"]["podIPs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|ip| ip["ip"].as_str())
                .collect();
            ensure!(
                shown == ips && seen["metadata"]["labels"]["app"] == name,
                "{name}: {shown:?} {:?}",
                seen["metadata"]["labels"]
            );
            Ok(())
        })?;
        Ok(Running { sandbox, container, ips })
    }

    /// The page that a container is given. The static busybox of Debian dies of `wget -T`, so another program has the time.
    fn page(&self, from: &Running, host: &str) -> Result<String> {
        let out = self.cri.exec(
            &from.container,
            &["/bin/busybox", "timeout", "3", "/bin/busybox", "wget", "-O", "-", &format!("http://{host}/")],
        )?;
        ensure!(out.code == 0, "{host}: {} (exit code {})", out.err, out.code);
        Ok(out.out)
    }

    fn policy(&self) -> Result<Value> {
        self.objects.apply(&json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "web", "namespace": SHOP },
            "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "client" } } }] }] } }))
    }

    /// What the node makes of the Service, for a failure.
    fn told(&self) -> String {
        let words =
            format!("{PROGRAM} service show shop/web; {PROGRAM} policy list; ps -eo pid,args | tail -30");
        self.lab.exec(NODE, &["sh", "-c", &words]).unwrap_or_default()
    }

    fn leases(&self) -> Result<String> {
        self.lab.exec(NODE, &[PROGRAM, "ipam", "status"])
    }
}

/// An address as a URL has it.
fn host(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[test]
fn containers_of_an_installed_node_reach_services_find_names_and_obey_policies() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::up(&busybox_image(dir.path())?)?;
    site.objects.apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SHOP } }))?;
    let serve = "/bin/busybox mkdir -p /www && echo hello > /www/index.html && exec /bin/busybox httpd -f -p 8080 -h /www";
    let web = site.run("web", &["/bin/sh", "-c", serve])?;
    let client = site.run("client", &["/bin/sleep", "600"])?;
    let stranger = site.run("stranger", &["/bin/sleep", "600"])?;
    links(&site.lab, 3)?;
    let service = site.objects.apply(&json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": SHOP },
        "spec": { "ipFamilyPolicy": "PreferDualStack", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] } }))?;
    let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let mut targets: Vec<String> = ips.filter_map(|ip| Some(host(ip.as_str()?, 80))).collect();
    ensure!(targets.len() == 2, "{targets:?}");
    targets.extend(web.ips.iter().map(|ip| host(ip, 8080)));

    // Pods and Services, in both families.
    for from in [&client, &stranger] {
        for target in &targets {
            let (page, _) =
                eventually(PATIENCE, || site.page(from, target)).map_err(|e| e.context(site.told()))?;
            ensure!(page == "hello\n", "{target}: {page:?}");
        }
    }
    // Names, by the resolver that the runtime was told.
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned();
    eventually(PATIENCE, || {
        let out =
            site.cri.exec(&client.container, &["/bin/busybox", "nslookup", "web.shop.svc.cluster.local"])?;
        ensure!(out.code == 0 && out.out.contains(&cluster_ip), "{out:?}");
        Ok(())
    })?;
    let resolver = site.cri.exec(&client.container, &["/bin/cat", "/etc/resolv.conf"])?;
    ensure!(resolver.out.contains("nameserver 10.43.0.10"), "{resolver:?}");

    // A policy by labels, for containers of this node and pods of another.
    for (name, app) in [("far-client", "client"), ("far-stranger", "stranger")] {
        let label = format!("app={app}");
        site.lab.lab(&["run", name, "--node", "node-1", "--namespace", SHOP, "--label", &label])?;
    }
    site.policy()?;
    let far = |name: &str, target: &str| {
        site.lab.exec(
            name,
            &["busybox", "timeout", "3", "busybox", "wget", "-q", "-O", "-", &format!("http://{target}/")],
        )
    };
    for target in &targets {
        eventually(PATIENCE, || {
            ensure!(site.page(&stranger, target).is_err(), "{target}: a stranger is let in");
            ensure!(far("far-stranger", target).is_err(), "{target}: a stranger of another node is let in");
            Ok(())
        })?;
        eventually(PATIENCE, || site.page(&client, target))?;
        eventually(PATIENCE, || far("far-client", target))?;
    }

    // A pod that ends: its link, its leases and its object go.
    site.cri.remove(&stranger.sandbox)?;
    let gone = |of: &Running, name: &str, left: usize| {
        eventually(PATIENCE, || {
            links(&site.lab, left)?;
            let leases = site.leases()?;
            ensure!(!leases.contains(&format!("{SHOP}/{name}")), "{leases}");
            ensure!(site.objects.get("Pod", SHOP, name).is_err(), "its object is still there");
            let left = site.lab.exec(NODE, &["ip", "route", "show", "table", "all"])?;
            ensure!(!of.ips.iter().any(|ip| left.lines().any(|l| l.split(' ').any(|w| w == ip))), "{left}");
            Ok(())
        })
    };
    gone(&stranger, "stranger", 2)?;

    // The agent is killed: containers go on, one of them ends meanwhile, and the next agent takes away what it left.
    site.lab.kill_process(NODE, &["warren agent"])?;
    for target in &targets {
        site.page(&client, target)?;
    }
    site.cri.remove(&client.sandbox)?;
    Site::start_agent(&site.lab)?;
    gone(&client, "client", 1)?;
    site.cri.remove(&web.sandbox)?;
    gone(&web, "web", 0)?;
    site.lab.done()
}
