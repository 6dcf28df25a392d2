//! The API server: durable writes beside etcd-server on the same disk, reads, watches, and memory at the scale target.
//!
//! etcd is spoken to through its own JSON gateway, without TLS and authentication; Warren as its clients speak to it.

use super::Running;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use warren_e2e::eventually;
use warren_e2e::lab::warren_bin;
use warren_e2e::runtime::Latencies;

/// Bytes of an object's text.
const TEXT: usize = 1000;
const AT_ONCE: [usize; 2] = [1, 32];
/// The site of 100 nodes that the server is made for.
const SITE: [(&str, usize); 3] = [("nodes", 100), ("services", 2_000), ("pods", 5_000)];
const WATCHERS: usize = 100;
const EVENTS: usize = 200;

pub(super) fn run(as_json: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(measure())?;
    if as_json {
        println!("{:#}", report.json());
    } else {
        report.print();
    }
    Ok(())
}

/// So many operations in so long.
struct Rate {
    who: &'static str,
    what: &'static str,
    at_once: usize,
    count: usize,
    took: Duration,
}

impl Rate {
    fn per_second(&self) -> f64 {
        f64::from(u32::try_from(self.count).unwrap_or(u32::MAX)) / self.took.as_secs_f64()
    }
}

struct Report {
    rates: Vec<Rate>,
    fan_out: Latencies,
    fill: Duration,
    settled: Duration,
    slices: usize,
    list: Duration,
    empty_mib: u64,
    full_mib: u64,
}

impl Report {
    fn json(&self) -> Value {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let rates = self.rates.iter().map(|r| {
            json!({"who": r.who, "what": r.what, "at_once": r.at_once, "count": r.count, "per_second": r.per_second()})
        });
        json!({
            "rates": rates.collect::<Value>(),
            "watch": {"watchers": WATCHERS, "events": EVENTS, "p50_ms": ms(self.fan_out.quantile(0.5)),
                      "p99_ms": ms(self.fan_out.quantile(0.99))},
            "site": {"objects": SITE.iter().map(|(k, n)| json!({"kind": k, "count": n})).collect::<Value>(),
                     "fill_ms": ms(self.fill), "settled_ms": ms(self.settled), "endpoint_slices": self.slices,
                     "list_pods_ms": ms(self.list), "memory_before_mib": self.empty_mib, "memory_mib": self.full_mib},
        })
    }

    fn print(&self) {
        println!("API server: objects of {TEXT} bytes            at once        a second");
        for r in &self.rates {
            println!("  {:<12} {:<28} {:>7}      {:>10.0}", r.who, r.what, r.at_once, r.per_second());
        }
        for at_once in AT_ONCE {
            let of = |who: &str| {
                self.rates.iter().find(|r| r.who == who && r.at_once == at_once && r.what == DURABLE)
            };
            if let (Some(own), Some(etcd)) = (of(WARREN), of(ETCD)) {
                let ratio = own.per_second() / etcd.per_second();
                println!("  {WARREN} / {ETCD}, durable writes, {at_once} at once: {ratio:.2}");
            }
        }
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        println!(
            "Watch: from the request to {WATCHERS} watchers: p50 {:.1} ms, p99 {:.1} ms ({EVENTS} writes)",
            ms(self.fan_out.quantile(0.5)),
            ms(self.fan_out.quantile(0.99))
        );
        let site: Vec<String> = SITE.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!(
            "Site of {}: written in {:.1} s, {} EndpointSlices {:.1} s later, list of all pods {:.0} ms, memory {} MiB \
             (before: {} MiB)",
            site.join(", "),
            self.fill.as_secs_f64(),
            self.slices,
            self.settled.as_secs_f64(),
            ms(self.list),
            self.full_mib,
            self.empty_mib
        );
    }
}

const WARREN: &str = "warren";
const ETCD: &str = "etcd";
const DURABLE: &str = "durable writes";

fn memory_mib(process: &Running) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("VmRSS")?.parse()?;
    Ok(kib / 1024)
}

fn start(program: &Path, args: &[&str], log: &Path) -> Result<Running> {
    let log = std::fs::File::create(log)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Running(command.spawn().with_context(|| format!("start {}", program.display()))?))
}

