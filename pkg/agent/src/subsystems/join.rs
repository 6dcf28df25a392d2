//! Joining a server, once; tried for ever, and nothing waits for it. Then the certificate is kept good.

use super::Shared;
use crate::config::{AgentConfig, ApiChoice, TokenSource};
use crate::files;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use warren_source::ApiAccess;
use warren_source::backoff::Backoff;
use warren_source::join::{self, Identity, JoinToken};
use warren_types::{HealthCell, Secret, defaults};

/// Longest wait while the server cannot be reached.
const CEILING_TEMPORARY: Duration = Duration::from_secs(2);
/// Longest wait when somebody has to do something first: a new token, another name.
const CEILING: Duration = Duration::from_secs(30);

/// The identity of an earlier join, now with the server that the configuration names.
pub(crate) fn known(config: &AgentConfig) -> Option<ApiAccess> {
    let path = config.identity_path();
    let text = std::fs::read_to_string(&path).ok()?;
    let access = Some(ApiAccess::Kubeconfig(path.clone()));
    let ApiChoice::Join { server: Some(server), .. } = &config.api else { return access };
    let Ok(mut kubeconfig) = serde_json::from_str::<serde_json::Value>(&text) else { return access };
    if let Some(known) = kubeconfig.pointer_mut("/clusters/0/cluster/server")
        && known.as_str() != Some(server)
    {
        tracing::info!(before = %known, now = %server, "the server has another address; its authority must be the same");
        *known = server.clone().into();
        if let Err(error) = files::write(&path, format!("{kubeconfig:#}\n").as_bytes(), 0o600) {
            tracing::warn!(%error, "the identity keeps the old address");
        }
    }
    access
}

/// Between two looks at the certificate, and two tries to renew it.
const LOOK: Duration = Duration::from_secs(6 * 3600);
/// A certificate that is good for less is renewed: a third of its life.
const RENEWED_BELOW: i64 = defaults::CERTIFICATE_DAYS as i64 * 24 * 3600 / 3;

/// Joins when there is no identity yet; renews the one there is in time.
pub(super) async fn run(
    shared: Shared,
    health: HealthCell,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut backoff = Backoff::new(Duration::from_millis(250), CEILING);
    while shared.access.borrow().is_none() {
        let attempt = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            a = attempt(&shared) => a,
        };
        let wait = match attempt {
            Ok(identity) => match keep(&shared, &identity) {
                Ok(()) => break,
                Err(reason) => {
                    health.degraded(reason);
                    backoff.next_wait()
                }
            },
            Err((reason, temporary)) => {
                if health.get().message != reason {
                    tracing::warn!(%reason, "not joined yet; trying again");
                }
                health.degraded(reason);
                backoff.next_wait_below(if temporary { CEILING_TEMPORARY } else { CEILING })
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
    health.ready();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = look(&shared, &health) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Renews the certificate when less than a third of its life is left; one that has ended needs a token again.
async fn look(shared: &Shared, health: &HealthCell) {
    let text = std::fs::read_to_string(shared.config.identity_path()).map(Secret::new);
    let Some(identity) = text.ok().and_then(|t| Identity::from_kubeconfig(t.expose())) else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let left = identity.seconds_left(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if left >= RENEWED_BELOW {
        return health.ready();
    }
    let next = if left > 0 {
        join::renew(&identity, &shared.config.node_name).await.map_err(|e| e.to_string())
    } else {
        attempt(shared)
            .await
            .map_err(|(reason, _)| format!("the certificate of this node has ended: {reason}"))
    };
    match next.and_then(|next| keep(shared, &next)) {
        Ok(()) => {
            tracing::info!("the certificate of this node was renewed");
            health.ready();
        }
        Err(reason) => {
            tracing::warn!(%reason, days_left = left / 86_400, "the certificate of this node could not be renewed; trying again");
            health.degraded(format!("certificate: {reason}"));
        }
    }
}

/// One try; the failure in words, and whether it may pass by itself.
async fn attempt(shared: &Shared) -> Result<Identity, (String, bool)> {
    let ApiChoice::Join { server: Some(server), token: Some(source) } = &shared.config.api else {
        return Err(("there is neither an identity nor a --server with a --token to join".into(), false));
    };
    let text = match source {
        TokenSource::Value(token) => token.clone(),
        TokenSource::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Secret::new(text),
            Err(e) => return Err((format!("token file {}: {e}", path.display()), true)),
        },
    };
    let token = JoinToken::parse(text.expose()).map_err(|e| (e.to_string(), false))?;
    join::join(server, &token, &shared.config.node_name, &shared.keys.node_password)
        .await
        .map_err(|e| (e.to_string(), e.is_temporary()))
}

/// Brings the identity to disk, then tells the others.
fn keep(shared: &Shared, identity: &Identity) -> Result<(), String> {
    let path = shared.config.identity_path();
    files::write(&path, identity.kubeconfig().expose().as_bytes(), 0o600).map_err(|e| e.to_string())?;
    tracing::info!(server = %identity.server, node = %shared.config.node_name, "joined");
    shared.access.send_replace(Some(ApiAccess::Kubeconfig(path)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Facts, Origin, RawConfig};

    #[test]
    fn a_server_that_moved_is_found_at_its_new_address() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = RawConfig::default();
        let token = format!("K10{}::node:secret", "0".repeat(64));
        let said = [("data-dir", dir.path().to_str().unwrap()), ("server", "192.0.2.9"), ("token", &token)];
        for (k, v) in said {
            raw.say(k, Origin::Flag, vec![v.into()]);
        }
        let facts = Facts { hostname: "a".into(), in_cluster: false, has_identity: |_| true };
        let config = raw.validate(&facts).unwrap();
        assert_eq!(known(&config), None);
        let old = r#"{"clusters":[{"cluster":{"server":"https://192.0.2.1:6443"}}],"users":[1]}"#;
        files::write(&config.identity_path(), old.as_bytes(), 0o600).unwrap();
        assert_eq!(known(&config), Some(ApiAccess::Kubeconfig(config.identity_path())));
        let now: serde_json::Value =
            serde_json::from_slice(&std::fs::read(config.identity_path()).unwrap()).unwrap();
        assert_eq!(now["clusters"][0]["cluster"]["server"], "https://192.0.2.9:6443");
        assert_eq!(now["users"][0], 1);
    }
}
