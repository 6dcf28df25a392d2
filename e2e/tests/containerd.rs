//! Debian's containerd attaches and detaches containers through the plugin.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use warren_e2e::lab::succeeded;
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

#[test]
fn containerd_attaches_and_detaches() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = busybox_image(dir.path())?;
    let lab = Lab::up("containerd", &["--nodes", "2", "--dual-stack"])?;
    let ctr = "ctr --address /run/containerd/containerd.sock";
    let sh = |script: &str| lab.exec("node-2", &["sh", "-c", script]);
    // The node's own mount namespace: cgroups and containerd's directories are set up there and end with it.
    sh("mkdir -p /sys/fs/cgroup /run/containerd /var/lib/warren/containerd && \
        (mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup) && \
        printf 'version = 2\\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\\n' > /run/containerd/config.toml && \
        (setsid containerd --config /run/containerd/config.toml --root /var/lib/warren/containerd \
            --state /run/containerd/state --address /run/containerd/containerd.sock \
            > /run/containerd/log 2>&1 < /dev/null &)")?;
    let ready = eventually(Duration::from_secs(20), || sh(&format!("{ctr} version")));
    if let Err(error) = ready {
        let log = sh("tail -40 /run/containerd/log").unwrap_or_default();
        return Err(error.context(log));
    }
    sh(&format!("{ctr} image import --snapshotter native {image}"))?;
    for n in 0..5 {
        sh(&format!(
            "{ctr} run -d --cni --snapshotter native warren.test/busybox:local c{n} /bin/sleep 600"
        ))?;
    }
    let remote = lab.pods_on("node-1")?.remove(0);
    for ip in &remote.ips {
        let ping = format!("{ctr} task exec --exec-id ping-{} c0 /bin/ping -c 1 -W 2 {ip}", ip.is_ipv4());
        println!("{}", sh(&ping)?);
    }
    let links = |want: usize| -> Result<()> {
        let count = sh("ip -o link | grep -c wrnp || true")?.trim().parse::<usize>()?;
        ensure!(count == want, "{count} pod links, expected {want}");
        Ok(())
    };
    let own = lab.pods_on("node-2")?.len();
    links(own + 5)?;
    for n in 0..5 {
        sh(&format!(
            "{ctr} task kill -s SIGKILL c{n} && {ctr} task delete c{n} ; {ctr} container delete c{n}"
        ))?;
    }
    println!("links after the containers were deleted: {}", sh("ip -o link | grep -c wrnp || true")?.trim());
    eventually(Duration::from_secs(30), || links(own))?;
    lab.done()
}
