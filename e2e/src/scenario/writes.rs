//! The server dies under writes: what it acknowledged is there when it comes back.

use crate::Lab;
use anyhow::{Context as _, Result, anyhow, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Config, ResourceExt as _};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 8;
/// Writes that must have been acknowledged since the server came back before it is killed again.
const BETWEEN_KILLS: usize = 120;
/// A server that is away for longer does not come back.
const AWAY: Duration = Duration::from_secs(30);
/// So long a request may hang: its connection may have died with the server.
const ANSWER: Duration = Duration::from_secs(5);

/// What one writer was told: the version of each object it created, and of its head, which it changes with each.
#[derive(Default)]
struct Told {
    created: BTreeMap<String, u64>,
    /// The last change of the head: its number and the version.
    head: Option<(usize, u64)>,
    /// So many changes of the head were acknowledged.
    changes: usize,
    /// The last number asked for.
    asked: usize,
}

fn version(object: &ConfigMap) -> Result<u64> {
    object.resource_version().context("no resourceVersion")?.parse().context("resourceVersion")
}

fn number(object: &ConfigMap) -> Option<usize> {
    object.data.as_ref()?.get("n")?.parse().ok()
}

/// Longer than one record of a store, and different for each number: half of it would be noticed.
fn data(n: usize) -> BTreeMap<String, String> {
    [("n".to_owned(), n.to_string()), ("text".to_owned(), format!("{n:07}-").repeat(700))].into()
}

fn named(name: &str, n: usize) -> ConfigMap {
    let mut object = ConfigMap { data: Some(data(n)), ..ConfigMap::default() };
    object.metadata.name = Some(name.to_owned());
    object
}

async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T> {
    Ok(tokio::time::timeout(ANSWER, request).await.context("no answer")??)
}

/// Kills the server `kills` times while objects are created and changed. Every acknowledged write is there afterwards,
/// with the version that was told; one that was not acknowledged is there wholly or not at all; and a watch that was
/// open all the time ends with what is there.
///
/// # Errors
/// When an acknowledged write is missing, or the server does not come back.
pub fn server_killed_under_writes(lab: &Lab, kills: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(writes(lab, kills))
}

async fn client(lab: &Lab) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&lab.lab(&["kubeconfig"])?)?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?)?)
}

