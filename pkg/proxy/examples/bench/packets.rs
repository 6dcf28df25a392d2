//! Connections and bytes through a ClusterIP, beside the same pod dialled directly, with 10,000 Services loaded.

use crate::Figures;
use crate::cluster::Cluster;
use crate::pods::{PORTS, SERVER, connections, median, pair, serve, throughput};
use anyhow::Result;
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const ROUNDS: usize = 7;

pub(crate) fn measure() -> Result<Figures> {
    let (client, server) = pair()?;
    let cluster = Cluster::new(10_000)?;
    cluster.start();
    cluster.loaded()?;
    let service = SocketAddr::new(cluster.serve(20_000, SERVER)?, 80);
    let direct = SocketAddr::new(IpAddr::V4(SERVER), PORTS[1]);
    let received = Arc::new(AtomicU64::new(0));
    serve(server, received.clone())?;
    let thread = std::thread::spawn(move || {
        setns(&client, CloneFlags::CLONE_NEWNET)?;
        let mut rates = [Vec::new(), Vec::new()];
        let mut bytes = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS {
            // In turns, and each first as often as the other.
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let at = [direct, service][which];
                rates[which].push(connections(at)?);
                bytes[which].push(throughput(at, &received)?);
            }
        }
        anyhow::Ok([rates, bytes])
    });
    let [rates, bytes] = thread.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    let compare = |[direct, service]: [Vec<f64>; 2]| {
        let (direct, service) = (median(direct), median(service));
        json!({ "direct": direct.round(), "cluster_ip": service.round(), "ratio": (service / direct * 1000.0).round() / 1000.0 })
    };
    Ok(vec![
        ("connections a second, 10,000 Services".into(), compare(rates)),
        ("Mbit/s of one stream, 10,000 Services".into(), compare(bytes)),
    ])
}
