//! Starts `warren_cni` when pods can be attached: the guard is in the kernel and the node has podCIDRs. Installs the
//! plugin, and writes the conflist once the socket is served.

use super::{Shared, ipam, policy};
use crate::files;
use crate::supervisor::SubsystemError;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use warren_cni::{CniConfig, Engine, EngineConfig};
use warren_ipam::Pool;
use warren_netlink::nft::Nft;
use warren_types::{HealthCell, HealthState, defaults};

/// Name of the network in the conflist.
pub(super) const NETWORK: &str = "warren";
/// Calls worked on side by side.
const AT_ONCE: usize = 32;
/// How soon a state is looked at again.
const TICK: Duration = Duration::from_millis(20);
/// How often the plugin and the conflist are looked at: another installer may have removed them.
const KEEP: Duration = Duration::from_secs(10);
/// How often the overlay's health is looked at.
const OVERLAY_LOOK: Duration = Duration::from_millis(500);
/// MTU of pods for the moment before the overlay knows better: what the smallest usual path carries.
const FIRST_MTU: u32 = 1280;

/// Runs the CNI server.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let pool = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        pool = ready(&shared, &health) => pool,
    };
    let mtu = watch::Sender::new(shared.config.mtu.or(shared.overlay.mtu()).unwrap_or(FIRST_MTU));
    let cut_off = watch::Sender::new(None);
    let engine = Engine::new(
        EngineConfig {
            network: NETWORK.into(),
            mtu: mtu.subscribe(),
            cut_off: cut_off.subscribe(),
            boot_id: shared.boot_id.clone(),
            at_once: AT_ONCE,
        },
        shared.netlink.clone(),
        Nft::current()?,
        Arc::new(ipam::Adapter(pool)),
        Arc::new(policy::Adapter::new(&shared)),
    );
    let config = CniConfig {
        socket: shared.config.run_dir.join(defaults::CNI_SOCKET),
        queue_dir: shared.config.run_dir.join(defaults::CNI_DEL_QUEUE),
        stats: shared.board.calls().clone(),
    };
    tokio::select! {
        ended = warren_cni::serve(config.clone(), engine, health.clone(), stop) => Ok(ended?),
        () = follow_mtu(&shared, &mtu) => Ok(()),
        () = follow_overlay(&shared, &cut_off) => Ok(()),
        () = installed(&shared, &config, &health) => Ok(()),
    }
}

/// Waits for what attaching a pod needs, and says what is missing.
async fn ready(shared: &Shared, health: &HealthCell) -> Pool {
    loop {
        let pool = shared.pool.get().filter(|p| !p.pod_cidrs().is_empty());
        match pool {
            Some(pool) if shared.overlay.get().guarded => return pool.clone(),
            Some(_) => {
                health.set(HealthState::Starting, "waiting for the guard against clear text (see overlay)")
            }
            None => health.set(HealthState::Starting, "waiting for this node's podCIDRs (see ipam)"),
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Hands the overlay's MTU on to new pods.
async fn follow_mtu(shared: &Shared, mtu: &watch::Sender<u32>) {
    let mut seen = shared.overlay.subscribe();
    loop {
        seen.borrow_and_update();
        if let Some(now) = shared.config.mtu.or(shared.overlay.mtu()) {
            mtu.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tells the engine whether the overlay has failed and is not up again.
async fn follow_overlay(shared: &Shared, cut_off: &watch::Sender<Option<String>>) {
    loop {
        let now = shared.board.failure_of("overlay");
        cut_off.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::time::sleep(OVERLAY_LOOK).await;
    }
}

/// Puts plugin and conflist in place once the server answers, and keeps them there.
async fn installed(shared: &Shared, config: &CniConfig, health: &HealthCell) {
    while health.get().state == HealthState::Starting {
        tokio::time::sleep(TICK).await;
    }
    let mut said = String::new();
    loop {
        let (bin, conf) = (shared.config.cni_bin_dir.clone(), shared.config.cni_conf_dir.clone());
        let conflist = warren_cni::conflist(NETWORK, &config.socket, &config.queue_dir);
        let done = tokio::task::spawn_blocking(move || install(&bin, &conf, &conflist)).await;
        let result = done.unwrap_or_else(|e| Err(e.to_string()));
        match result {
            Ok(()) => said.clear(),
            Err(error) => {
                if said != error {
                    tracing::error!(%error, "container runtimes cannot find the plugin; trying again");
                    said.clone_from(&error);
                }
                health.degraded(error);
            }
        }
        tokio::time::sleep(if said.is_empty() { KEEP } else { Duration::from_secs(1) }).await;
        if !said.is_empty() {
            health.ready();
        }
    }
}

/// The plugin first: a conflist that names a missing program stops every pod.
fn install(bin: &Path, conf: &Path, conflist: &str) -> Result<(), String> {
    // The link, not what it points to: after an upgrade in place that name would lead to the new file.
    let own = Path::new("/proc/self/exe");
    let real = std::env::current_exe().map_err(|e| format!("own program: {e}"))?;
    let source = if real.exists() { real.as_path() } else { own };
    let plugin = bin.join(defaults::CNI_PLUGIN);
    if files::install(source, &plugin).map_err(|e| e.to_string())? {
        tracing::info!(path = %plugin.display(), "installed the CNI plugin");
    }
    // Runtimes want a plugin of this name before they ask for a network; one of somebody else's does as well.
    let loopback = bin.join(defaults::CNI_LOOPBACK);
    if files::link_unless_there(defaults::CNI_PLUGIN, &loopback).map_err(|e| e.to_string())? {
        tracing::info!(path = %loopback.display(), "there was no loopback plugin: Warren's program is it");
    }
    let path = conf.join(defaults::CNI_CONFLIST);
    if files::write(&path, conflist.as_bytes(), 0o644).map_err(|e| e.to_string())? {
        tracing::info!(path = %path.display(), "pods can be attached: wrote the CNI configuration");
    }
    Ok(())
}