async fn writes(lab: &Lab, kills: usize) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client(lab).await?, "default");
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let told: Vec<Mutex<Told>> = (0..WRITERS).map(|_| Mutex::default()).collect();
    let seen = Mutex::new(BTreeMap::new());
    let lists = AtomicUsize::new(0);

    let writers = told.iter().enumerate().map(|(w, told)| write(&api, w, told, &stop, &acknowledged));
    let writers = futures::future::try_join_all(writers);
    let watch = watch(api.clone(), &seen, &lists);
    let killing = async {
        let mut longest = Duration::ZERO;
        for _ in 0..kills {
            let before = acknowledged.load(Ordering::Relaxed);
            until("writes are acknowledged", || {
                acknowledged.load(Ordering::Relaxed) >= before + BETWEEN_KILLS
            })
            .await?;
            tokio::task::block_in_place(|| lab.lab(&["kill", "node-1", "--process", "server"]))?;
            let (killed, before) = (Instant::now(), acknowledged.load(Ordering::Relaxed));
            // Answers that were on their way when it died are few.
            until("the server takes writes again", || {
                acknowledged.load(Ordering::Relaxed) > before + WRITERS
            })
            .await?;
            longest = longest.max(killed.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>(longest)
    };
    let work = async { tokio::try_join!(killing, writers) };
    let checked = async {
        let (longest, _) = work.await?;
        let there = answered(api.list(&ListParams::default())).await?;
        let count = check(&told, &there.items, there.metadata.resource_version.as_deref())?;
        let there: BTreeMap<String, u64> =
            there.items.iter().map(|o| Ok((o.name_any(), version(o)?))).collect::<Result<_>>()?;
        until("the watch ends with what is there", || seen.lock().is_ok_and(|s| *s == there)).await?;
        println!(
            "server kill -9 x{kills} under writes: {count} acknowledged writes, none lost; writes again after at most {} \
             ms; the watch listed {} times",
            longest.as_millis(),
            lists.load(Ordering::Relaxed)
        );
        Ok(())
    };
    tokio::select! {
        result = checked => result,
        result = watch => Err(result.err().unwrap_or_else(|| anyhow!("the watch ended"))),
    }
}

async fn until(what: &str, mut check: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !check() {
        ensure!(begun.elapsed() < AWAY, "not within {AWAY:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Creates one object after another, and changes the head after each.
async fn write(
    api: &Api<ConfigMap>,
    writer: usize,
    told: &Mutex<Told>,
    stop: &AtomicBool,
    acknowledged: &AtomicUsize,
) -> Result<()> {
    let lock = || told.lock().map_err(|_| anyhow!("a writer panicked"));
    let head = format!("head-{writer}");
    let mut have_head = false;
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("write-{writer}-{n:06}");
        lock()?.asked = n;
        // Whether a write without an answer happened is found out at the end; the next one has another name.
        match answered(api.create(&PostParams::default(), &named(&name, n))).await {
            Ok(object) => {
                let version = version(&object)?;
                lock()?.created.insert(name, version);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        let changed = if have_head {
            let merge = serde_json::json!({ "data": data(n) });
            answered(api.patch(&head, &PatchParams::default(), &Patch::Merge(merge))).await
        } else {
            answered(api.create(&PostParams::default(), &named(&head, n))).await
        };
        match changed {
            Ok(object) => {
                have_head = true;
                let mut told = lock()?;
                told.head = Some((n, version(&object)?));
                told.changes += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // A head whose creation was not answered may be there.
            Err(_) => have_head |= answered(api.get_opt(&head)).await.is_ok_and(|h| h.is_some()),
        }
    }
    Ok(())
}

/// Follows the objects, as an informer does: over lost connections, and with a new list where the server's history ends.
async fn watch(api: Api<ConfigMap>, seen: &Mutex<BTreeMap<String, u64>>, lists: &AtomicUsize) -> Result<()> {
    let mut fresh = BTreeMap::new();
    let mut events = watcher(api, watcher::Config::default()).boxed();
    loop {
        // An error is a server that is away; the next poll tries again.
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let mut seen = seen.lock().map_err(|_| anyhow!("the checker panicked"))?;
        match event {
            watcher::Event::Init => {
                lists.fetch_add(1, Ordering::Relaxed);
                fresh.clear();
            }
            watcher::Event::InitApply(o) => drop(fresh.insert(o.name_any(), version(&o)?)),
            watcher::Event::InitDone => {
                for (name, version) in seen.iter() {
                    let now = fresh.get(name);
                    ensure!(now >= Some(version), "{name} was seen at {version}, a later list has {now:?}");
                }
                *seen = std::mem::take(&mut fresh);
            }
            watcher::Event::Apply(o) => drop(seen.insert(o.name_any(), version(&o)?)),
            watcher::Event::Delete(o) => drop(seen.remove(&o.name_any())),
        }
    }
}

/// Compares what is there with what the writers were told; how many writes those were.
fn check(told: &[Mutex<Told>], there: &[ConfigMap], listed: Option<&str>) -> Result<usize> {
    let listed: u64 = listed.context("the list has no version")?.parse()?;
    let mut found: BTreeMap<String, &ConfigMap> = there.iter().map(|o| (o.name_any(), o)).collect();
    let (mut count, mut versions) = (0, BTreeMap::new());
    for (writer, told) in told.iter().enumerate() {
        let told = told.lock().map_err(|_| anyhow!("a writer panicked"))?;
        for (name, told) in &told.created {
            let object =
                found.get(name).with_context(|| format!("{name} was acknowledged at {told} and is gone"))?;
            ensure!(version(object)? == *told, "{name}: version {} instead of {told}", version(object)?);
            count += 1;
        }
        let (n, at) = told.head.context("no change of the head was acknowledged")?;
        let head = found.remove(&format!("head-{writer}")).context("a head is gone")?;
        let now = number(head).context("a head without a number")?;
        ensure!(
            now >= n && version(head)? >= at,
            "head-{writer}: {n} was acknowledged at {at}, {now} is there"
        );
        ensure!(now > n || version(head)? == at, "head-{writer}: another version for the same change");
        ensure!(head.data == Some(data(now)), "head-{writer}: half a change is there");
        count += told.changes;
        let prefix = format!("write-{writer}-");
        for (name, object) in found.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            let n = number(object).with_context(|| format!("{name} has no number"))?;
            ensure!(n <= told.asked && object.data == Some(data(n)), "{name}: half an object is there");
        }
    }
    for object in there {
        let version = version(object)?;
        ensure!(version <= listed, "{} is newer than its list", object.name_any());
        if let Some(other) = versions.insert(version, object.name_any()) {
            return Err(anyhow!("{} and {other} have the same version {version}", object.name_any()));
        }
    }
    Ok(count)
}
