//! CNI ADD and DEL, one after another, beside the reference plugins bridge + host-local + portmap.

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use warren_e2e::lab::{Lab, succeeded};
use warren_e2e::netns;
use warren_e2e::runtime::{Latencies, Runtime, call, fresh_netns};

const PODS: usize = 100;

pub(super) fn run() -> Result<()> {
    let lab = Lab::up("bench-cni", &["--nodes", "1", "--pods", "0"])?;
    let runtime = Runtime::new(&lab, "node-1")?;
    // One to warm the page cache and the sockets, for either side.
    runtime.add_many(1, 1)?;
    runtime.del_many(1, 1)?;
    let (_, add) = runtime.add_many(PODS, 1)?;
    let del = runtime.del_many(PODS, 1)?;
    lab.done()?;

    let (peer_add, peer_del) = netns::join(std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        peer()
    }))?;
    println!("CNI, {PODS} pods one after another     p50, p99, max");
    println!("  warren ADD                    {add}");
    println!("  warren DEL                    {del}");
    println!("  bridge+host-local+portmap ADD {peer_add}");
    println!("  bridge+host-local+portmap DEL {peer_del}");
    let ratio = |peer: &Latencies, own: &Latencies| {
        peer.quantile(0.5).as_secs_f64() / own.quantile(0.5).as_secs_f64()
    };
    println!(
        "  warren is {:.1} times as fast to add, {:.1} to delete (p50)",
        ratio(&peer_add, &add),
        ratio(&peer_del, &del)
    );
    Ok(())
}

/// The reference plugins, in the calling thread's network namespace.
fn peer() -> Result<(Latencies, Latencies)> {
    let dir = tempfile::tempdir()?;
    let plugins = ["/usr/lib/cni", "/opt/cni/bin"].iter().map(Path::new).find(|d| d.join("bridge").is_file());
    let plugins =
        plugins.context("the reference plugins; type: apt-get install -y containernetworking-plugins")?;
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "peer0", "isGateway": true, "ipMasq": false,
        "ipam": {"type": "host-local", "dataDir": dir.path(), "ranges": [[{"subnet": "10.99.0.0/16"}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}
    });
    let portmap = json!({"cniVersion": "1.0.0", "name": "peer", "type": "portmap", "snat": true});
    let chain = [(plugins.join("bridge"), bridge), (plugins.join("portmap"), portmap)];
    one(&chain, plugins, usize::MAX, &fresh_netns()?)?;
    let namespaces: Vec<File> = (0..PODS).map(|_| fresh_netns()).collect::<Result<_>>()?;
    let (mut add, mut del) = (Vec::new(), Vec::new());
    let mut results = Vec::new();
    for (n, ns) in namespaces.iter().enumerate() {
        let start = Instant::now();
        results.push(one(&chain, plugins, n, ns)?);
        add.push(start.elapsed());
    }
    for (n, ns) in namespaces.iter().enumerate() {
        del.push(remove(&chain, plugins, n, ns, &results[n])?);
    }
    Ok((add.into(), del.into()))
}

type Chain = [(PathBuf, Value)];

fn plugin(verb: &str, program: &Path, dir: &Path, n: usize, ns: &File, config: &Value) -> Result<String> {
    let (id, dir) = (format!("peer-{n}"), dir.display().to_string());
    let netns = format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
    let env = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &id),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &dir),
        ("CNI_NETNS", &netns),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ];
    succeeded(&format!("{} {verb}", program.display()), &call(program, &env, config.to_string().as_bytes())?)
}

/// ADD through the chain, each plugin with the result of the one before.
fn one(chain: &Chain, dir: &Path, n: usize, ns: &File) -> Result<Value> {
    let mut result = Value::Null;
    for (program, config) in chain {
        let mut config = config.clone();
        if !result.is_null() {
            config["prevResult"] = result;
        }
        result = serde_json::from_str(&plugin("ADD", program, dir, n, ns, &config)?)?;
    }
    ensure!(result["ips"].is_array(), "the reference plugins gave no address: {result}");
    Ok(result)
}

fn remove(chain: &Chain, dir: &Path, n: usize, ns: &File, result: &Value) -> Result<Duration> {
    let start = Instant::now();
    for (program, config) in chain.iter().rev() {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        plugin("DEL", program, dir, n, ns, &config)?;
    }
    Ok(start.elapsed())
}