async fn measure() -> Result<Report> {
    let dir = tempfile::tempdir()?;
    eprintln!("etcd: durable writes");
    let mut rates = etcd(dir.path()).await?;
    let kubeconfig = dir.path().join("kubeconfig");
    let text = |p: &Path| p.to_string_lossy().into_owned();
    let server = start(
        &warren_bin(),
        &[
            "server",
            "--data-dir",
            &text(&dir.path().join("warren")),
            "--listen",
            "127.0.0.1:0",
            "--write-kubeconfig",
            &text(&kubeconfig),
            // Ranges for documentation and benchmarks, which no host has a route to.
            "--cluster-cidr",
            "198.18.0.0/16",
            "--service-cidr",
            "198.19.0.0/16",
        ],
        &dir.path().join("server.log"),
    )?;
    let client = client(&kubeconfig)
        .await
        .with_context(|| std::fs::read_to_string(dir.path().join("server.log")).unwrap_or_default())?;
    let empty_mib = memory_mib(&server)?;
    eprintln!("warren: durable writes, reads");
    rates.extend(writes(&client).await?);
    rates.extend(reads(&client).await?);
    eprintln!("warren: {WATCHERS} watchers");
    let fan_out = fan_out(&client).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.delete_collection(&Default::default(), &ListParams::default()).await?;

    eprintln!("warren: a site of {SITE:?}");
    let start = Instant::now();
    fill(&client).await?;
    let fill = start.elapsed();
    let start = Instant::now();
    let slices = settled(&client).await?;
    let settled = start.elapsed();
    let start = Instant::now();
    let pods: Api<Pod> = Api::all(client.clone());
    ensure!(pods.list(&ListParams::default()).await?.items.len() == 5_000, "not every pod is listed");
    let list = start.elapsed();
    Ok(Report { rates, fan_out, fill, settled, slices, list, empty_mib, full_mib: memory_mib(&server)? })
}

/// A client as users have it.
async fn client(kubeconfig: &Path) -> Result<Client> {
    let path = kubeconfig.to_owned();
    let read = move || Ok(kube::config::Kubeconfig::read_from(&path)?);
    let found = tokio::task::spawn_blocking(move || eventually(Duration::from_secs(10), read)).await??;
    let config = Config::from_custom_kubeconfig(found.0, &Default::default()).await?;
    let client = Client::try_from(config)?;
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(e) = client.apiserver_version().await {
        ensure!(Instant::now() < until, "the server does not answer: {e}");
        tokio::task::yield_now().await;
    }
    Ok(client)
}

/// Does `count` things, `at_once` of them at a time.
async fn rate<F: Future<Output = Result<()>>>(
    (who, what): (&'static str, &'static str),
    (count, at_once): (usize, usize),
    each: impl Fn(usize) -> F,
) -> Result<Rate> {
    let start = Instant::now();
    stream::iter((0..count).map(Ok)).try_for_each_concurrent(at_once, each).await?;
    Ok(Rate { who, what, at_once, count, took: start.elapsed() })
}

fn counts(at_once: usize) -> (usize, usize) {
    (if at_once == 1 { 500 } else { 4_000 }, at_once)
}

async fn writes(client: &Client) -> Result<Vec<Rate>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mut rates = Vec::new();
    for at_once in AT_ONCE {
        let create = |n: usize| {
            let api = api.clone();
            async move {
                let mut map = ConfigMap::default();
                map.metadata.name = Some(format!("m{at_once}-{n}"));
                map.data = Some([("text".to_owned(), "w".repeat(TEXT))].into());
                api.create(&PostParams::default(), &map).await?;
                Ok(())
            }
        };
        rates.push(rate((WARREN, DURABLE), counts(at_once), create).await?);
    }
    Ok(rates)
}

async fn reads(client: &Client) -> Result<Vec<Rate>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mut rates = Vec::new();
    for at_once in AT_ONCE {
        let get = |n: usize| {
            let api = api.clone();
            async move {
                api.get(&format!("m1-{}", n % 500)).await?;
                Ok(())
            }
        };
        rates.push(rate((WARREN, "reads"), counts(at_once), get).await?);
    }
    Ok(rates)
}

/// How long it takes from the request of a write until each of the watchers has read its event.
async fn fan_out(client: &Client) -> Result<Latencies> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let from = api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let begun = Arc::new(Instant::now());
    let (seen, mut sightings) = tokio::sync::mpsc::channel(WATCHERS);
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..WATCHERS {
        let mut events = api.watch(&WatchParams::default(), &from).await?.boxed();
        let (seen, begun) = (seen.clone(), begun.clone());
        watchers.spawn(async move {
            let mut left = EVENTS;
            while let Some(event) = events.try_next().await? {
                if let WatchEvent::Added(map) = event {
                    let at = begun.elapsed();
                    let sent: u64 = map.data.context("data")?.get("at").context("at")?.parse()?;
                    seen.send(at.saturating_sub(Duration::from_nanos(sent))).await?;
                    left -= 1;
                    if left == 0 {
                        return Ok::<_, anyhow::Error>(());
                    }
                }
            }
            anyhow::bail!("a watch ended early")
        });
    }
    let mut all = Vec::new();
    for n in 0..EVENTS {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(format!("e{n}"));
        map.data = Some([("at".to_owned(), begun.elapsed().as_nanos().to_string())].into());
        api.create(&PostParams::default(), &map).await?;
        // One after the other: it is the latency that is asked for, not how much goes through.
        for _ in 0..WATCHERS {
            let limit = Duration::from_secs(10);
            all.push(tokio::time::timeout(limit, sightings.recv()).await?.context("the watchers ended")?);
        }
    }
    while let Some(ended) = watchers.join_next().await {
        ended??;
    }
    Ok(Latencies::from(all))
}

