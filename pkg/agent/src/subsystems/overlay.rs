//! Starts `warren_overlay`, and pins what it says of the tunnels to the board.

use super::Shared;
use crate::board::Tunnels;
use crate::config::TunnelBackend;
use crate::status::TunnelView;
use crate::supervisor::SubsystemError;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use warren_netlink::nft::Nft;
use warren_overlay::{BackendChoice, Deps, OverlayConfig, StatusSnapshot, Tables};
use warren_types::HealthCell;

/// Runs the overlay.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), SubsystemError> {
    let config = OverlayConfig {
        node_name: shared.config.node_name.clone(),
        listen_port: shared.config.tunnel_port,
        backend: match shared.config.tunnel_backend {
            TunnelBackend::Auto => BackendChoice::Auto,
            TunnelBackend::Kernel => BackendChoice::Kernel,
            TunnelBackend::Userspace => BackendChoice::Userspace,
        },
        mtu: shared.config.mtu,
        run_dir: shared.config.run_dir.clone(),
        private_key: shared.keys.private_key.clone(),
        program: OverlayConfig::own_program(),
    };
    let record = shared.sysctls.clone();
    let deps = Deps {
        tables: Tables::of(&shared.store),
        netlink: shared.netlink.clone(),
        nft: Nft::current()?,
        status: shared.overlay.clone(),
        note_sysctl: Arc::new(move |key, old| record.note(key, old).map_err(std::io::Error::other)),
    };
    let mut seen = shared.overlay.subscribe();
    let show = async {
        loop {
            let snapshot = seen.borrow_and_update().clone();
            shared.board.set_tunnels(tunnels(&snapshot));
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        ended = warren_overlay::run(config, deps, health, stop) => Ok(ended?),
        () = show => Ok(()),
    }
}

/// The overlay's words in those of the board.
fn tunnels(snapshot: &StatusSnapshot) -> Tunnels {
    let peers = snapshot.peers.iter().map(|p| {
        let note = match p.unanswered {
            Some(since) => format!("no answer for {}", crate::status::age(since.as_secs())),
            None if p.endpoint.is_none() => {
                "waits to be called: it has no endpoint that can be reached".into()
            }
            None => String::new(),
        };
        let view = TunnelView {
            endpoint: p.endpoint.map(|e| e.to_string()),
            handshake_seconds: p.handshake_age.map(|a| a.as_secs()),
            received_bytes: p.rx_bytes,
            sent_bytes: p.tx_bytes,
            note,
        };
        (p.public_key, view)
    });
    Tunnels {
        backend: snapshot.backend.map(|b| format!("{b}, MTU {}", snapshot.mtu)).unwrap_or_default(),
        peers: peers.collect(),
    }
}
