//! What the other scenarios stand on: without it, their failures would tell nothing.

use crate::battery::{Battery, FAMILIES, FLEET, NODES, PORT};
use crate::eventually;
use anyhow::{Result, ensure};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

/// Pods answer each other, nodes and the outside by their own addresses, and objects become endpoints.
///
/// # Errors
/// When they do not.
pub fn fleet_answers(b: &Battery) -> Result<()> {
    for v6 in FAMILIES {
        for from in ["n1a", "n2b", "node-3"] {
            for to in FLEET {
                let target = SocketAddr::new(b.address(to, v6)?, PORT);
                b.tcp(from, target).seen_as_itself()?.within(Duration::from_secs(10)).reaches(&[to])?;
                b.udp(from, target).seen_as_itself()?.reaches(&[to])?;
            }
        }
        let nobody = SocketAddr::new(b.address("n2a", v6)?, 9);
        b.tcp("n1a", nobody).is_refused()?;
        b.udp("n1a", nobody).is_refused()?;
    }
    let server = b.serve("node-2", "host", &["--tcp", "7070", "--udp", "7070"])?;
    for v6 in FAMILIES {
        let target = SocketAddr::new(b.address("node-2", v6)?, 7070);
        for from in ["outside", "n1a", "node-1", "node-2", "n2a"] {
            b.tcp(from, target).reaches(&["host"])?;
            b.udp(from, target).reaches(&["host"])?;
        }
    }
    drop(server);
    let scope = b.scope("fleet")?;
    scope.service("web", json!({}))?;
    scope.members("web", &FLEET)?;
    scope.members("web", &NODES)?;
    let ready = |wanted: usize| {
        eventually(Duration::from_secs(3), || {
            let all = scope.endpoints("web")?;
            let ready = all.iter().filter(|(_, ready)| *ready).count();
            ensure!(ready == wanted, "{ready} of {} endpoints are ready, not {wanted}: {all:?}", all.len());
            Ok(())
        })
    };
    ready(18)?;
    scope.ready("web-n1a", false)?;
    ready(16)?;
    scope.terminate("web-n1b")?;
    ready(14)?;
    scope.remove("web-n1b")?;
    scope.ready("web-n1a", true)?;
    ready(16)?;
    Ok(())
}