fn object<K: DeserializeOwned>(kind: &str, n: usize) -> Result<K> {
    let app = n % 2_000;
    Ok(serde_json::from_value(match kind {
        "nodes" => json!({"metadata": {"name": format!("node-{n}")}}),
        "services" => json!({"metadata": {"name": format!("service-{n}")}, "spec": {
            "selector": {"app": format!("app-{n}")}, "ports": [{"port": 80, "targetPort": 8080}]}}),
        _ => {
            json!({"metadata": {"name": format!("pod-{n}"), "labels": {"app": format!("app-{app}"), "tier": "web"}},
            "spec": {"nodeName": format!("node-{}", n % 100), "containers": [{"name": "c", "image": "registry.example/app:1",
                "ports": [{"containerPort": 8080}]}]}})
        }
    })?)
}

async fn fill(client: &Client) -> Result<()> {
    for (kind, count) in SITE {
        let create = |n: usize| {
            let client = client.clone();
            async move {
                let post = PostParams::default();
                match kind {
                    "nodes" => {
                        Api::<Node>::all(client).create(&post, &object(kind, n)?).await?;
                    }
                    "services" => {
                        Api::<Service>::default_namespaced(client).create(&post, &object(kind, n)?).await?;
                    }
                    _ => {
                        let pods = Api::<Pod>::default_namespaced(client);
                        let mut pod: Pod = object(kind, n)?;
                        pods.create(&post, &pod).await?;
                        let ip = format!("198.18.{}.{}", n % 100, 2 + n / 100);
                        pod.status = serde_json::from_value(json!({"phase": "Running", "podIP": ip,
                            "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}))?;
                        let name = pod.metadata.name.clone().unwrap_or_default();
                        let patch = json!({"status": pod.status});
                        let patch = kube::api::Patch::Merge(&patch);
                        pods.patch_status(&name, &Default::default(), &patch).await?;
                    }
                }
                Ok(())
            }
        };
        stream::iter((0..count).map(Ok::<_, anyhow::Error>)).try_for_each_concurrent(32, create).await?;
    }
    Ok(())
}

/// Waits until every pod is in an EndpointSlice; how many of these there are.
async fn settled(client: &Client) -> Result<usize> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let all = slices.list(&ListParams::default()).await?.items;
        let found: usize = all
            .iter()
            .filter(|o| o.metadata.name.as_deref() != Some("kubernetes"))
            .map(|o| o.endpoints.as_ref().map_or(0, Vec::len))
            .sum();
        if found == 5_000 {
            return Ok(all.len());
        }
        ensure!(Instant::now() < until, "{found} of 5000 endpoints after two minutes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Raw writes to etcd: each is on its disk when it is answered.
async fn etcd(dir: &Path) -> Result<Vec<Rate>> {
    let data = dir.join("etcd").to_string_lossy().into_owned();
    let (port, peer) = (free_port()?, free_port()?);
    let (at, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    let mut args = vec!["--data-dir", &data, "--listen-client-urls", &at, "--advertise-client-urls", &at];
    args.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    let cluster = format!("default={peer}");
    args.extend(["--initial-cluster", &cluster]);
    let _etcd = start(Path::new("etcd"), &args, &dir.join("etcd.log"))?;
    let until = Instant::now() + Duration::from_secs(20);
    while Gateway::connect(port).await.is_err() {
        ensure!(Instant::now() < until, "etcd does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut rates = Vec::new();
    for at_once in AT_ONCE {
        let mut gateways = Vec::new();
        for _ in 0..at_once {
            gateways.push(tokio::sync::Mutex::new(Gateway::connect(port).await?));
        }
        let put = |n: usize| {
            let gateways = &gateways;
            async move {
                // As many as are at work at once: each waits for its own in turn.
                let mut gateway = gateways[n % gateways.len()].lock().await;
                gateway.put(&format!("/registry/m{at_once}-{n}"), &"w".repeat(TEXT)).await
            }
        };
        rates.push(rate((ETCD, DURABLE), counts(at_once), put).await?);
    }
    Ok(rates)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A connection to the JSON gateway of etcd.
struct Gateway(BufReader<TcpStream>);

impl Gateway {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    async fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string();
        let head = format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all((head + &body).as_bytes()).await?;
        let (mut length, mut line, mut first) = (0usize, String::new(), true);
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line).await? > 0, "etcd closed the connection");
            if first {
                ensure!(line.contains(" 200 "), "etcd: {line}");
                first = false;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(())
    }
}
