//! What a whole agent holds in memory, with every subsystem, on a node of a lab with its real API: with 100 Services of two
//! endpoints, and with 10,000. Once they came one by one, and once more after a restart, which reads them from the store.

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::time::Duration;
use warren_e2e::eventually;
use warren_e2e::lab::Lab;

const SIZES: [usize; 2] = [100, 10_000];
const NODE: &str = "node-1";
/// Requests at a time.
const AT_ONCE: usize = 16;
/// How long the agent may take to have all of them.
const SETTLED: Duration = Duration::from_secs(120);
/// Memory is read when nothing has changed for so long: agents give back every 30 s what they needed for a moment.
const REST: Duration = Duration::from_secs(40);

pub(super) fn run(as_json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut lines = Vec::new();
    for size in SIZES {
        let lab = Lab::up("bench-memory", &["--nodes", "1", "--pods", "0"])?;
        let kubeconfig = lab.lab(&["kubeconfig"])?;
        runtime.block_on(fill(&kubeconfig, size))?;
        settled(&lab, size)?;
        lines.push(("as they came", size, memory(&lab)?));
        lab.lab(&["kill", NODE, "--process", "agent"])?;
        settled(&lab, size)?;
        lines.push(("after a restart", size, memory(&lab)?));
        lab.done()?;
    }
    if as_json {
        let all = lines.iter().map(|(when, size, memory)| {
            json!({"services": size, "when": when, "memory_mib": memory.resident, "anonymous_mib": memory.anonymous,
                   "most_mib": memory.most})
        });
        println!("{:#}", all.collect::<Value>());
        return Ok(());
    }
    println!("The agent, all subsystems           MiB   of it anonymous   at most");
    for (when, size, Memory { resident, anonymous, most }) in lines {
        println!("{size:>6} Services, {when:<16} {resident:>5} {anonymous:>17} {most:>9}");
    }
    Ok(())
}

struct Memory {
    resident: u64,
    anonymous: u64,
    most: u64,
}

fn memory(lab: &Lab) -> Result<Memory> {
    std::thread::park_timeout(REST);
    let found = lab.processes(NODE, &["warren", "agent"])?;
    let [pid] = found.as_slice() else { anyhow::bail!("{} processes are the agent: {found:?}", found.len()) };
    let status = lab.exec(NODE, &["cat", &format!("/proc/{pid}/status")])?;
    let mib = |field: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context(field.to_owned())?;
        let kib: u64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse()?;
        Ok(kib / 1024)
    };
    Ok(Memory { resident: mib("VmRSS")?, anonymous: mib("RssAnon")?, most: mib("VmHWM")? })
}

/// Waits until the proxy has them all.
fn settled(lab: &Lab, size: usize) -> Result<()> {
    let all = || {
        let status = lab.agent_status(NODE)?;
        let services = status.pointer("/services/proxy/services").and_then(Value::as_u64).unwrap_or_default();
        ensure!(usize::try_from(services)? >= size, "{services} of {size} Services");
        Ok(())
    };
    eventually(SETTLED, all).map(drop)
}

async fn fill(kubeconfig: &str, size: usize) -> Result<()> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
    let client = Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?)?;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    stream::iter((0..size).map(anyhow::Ok))
        .try_for_each_concurrent(AT_ONCE, |number| {
            let (services, slices) = (services.clone(), slices.clone());
            async move {
                let name = format!("service-{number}");
                let object = json!({
                    "metadata": {"name": name, "labels": {"app": name}},
                    "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
                });
                services.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                let end = |n: usize| format!("10.42.{}.{}", n / 250 % 250, n % 250 + 2);
                let endpoint = |n: usize| {
                    json!({"addresses": [end(n)], "conditions": {"ready": true}, "nodeName": NODE,
                        "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("{name}-{n}")}})
                };
                let object = json!({
                    "metadata": {"name": format!("{name}-x"), "labels": {"kubernetes.io/service-name": name}},
                    "addressType": "IPv4",
                    "ports": [{"port": 8080, "protocol": "TCP"}],
                    "endpoints": [endpoint(2 * number), endpoint(2 * number + 1)],
                });
                slices.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                Ok(())
            }
        })
        .await
}
