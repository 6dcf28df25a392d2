//! Endpoints that come, are not ready, end; and Services that are somebody else's.

use super::both;
use crate::battery::{Battery, FAMILIES, Member, PORT};
use anyhow::Result;
use serde_json::json;

/// Endpoints count while they are ready.
///
/// # Errors
/// When it is not so.
pub fn readiness(b: &Battery) -> Result<()> {
    let scope = b.scope("readiness")?;
    let service = scope.service("web", json!({}))?;
    scope.members("web", &["n1a", "n2a"])?;
    let reach = |servers: &[&str]| -> Result<()> {
        FAMILIES.into_iter().try_for_each(|v6| {
            both(b, "n3b", service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        })
    };
    reach(&["n1a", "n2a"])?;
    scope.ready("web-n1a", false)?;
    reach(&["n2a"])?;
    scope.ready("web-n2a", false)?;
    b.tcp("n3b", service.at(false, 80)?).is_refused()?;
    scope.ready("web-n1a", true)?;
    reach(&["n1a"])?;
    scope.ready("web-n2a", true)?;
    reach(&["n1a", "n2a"])
}

/// Ending endpoints that still serve are used when no ready one is left, and only then; the same where policy Local leaves
/// no ready one on the node.
///
/// # Errors
/// When it is not so.
pub fn terminating_endpoints(b: &Battery) -> Result<()> {
    let scope = b.scope("terminating")?;
    let service = scope.service("web", json!({"type": "NodePort"}))?;
    let local = scope.service(
        "local",
        json!({"type": "NodePort", "externalTrafficPolicy": "Local", "selector": {"app": "web"}}),
    )?;
    scope.members("web", &["n1a", "n2a"])?;
    let reach = |servers: &[&str]| -> Result<()> {
        FAMILIES.into_iter().try_for_each(|v6| {
            both(b, "n3b", service.at(v6, 80)?).into_iter().try_for_each(|e| e.reaches(servers).map(drop))
        })
    };
    reach(&["n1a", "n2a"])?;
    scope.terminate("web-n2a")?;
    reach(&["n1a"])?;
    // On node-2 it is the only one: what a load balancer still sends there is served.
    let drained = (b.address("node-2", false)?, local.node_port(0)?).into();
    b.tcp("outside", drained).seen_as_itself()?.reaches(&["n2a"])?;
    scope.terminate("web-n1a")?;
    reach(&["n1a", "n2a"])?;
    // One that does not serve any more is no fall-back.
    scope.ready("web-n1a", false)?;
    reach(&["n2a"])?;
    scope.remove("web-n2a")?;
    b.tcp("n3b", service.at(false, 80)?).is_refused()?;
    b.udp("n3b", service.at(true, 80)?).is_refused()?;
    Ok(())
}

/// `publishNotReadyAddresses`.
///
/// # Errors
/// When such endpoints are not used.
pub fn not_ready_addresses(b: &Battery) -> Result<()> {
    let scope = b.scope("not-ready")?;
    let service = scope.service("web", json!({"publishNotReadyAddresses": true}))?;
    scope.members("web", &["n1a"])?;
    scope.member(&Member { app: "web", place: "n2a", ready: false, ports: &[] })?;
    for v6 in FAMILIES {
        both(b, "n3b", service.at(v6, 80)?)
            .into_iter()
            .try_for_each(|e| e.reaches(&["n1a", "n2a"]).map(drop))?;
    }
    Ok(())
}

/// Services labelled as another proxy's or nobody's, and headless ones, are not touched; with the label gone they are
/// served.
///
/// # Errors
/// When it is not so.
pub fn foreign_labels(b: &Battery) -> Result<()> {
    let scope = b.scope("labels")?;
    scope.members("web", &["n1a"])?;
    let spec = json!({"selector": {"app": "web"}, "type": "NodePort"});
    let labels = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
    let own = scope.service("own", spec.clone())?;
    b.tcp("n3b", own.at(false, 80)?).reaches(&["n1a"])?;
    for (n, label) in labels.into_iter().enumerate() {
        let name = format!("foreign-{n}");
        let foreign = scope.labelled_service(&name, json!({label: "other"}), spec.clone())?;
        // One that came later is served: this one has been seen and left alone.
        let later = scope.service(&format!("later-{n}"), spec.clone())?;
        b.tcp("n3b", later.at(false, 80)?).reaches(&["n1a"])?;
        b.tcp("n3b", foreign.at(false, 80)?).is_dropped()?;
        b.tcp("outside", (b.address("node-1", false)?, foreign.node_port(0)?).into()).is_refused()?;
        b.objects().merge(
            "Service",
            scope.namespace(),
            &name,
            &json!({"metadata": {"labels": {label: null}}}),
        )?;
        b.tcp("n3b", foreign.at(false, 80)?).reaches(&["n1a"])?;
        b.objects().merge(
            "Service",
            scope.namespace(),
            &name,
            &json!({"metadata": {"labels": {label: "other"}}}),
        )?;
        b.tcp("n3b", foreign.at(false, 80)?).is_dropped()?;
    }
    // A headless Service with a port that the fleet serves takes nothing from the pods' own addresses.
    scope.service("headless", json!({"clusterIP": "None", "selector": {"app": "web"}}))?;
    b.tcp("n3b", (b.address("n1a", false)?, PORT).into()).seen_as_itself()?.reaches(&["n1a"])?;
    Ok(())
}
